"""Mirroring: send a sampled request to the candidates as well, compare the replies, record the pairs.

Copies have the lowest priority and are bounded in number and time; what is not copied is counted by reason.
The client's answer never waits for a copy: copying starts after it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from anabranch.bandit.snapshot import Route
from anabranch.router.compare import Comparison, compare, top1
from anabranch.router.recorder import Recorder
from anabranch.store.records import Pair
from anabranch.variants.batcher import Dispatcher
from anabranch.variants.batching import MIRROR, Answer, Failure, FailureKind, QueueFull
from anabranch.variants.errors import VariantError
from anabranch.variants.tensors import Array

MOST_IN_FLIGHT = 256
TIMEOUT_S = 30.0
_INTERNAL = 13
_UNANSWERED = Comparison(agrees=False, max_abs=math.inf, cosine=-1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A request the baseline has answered.

    Attributes:
        inputs: What the client sent, checked.
        rows: Rows of the request.
        outputs: What the baseline answered.
        sequence: Number of the assignment in this lane.
    """

    route: Route
    inputs: Mapping[str, Array]
    rows: int
    outputs: Mapping[str, Array]
    sequence: int


class Mirror:
    """Copies requests of one worker.

    Attributes:
        drops: Copies not made or not finished, by reason.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        recorder: Recorder,
        *,
        wall_clock: Callable[[], float],
        loop_time: Callable[[], float],
        queue_name: Callable[[str, str], str],
    ) -> None:
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._wall_clock = wall_clock
        self._loop_time = loop_time
        self._queue_name = queue_name
        self._in_flight = 0
        self.drops: Counter[str] = Counter()

    def copy(self, original: Original, arms: tuple[int, ...]) -> None:
        """Send the request to the arms; number 0 is the baseline once more, for the noise floor."""
        for arm in arms:
            if self._in_flight >= MOST_IN_FLIGHT:
                self.drops["in flight"] += 1
                continue
            self._send(original, arm)

    def _send(self, original: Original, arm: int) -> None:
        name = self._queue_name(original.route.model, original.route.arms[arm])
        try:
            self._dispatcher.submit(
                name,
                original.inputs,
                original.rows,
                priority=MIRROR,
                deadline=self._loop_time() + TIMEOUT_S,
                done=partial(self._done, original, arm),
            )
        except QueueFull:
            self.drops["queue full"] += 1
        except VariantError:
            self.drops["not served"] += 1
        else:
            self._in_flight += 1

    def _done(self, original: Original, arm: int, result: Answer | Failure) -> None:
        self._in_flight -= 1
        if isinstance(result, Answer):
            self._record(original, arm, 0, compare(result.outputs, original.outputs), top1(result.outputs))
        elif result.kind is FailureKind.ERROR:
            self._record(original, arm, _INTERNAL, _UNANSWERED, -1)
        else:
            # The copy never ran: that says nothing about the candidate.
            self.drops[str(result.kind)] += 1

    def _record(self, original: Original, arm: int, status: int, found: Comparison, klass: int) -> None:
        self._recorder.record(
            Pair(
                at_s=self._wall_clock(),
                experiment=original.route.experiment_id,
                epoch=original.route.epoch,
                arm=arm,
                status=status,
                agrees=found.agrees,
                baseline_top1=top1(original.outputs),
                top1=klass,
                max_abs=found.max_abs,
                cosine=found.cosine,
                sequence=original.sequence,
            )
        )
