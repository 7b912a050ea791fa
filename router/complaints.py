"""Log lines about failures of the request path: one an interval for each subject, however many requests fail."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

INTERVAL_S: Final = 10.0
_MOST_SUBJECTS: Final = 1024
_log = logging.getLogger(__name__)


class Complaints:
    """Writes what went wrong, but not every time.

    Args:
        loop_time: The event loop's clock, in seconds.
    """

    def __init__(self, loop_time: Callable[[], float]) -> None:
        self._loop_time = loop_time
        self._kept: dict[str, tuple[float, int]] = {}

    def say(self, subject: str, what: str) -> None:
        """Log a failure.

        Args:
            subject: Who failed.
            what: How.
        """
        now = self._loop_time()
        last, unsaid = self._kept.get(subject, (-INTERVAL_S, 0))
        if now - last < INTERVAL_S:
            self._kept[subject] = (last, unsaid + 1)
            return
        if len(self._kept) >= _MOST_SUBJECTS:
            self._kept.clear()
        self._kept[subject] = (now, 0)
        more = f" (and {unsaid} more failures since the last line)" if unsaid else ""
        _log.warning("%s: %s%s", subject, what, more, extra={"subject": subject})
