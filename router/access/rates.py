"""Token buckets by caller: how much of something one caller may have, with a bounded number of callers remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

_MOST_CALLERS: Final = 4096


class Rates:
    """Grants amounts at a rate.

    Args:
        per_s: What a caller may have a second, in the long run.
        burst: What it may have at once.
    """

    def __init__(self, *, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, amount: float, now: float) -> bool:
        """Whether a caller may have this much now; taken when it may.

        Args:
            caller: Who.
            amount: How much; more than the burst is never granted.
            now: Any clock that does not go back, in seconds.
        """
        left, at = self._left.get(caller, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._per_s)
        granted = amount <= left
        self._left[caller] = (left - amount if granted else left, now)
        self._left.move_to_end(caller)
        # The longest unheard is forgotten, and would be near a full bucket by now.
        if len(self._left) > _MOST_CALLERS:
            self._left.popitem(last=False)
        return granted


class FeedbackRates:
    """How much feedback one caller may report.

    Args:
        per_s: Outcomes a second, in the long run.
        clock: One that does not go back, in seconds.
    """

    def __init__(self, per_s: float, clock: Callable[[], float]) -> None:
        # One call of the most outcomes that are taken is within everybody's burst.
        self._rates = Rates(per_s=per_s, burst=max(10_000.0, 2 * per_s))
        self._clock = clock

    def may_report(self, caller: str, outcomes: int) -> bool:
        """Whether a caller may report this many outcomes now."""
        return self._rates.take(caller, outcomes, self._clock())
