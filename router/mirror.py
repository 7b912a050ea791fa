"""Mirroring: send a sampled request to the candidates as well, compare the replies, record the pairs.

Copies have the lowest priority and are bounded in number and time; what is not copied is counted by reason.
The client's answer never waits for a copy: copying starts after it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from anabranch.bandit.snapshot import Route
from anabranch.router.backends import Answered, Backend, Backends
from anabranch.router.compare import Comparison, compare, top1
from anabranch.router.failures import told
from anabranch.router.generation import GenerationBackend
from anabranch.router.queries import Query
from anabranch.router.recorder import Recorder
from anabranch.store.records import Pair
from anabranch.variants.batching import MIRROR, Failure, FailureKind, QueueFull
from anabranch.variants.errors import VariantError
from anabranch.variants.tensors import Array

MOST_IN_FLIGHT = 256
TIMEOUT_S = 30.0
_INTERNAL = 13
_UNANSWERED = Comparison(agrees=False, max_abs=math.inf, cosine=-1.0, kl=math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A request the baseline has answered.

    Attributes:
        query: What the client sent, checked.
        answer: What the baseline answered.
        sequence: Number of the assignment in this lane.
    """

    route: Route
    query: Query
    answer: Answered
    sequence: int


class Mirror:
    """Copies requests of one worker.

    Attributes:
        sent: Copies that a variant was given.
        in_flight: Copies under way.
        drops: Copies not made or not finished, by reason.
    """

    def __init__(
        self,
        backends: Backends,
        recorder: Recorder,
        *,
        wall_clock: Callable[[], float],
        loop_time: Callable[[], float],
    ) -> None:
        self._backends = backends
        self._recorder = recorder
        self._wall_clock = wall_clock
        self._loop_time = loop_time
        self.in_flight = 0
        self.sent = 0
        self.drops: Counter[str] = Counter()

    def copy(self, original: Original, arms: tuple[int, ...]) -> None:
        """Send the request to the arms; number 0 is the baseline once more, for the noise floor."""
        for arm in arms:
            if self.in_flight >= MOST_IN_FLIGHT:
                self.drops["in flight"] += 1
                continue
            self._send(original, arm)

    def _send(self, original: Original, arm: int) -> None:
        backend = self._backends.get((original.route.model, original.route.arms[arm]))
        try:
            if backend is None:
                raise VariantError(f"variant {original.route.arms[arm]!r} is not served")
            if backend.unfit() is not None:
                self.drops["not ready"] += 1
                return
            baseline = self._backends.get((original.route.model, original.route.baseline))
            if isinstance(backend, GenerationBackend) is not isinstance(baseline, GenerationBackend):
                # Generated text is compared by logits, which only variants of this process say.
                self.drops["not comparable"] += 1
                return
            self._submit(backend, baseline, original, arm)
        except QueueFull:
            self.drops["queue full"] += 1
        except VariantError:
            self.drops["not served"] += 1
        else:
            self.sent += 1
            self.in_flight += 1

    def _submit(self, backend: Backend, baseline: Backend | None, original: Original, arm: int) -> None:
        deadline = self._loop_time() + TIMEOUT_S
        if isinstance(backend, GenerationBackend):
            backend.compare(
                baseline,
                original.answer,
                sequence=original.sequence,
                deadline=deadline,
                done=partial(self._compared, original, arm),
            )
            return
        backend.submit(
            original.query, priority=MIRROR, deadline=deadline, done=partial(self._done, original, arm)
        )

    def _compared(self, original: Original, arm: int, result: Comparison | Failure) -> None:
        """A candidate has read what the baseline generated."""
        self.in_flight -= 1
        if isinstance(result, Comparison):
            self._record(original, arm, 0, result, -1)
        else:
            self._failed(original, arm, result)

    def _done(self, original: Original, arm: int, result: Answered | Failure) -> None:
        self.in_flight -= 1
        if isinstance(result, Failure):
            self._failed(original, arm, result)
        else:
            self._compare(original, arm, result)

    def _failed(self, original: Original, arm: int, result: Failure) -> None:
        if result.kind is FailureKind.ERROR:
            status, _ = told(original.route.arms[arm], result)
            self._record(original, arm, status, _UNANSWERED, -1)
        else:
            # The copy never ran: that says nothing about the candidate.
            self.drops[str(result.kind)] += 1

    def _compare(self, original: Original, arm: int, answer: Answered) -> None:
        wanted = original.query.plan.wanted
        try:
            theirs = _chosen(original.answer.outputs, wanted)
        except (KeyError, ValueError):
            self.drops["the baseline's answer cannot be read"] += 1
            return
        try:
            ours = _chosen(answer.outputs, wanted)
        except (KeyError, ValueError):
            self._record(original, arm, _INTERNAL, _UNANSWERED, -1)
            return
        self._record(original, arm, 0, compare(ours, theirs), top1(ours))

    def _record(self, original: Original, arm: int, status: int, found: Comparison, klass: int) -> None:
        self._recorder.record(
            Pair(
                at_s=self._wall_clock(),
                experiment=original.route.experiment_id,
                epoch=original.route.epoch,
                arm=arm,
                status=status,
                agrees=found.agrees,
                baseline_top1=top1(_chosen(original.answer.outputs, original.query.plan.wanted)),
                top1=klass,
                max_abs=found.max_abs,
                cosine=found.cosine,
                kl=found.kl,
                sequence=original.sequence,
            )
        )


def _chosen(outputs: Mapping[str, Array], wanted: Sequence[str]) -> Mapping[str, Array]:
    """The outputs that the client asked for: a remote variant gives no others, an in-process one gives all."""
    return {name: outputs[name] for name in wanted} if wanted else outputs
