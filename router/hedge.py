"""When the baseline stands in for a candidate that has not answered yet: early enough to answer within the deadline.

A candidate may use the request's time but for what the baseline needs, and never more than half of it nor more than
`candidate_timeout_s`. What the baseline needs is the 99 % point of its own latest latencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from anabranch.router.recent import RecentQuantile
from anabranch.wire.deadlines import TICK_S

FLOOR_S: Final = 0.010
"""The baseline gets at least this long: twice the grain of the timer, and a busy loop's turn."""
UNKNOWN_S: Final = 0.100
"""What it gets while fewer than `_ENOUGH` of its latencies are known."""

_ENOUGH: Final = 20


class Hedge:
    """The time after which candidates are no longer waited for, in one worker.

    Args:
        candidate_timeout_s: The most that any candidate gets.
    """

    __slots__ = ("_recent", "candidate_timeout_s")

    def __init__(self, candidate_timeout_s: float) -> None:
        self.candidate_timeout_s = candidate_timeout_s
        self._recent: dict[tuple[str, str], RecentQuantile] = {}

    def observe(self, model: str, baseline: str, latency_s: float) -> None:
        """Learn what a baseline's answer took, from its submission."""
        self._of(model, baseline).add(latency_s)

    def observe_all(self, model: str, baseline: str, latencies_s: Sequence[float]) -> None:
        """Learn what several took."""
        self._of(model, baseline).extend(latencies_s)

    def _of(self, model: str, baseline: str) -> RecentQuantile:
        recent = self._recent.get((model, baseline))
        if recent is None:
            recent = self._recent[(model, baseline)] = RecentQuantile(0.99)
        return recent

    def budget_s(self, model: str, baseline: str) -> float:
        """What the baseline needs to answer."""
        recent = self._recent.get((model, baseline))
        if recent is None or len(recent) < _ENOUGH:
            return UNKNOWN_S
        # The timer that asks for it may be late by its grain.
        return max(FLOOR_S, recent.value() + TICK_S)

    def patience_s(self, model: str, baseline: str, left_s: float | None) -> float:
        """How long to wait for a candidate.

        Args:
            model: The request's model.
            baseline: Who stands in.
            left_s: Until the request's deadline; None where it has none.
        """
        if left_s is None:
            return self.candidate_timeout_s
        return min(self.candidate_timeout_s, max(left_s - self.budget_s(model, baseline), left_s / 2.0, 0.0))
