"""One request on its way: to its candidate, to the baseline where that fails or takes too long, and back.

A request has at most two runs at once: the candidate's, and the last resort, which is the baseline's (or that of the
variant the client chose). The first good answer wins. Whatever the candidate does, the failure stays with it, and the
client waits no longer than the baseline needs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from anabranch.bandit.snapshot import Route
from anabranch.router.backends import Answered, Backend, Backends, Done, Submitted
from anabranch.router.classes import LEVEL
from anabranch.router.failures import told
from anabranch.router.hedge import Hedge
from anabranch.router.queries import Query
from anabranch.store.records import Flag
from anabranch.variants.batching import Failure, FailureKind, QueueFull, Timing
from anabranch.variants.errors import VariantError
from anabranch.wire.deadlines import TICK_S
from anabranch.wire.seam import Call, Status

NO_UNIT: Final = bytes(16)
_NONE: Final = Flag.NONE


class Home(Protocol):
    """What a flight needs of the worker that it is in."""

    backends: Backends
    hedge: Hedge
    counts: Counter[str]

    def loop_time(self) -> float:
        """The event loop's clock, for deadlines, in seconds."""

    def stopwatch(self) -> float:
        """The clock of latencies, in seconds."""

    def watch(self, flight: Flight, since: float | None = None) -> int:
        """Have `flight.expire` called when its candidate has used its time; answers what `unwatch` takes.

        Args:
            flight: The request.
            since: When its candidate was asked, on the event loop's clock; None: now.
        """

    def unwatch(self, flight: Flight, tick: int) -> None:
        """Forget a flight that has ended."""

    def complain(self, variant: str, what: str) -> None:
        """Log that a variant failed."""

    def reply(
        self, flight: Flight, variant: str, answer: Answered
    ) -> tuple[bytes, bytes, list[tuple[str, str]]]:
        """The serialized answer in two parts, of which the second may be empty, and the metadata that goes with it.

        Raises:
            KeyError: The variant left out an output.
            ValueError: An output is of a type that the protocol lacks, or a remote answer cannot be decoded.
        """

    def identity(self, flight: Flight, variant: str, klass: int) -> list[tuple[str, str]]:
        """What tells the client which variant answered and how to refer to the answer."""

    def record(self, flight: Flight, status: Status, latency_ms: float, timing: Timing) -> None:
        """Count a request that has ended, and write it down if it was assigned."""

    def answered(self, flight: Flight, answer: Answered) -> None:
        """An answer was sent."""

    def lost(self, flight: Flight, status: Status) -> None:
        """Nobody answered."""


class Flight:
    """One request.

    Attributes:
        arm: Number of the assigned arm; 0 is the baseline, or nobody was assigned.
        variant: Name of the assigned or chosen variant.
        failure: Status of the assigned candidate, once it has failed.
        level: Of priority, 1 is the most urgent.
        took_ms: What the client waited for its answer; infinite where it got none.
        is_hedged: The baseline was asked before the candidate had answered.
        parts: Takes the parts of an answer that comes in parts, but the last; None where the client wants it whole.
    """

    __slots__ = (
        "_candidate",
        "_home",
        "_last",
        "_last_at",
        "_last_failure",
        "_speaker",
        "_tick",
        "arm",
        "arrived",
        "call",
        "deadline",
        "failure",
        "flags",
        "is_hedged",
        "is_over",
        "level",
        "model",
        "parts",
        "propensity",
        "query",
        "route",
        "sequence",
        "took_ms",
        "unit",
        "variant",
    )

    def __init__(
        self,
        home: Home,
        call: Call,
        query: Query,
        route: Route,
        variant: str,
        deadline: float | None,
        arrived: float,
    ) -> None:
        self._home = home
        self.call = call
        self.query = query
        self.route = route
        self.model = query.plan.model.name
        self.variant = variant
        self.deadline = deadline
        self.arrived = arrived
        self.arm = 0
        self.propensity = 1.0
        self.flags = _NONE
        self.unit = NO_UNIT
        self.sequence = 0
        self.failure: Status | None = None
        self.level = LEVEL
        self.took_ms = math.inf
        self.is_hedged = self.is_over = False
        self._candidate: Submitted | None = None
        self._last: Submitted | None = None
        self._last_at = arrived
        self._last_failure: tuple[Status, str] | None = None
        self._tick = 0
        self.parts: Callable[[bytes], None] | None = None
        self._speaker = ""

    def start(self) -> None:
        """Send the request to its variant."""
        if self.arm == 0:
            self._resort_to(self.variant)
            return
        try:
            backend = self._backend(self.variant)
            reason = backend.unfit()
            if reason is not None:
                raise VariantError(reason)
            self._candidate = self._submit(backend, self.variant, self._candidate_done)
            self._tick = self._home.watch(self)
        except VariantError as error:
            self._charge(self._refusal(self.variant, error)[0])

    def take_over(self, submit: Callable[[Done], Submitted], since: float) -> None:
        """Go on with a request that the express path has sent to its variant.

        Args:
            submit: Gets who hears of its end, and answers what was submitted.
            since: When it was sent, on the event loop's clock.
        """
        if self.arm == 0:
            self._last = submit(self._last_done)
        else:
            self._candidate = submit(self._candidate_done)
            self._tick = self._home.watch(self, since)

    def expire(self) -> None:
        """The candidate has used its time: ask the baseline too."""
        if self._candidate is None or self.is_over:
            return
        self.is_hedged = True
        self._home.counts["hedged"] += 1
        self._backend(self.variant).late(self._home.stopwatch() - self.arrived)
        self._resort_to(self.route.baseline)

    def cancel(self) -> None:
        """The client does not wait any more."""
        if self.is_over:
            return
        deadline = self.call.deadline
        # A client keeps its own time: what it takes back at its deadline may come a moment before that of the same length here.
        is_late = deadline is not None and self._home.loop_time() >= deadline - TICK_S
        status = Status.DEADLINE_EXCEEDED if is_late else Status.CANCELLED
        self._end()
        self._home.lost(self, status)

    def _backend(self, variant: str) -> Backend:
        backend = self._home.backends.get((self.model, variant))
        if backend is None:
            raise VariantError(f"variant {variant!r} is not served")
        return backend

    def _submit(self, backend: Backend, variant: str, done: Done) -> Submitted:
        part = partial(self._part, variant) if self.parts is not None else None
        return backend.submit(self.query, priority=self.level, deadline=self.deadline, done=done, part=part)

    def _part(self, variant: str, answer: Answered) -> None:
        """A run has something to say before its end: from now on it has the word, and the other run is not needed."""
        if self.is_over:
            return
        if not self._speaker:
            self._take_the_word(variant)
        elif self._speaker != variant:
            return
        try:
            message, tail, _ = self._home.reply(self, variant, answer)
        except (KeyError, ValueError) as error:
            self._home.complain(variant, f"it breaks its manifest: {error!r}")
            self._interrupted(Status.INTERNAL, f"variant {variant} failed on this request")
            return
        assert self.parts is not None, "parts come to those who take them"
        self.parts(message + tail)

    def _take_the_word(self, variant: str) -> None:
        self._speaker = variant
        if self._tick:
            self._home.unwatch(self, self._tick)
            self._tick = 0
        self._observe(variant)
        if self.arm and variant == self.variant and self._last is not None:
            self._last.cancel()
            self._last = None
        elif variant != self.variant and self._candidate is not None:
            self._overtake()

    def _observe(self, variant: str) -> None:
        if variant == self.route.baseline and self.route.experiment_id:
            self._home.hedge.observe(self.model, variant, self._home.stopwatch() - self._last_at)

    def _interrupted(self, status: Status, message: str) -> None:
        """A run failed after it had begun to answer: nobody can go on for it."""
        if self._speaker == self.variant and self.arm:
            self.failure = status
        self._over(status, message)

    def _overtake(self) -> None:
        """The baseline answers before the candidate: the candidate is charged, and not waited for."""
        assert self._candidate is not None
        self._candidate.cancel()
        self._candidate = None
        self.failure = Status.DEADLINE_EXCEEDED
        self.flags |= Flag.MASKED
        self._home.counts["masked"] += 1

    def _candidate_done(self, result: Answered | Failure) -> None:
        self._candidate = None
        if self.is_over:
            return
        if not isinstance(result, Failure):
            self._answer(self.variant, result)
        elif result.kind is FailureKind.INPUT:
            self.refuse(result.message)
        elif self._speaker:
            self._home.complain(self.variant, result.message)
            self._interrupted(*told(self.variant, result))
        elif result.kind is FailureKind.DEADLINE and self._last is None and self._last_failure is None:
            self._over(*told(self.variant, result))
        else:
            status, _ = told(self.variant, result)
            self._home.complain(self.variant, result.message)
            self._charge(status)

    def _charge(self, status: Status) -> None:
        """The candidate has failed: its request goes to the baseline, the failure stays with the candidate."""
        self.failure = status
        self.flags |= Flag.MASKED
        self._home.counts["masked"] += 1
        if self._last_failure is not None:
            self._over(*self._last_failure)
        elif self._last is None:
            self._resort_to(self.route.baseline)

    def _resort_to(self, variant: str) -> None:
        """Send the request to the last who can answer it."""
        if self.arm:
            self._last_at = self._home.stopwatch()
        try:
            self._last = self._submit(self._backend(variant), variant, self._last_done)
        except VariantError as error:
            self._last_failed(*self._refusal(variant, error))

    def _last_done(self, result: Answered | Failure) -> None:
        self._last = None
        if self.is_over:
            return
        variant = self.route.baseline if self.arm else self.variant
        if isinstance(result, Failure):
            if result.kind is FailureKind.INPUT or result.status == Status.INVALID_ARGUMENT:
                # Who answers in doubt refuses it too: the client's mistake, charged to nobody.
                self.refuse(result.message)
                return
            if result.kind is FailureKind.ERROR:
                self._home.complain(variant, result.message)
            self._last_failed(*told(variant, result))
            return
        if not self._speaker:
            self._observe(variant)
        if self._candidate is not None:
            self._overtake()
        self._answer(variant, result)

    def _last_failed(self, status: Status, message: str) -> None:
        if self._candidate is not None:
            # The candidate may still answer, until the deadline.
            self._last_failure = (status, message)
        else:
            self._over(status, message)

    def _answer(self, variant: str, answer: Answered) -> None:
        try:
            message, tail, identity = self._home.reply(self, variant, answer)
        except (KeyError, ValueError) as error:
            self._home.complain(variant, f"it breaks its manifest: {error!r}")
            if self.arm and variant == self.variant:
                self._charge(Status.INTERNAL)
            else:
                self._last_failed(Status.INTERNAL, f"variant {variant} failed on this request")
            return
        is_masked = self.arm != 0 and variant != self.variant
        self._end()
        latency_ms = self.took_ms = 1000.0 * (self._home.stopwatch() - self.arrived)
        # A candidate that was not waited for has not answered: its own latency is unknown and long.
        self._home.record(
            self,
            self.failure or Status.OK,
            math.inf if is_masked and self.is_hedged else latency_ms,
            answer.timing,
        )
        self.call.reply(message, identity, tail=tail)
        self._home.answered(self, answer)

    def _over(self, status: Status, message: str) -> None:
        """Nothing answered: tell the client, and charge the assigned arm with an infinite latency."""
        self._end()
        self._home.lost(self, status)
        self.call.fail(status, message, self._home.identity(self, self.variant_told, -1))

    def refuse(self, message: str) -> None:
        """The request cannot be answered by anybody: that says nothing about a variant."""
        self._end()
        self._home.counts["refused: INVALID_ARGUMENT"] += 1
        self.call.fail(Status.INVALID_ARGUMENT, message)

    @property
    def variant_told(self) -> str:
        """Who had the last word on a request that nothing answered."""
        if self._speaker:
            return self._speaker
        return self.route.baseline if self.arm and self.failure is not None else self.variant

    def _end(self) -> None:
        self.is_over = True
        if self._tick:
            self._home.unwatch(self, self._tick)
            self._tick = 0
        if self._candidate is not None:
            self._candidate.cancel()
            self._candidate = None
        if self._last is not None:
            self._last.cancel()
            self._last = None

    def _refusal(self, variant: str, error: VariantError) -> tuple[Status, str]:
        """What a variant that takes no request is charged with, and what a client hears of it."""
        if isinstance(error, QueueFull):
            return Status.RESOURCE_EXHAUSTED, f"{variant} is busy, try again later: {error}"
        self._home.complain(variant, f"it takes no work: {error}")
        return Status.UNAVAILABLE, f"{variant} is not served now, try again later"
