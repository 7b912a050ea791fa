"""Continuous batching: answers of one variant share the steps of its decoder, and join and leave between two of them.

A round reads at most one chunk of one prompt, the oldest, and then one token of every answer whose prompt is read. So a
long prompt holds the others up by a chunk a token, and never by its whole length.

Source:
    Yu et al. 2022, Orca (iteration-level scheduling); Agrawal et al. 2023, SARATHI (chunked prefills).
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from anabranch.variants.errors import VariantError
from anabranch.variants.llm.generation import Answering, BatchStepper, Finish, Token
from anabranch.variants.llm.kv_cache import Window


@dataclass(slots=True, eq=False)
class Member:
    """One answer in the batch.

    Attributes:
        answering: The answer.
        is_cancelled: Asked before every round; may be called on any thread.
        engine_s: Its share of the decoder's time: the whole of a step that it had alone, half of one with another.
        steps_s: The whole time of the steps that it took part in.
    """

    answering: Answering
    is_cancelled: Callable[[], bool]
    engine_s: float = 0.0
    steps_s: float = 0.0

    @property
    def shared_by(self) -> int:
        """Answers that shared its steps, itself among them: the mean, weighted by time."""
        return max(1, round(self.steps_s / self.engine_s)) if self.engine_s > 0 else 1

    def charge(self, step_s: float, texts: int) -> None:
        """Count a step that it took part in."""
        self.engine_s += step_s / texts
        self.steps_s += step_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a round did for one answer: a token, or an error, which is its end."""

    member: Member
    token: Token | None = None
    error: Exception | None = None


class DecodeBatch:
    """The answers under way of one variant. One thread uses it.

    Args:
        session: The decoder.
        window: What the variant remembers; None for everything.
        slots: Answers at most, prompts that are being read among them.
        context: Most tokens of prompt and answer together.
        clock: Seconds, for shares.
    """

    def __init__(
        self,
        session: BatchStepper,
        window: Window | None,
        *,
        slots: int,
        context: int,
        clock: Callable[[], float],
    ) -> None:
        if slots < 1:
            raise VariantError(f"slots is {slots}, must be at least 1")
        self.slots = slots
        self._session, self._window, self._context, self._clock = session, window, context, clock
        self._reading: deque[tuple[Member, Any]] = deque()
        self._decoding: list[Member] = []
        self._caches: Any = None
        self._is_at_rest = True

    @property
    def size(self) -> int:
        """Answers under way."""
        return len(self._reading) + len(self._decoding)

    def join(self, member: Member) -> None:
        """Take an answer in; its prompt is read from the next round on.

        Raises:
            VariantError: Every slot is taken.
        """
        if self.size == self.slots:
            raise VariantError(f"{self.slots} answers are under way, no further one can join")
        cache = self._session.new_cache(self._window, member.answering.tokens)
        self._reading.append((member, cache))

    def advance(self) -> list[Step]:
        """One round; empty when nothing is under way."""
        steps = self._cancelled()
        if self._reading:
            steps += self._read()
        if self._decoding:
            steps += self._decode()
        if not self._decoding and self._caches is not None and not self._is_at_rest:
            self._caches.rest()
            self._is_at_rest = True
        return steps

    def _cancelled(self) -> list[Step]:
        gone = [member for member, _ in self._reading if member.is_cancelled()]
        self._reading = deque(pair for pair in self._reading if pair[0] not in gone)
        for member in [member for member in self._decoding if member.is_cancelled()]:
            self._leave(member)
            gone.append(member)
        return [Step(member=member, token=Token(id=None, finish=Finish.CANCELLED)) for member in gone]

    def _read(self) -> list[Step]:
        """A chunk of the oldest prompt."""
        member, cache = self._reading[0]
        tokens = member.answering.unread(cache.most_tokens)
        start = self._clock()
        try:
            logits = self._session.step(cache, tokens)
            member.charge(self._clock() - start, 1)
            token = member.answering.read(len(tokens), logits[-1])
        except Exception as error:  # noqa: BLE001  # whatever an engine raises ends this answer, not the others
            self._reading.popleft()
            return [Step(member=member, error=error)]
        if token is None:
            return []
        self._reading.popleft()
        if token.finish is None:
            if self._caches is None:
                self._caches = self._session.new_batch(self._window, self.slots, self._context)
            self._is_at_rest = False
            self._caches.admit(cache)
            self._decoding.append(member)
        return [Step(member=member, token=token)]

    def _decode(self) -> list[Step]:
        """A token of every answer whose prompt is read."""
        members = list(self._decoding)
        start = self._clock()
        try:
            logits = self._session.step_batch(
                self._caches, [member.answering.unread(1)[0] for member in members]
            )
        except Exception as error:  # noqa: BLE001  # the caches may be half written: nobody goes on with them
            self._decoding.clear()
            self._caches = None
            return [Step(member=member, error=error) for member in members]
        took_s = self._clock() - start
        steps = []
        for member, row in zip(members, logits, strict=True):
            member.charge(took_s, len(members))
            try:
                token = member.answering.read(1, row)
            except VariantError as error:
                self._leave(member)
                steps.append(Step(member=member, error=error))
                continue
            assert token is not None, "its prompt is read"
            if token.finish is not None:
                self._leave(member)
            steps.append(Step(member=member, token=token))
        return steps

    def _leave(self, member: Member) -> None:
        """Free its slot; the last one moves there, as in the caches."""
        place = self._decoding.index(member)
        self._caches.leave(place)
        last = self._decoding.pop()
        if last is not member:
            self._decoding[place] = last
