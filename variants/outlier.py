"""Outlier ejection of one server, after Envoy: so many failures in a row, and it is left alone for a while.

Plain state; the time is an argument. Failures that count are those Envoy takes for a 5xx: the server's own. A request the
server refuses for what is in it (INVALID_ARGUMENT) or for the load (RESOURCE_EXHAUSTED) is none.

Source: https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier
"""

from typing import Final

from anabranch.variants.remote_target import OutlierDetection
from anabranch.wire.seam import Status

FAILURES: Final = frozenset(
    {
        Status.UNKNOWN,
        Status.DEADLINE_EXCEEDED,
        Status.UNIMPLEMENTED,
        Status.INTERNAL,
        Status.UNAVAILABLE,
        Status.DATA_LOSS,
    }
)
"""Statuses that count against a server."""

FAIR_WAIT_S: Final = 1.0
"""Running out of time counts only after this long: a client's short deadline says nothing about the server."""


class Outlier:
    """What is remembered of a server's failures.

    Attributes:
        ejections: How often it was ejected.
    """

    __slots__ = ("_ejected_until", "_in_a_row", "_multiplier", "_policy", "_settled_at", "ejections")

    def __init__(self, policy: OutlierDetection) -> None:
        self._policy = policy
        self._in_a_row = 0
        self._multiplier = 0
        self._ejected_until = 0.0
        self._settled_at = 0.0
        self.ejections = 0

    @property
    def is_suspect(self) -> bool:
        """The last request failed: a success is worth hearing of."""
        return self._in_a_row > 0

    def left_s(self, now: float) -> float:
        """How long the server is still left alone; 0 when it is not."""
        return max(0.0, self._ejected_until - now)

    def heard(self, status: Status, now: float, waited_s: float) -> None:
        """Learn how a request ended.

        Args:
            status: What the server answered, or why there was no answer.
            now: The time, in seconds.
            waited_s: How long the request waited.
        """
        if status not in FAILURES:
            self._in_a_row = 0
        elif status is not Status.DEADLINE_EXCEEDED or waited_s >= FAIR_WAIT_S:
            self._in_a_row += 1
            # What was in flight at an ejection may fail during it: that is no further one.
            if self._in_a_row >= self._policy.consecutive_errors and not self.left_s(now):
                self._eject(now)

    def _eject(self, now: float) -> None:
        if self._multiplier:
            forgiven = int((now - self._settled_at) / self._policy.interval_s)
            self._multiplier = max(0, self._multiplier - forgiven)
        self._multiplier += 1
        self._in_a_row = 0
        self.ejections += 1
        time_s = min(self._policy.base_ejection_time_s * self._multiplier, self._policy.max_ejection_time_s)
        self._ejected_until = self._settled_at = now + time_s
