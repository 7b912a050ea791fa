"""Keeps the volume of requests: what workers report goes to the store a few times a minute, beside everything else.

What a server that is killed had not stored is lost: some seconds of one stretch, which no decision rests on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from anabranch.router.metrics.catalogue import PRIORITIES
from anabranch.store.volume_port import Volume, VolumeStore, slot_of

FLUSH_S: Final = 15.0
KEEP_S: Final = 35 * 86_400.0
"""Five weeks: what a forecast reads, and a week more for people."""
_FORGET_S: Final = 3_600.0


class VolumeKeeper:
    """Adds up requests by model, class and stretch of time.

    Args:
        store: Where they are kept.
        wall_clock: Seconds since 1970.
    """

    def __init__(self, store: VolumeStore, wall_clock: Callable[[], float]) -> None:
        self._store = store
        self._wall_clock = wall_clock
        # Noted on the event loop, stored on a thread.
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str, int], list[int]] = {}
        self._flushed_s = self._forgot_s = wall_clock()

    def note(self, model: str, level: str, requests: int, within: int) -> None:
        """Take requests that have ended just now."""
        with self._lock:
            counts = self._counts.setdefault((model, level, slot_of(self._wall_clock())), [0, 0])
            counts[0] += requests
            counts[1] += within

    def heard(self, metrics: Mapping[str, Sequence[Sequence[Any]]]) -> None:
        """Take a worker's report, as `Tally.take` made it."""
        if not metrics:
            return
        for name, labels, counts, _ in metrics["measured"]:
            if name == PRIORITIES.duration.name:
                self.note(labels[0], labels[1], sum(counts), 0)
        for name, labels, gained in metrics["counted"]:
            if name == PRIORITIES.within.name:
                self.note(labels[0], labels[1], 0, gained)

    def flush(self, *, is_last: bool = False) -> None:
        """Store what was noted, if it is time; what the store refuses is tried again with the next.

        Args:
            is_last: Store it now, as nothing comes after it.
        """
        now = self._wall_clock()
        # A clock that was set back must not stop it.
        if not is_last and 0.0 <= now - self._flushed_s < FLUSH_S:
            return
        self._flushed_s = now
        with self._lock:
            noted, self._counts = self._counts, {}
        try:
            self._store.add(
                [
                    Volume(model=model, level=level, slot_s=slot_s, requests=counts[0], within=counts[1])
                    for (model, level, slot_s), counts in noted.items()
                ]
            )
        except Exception:
            with self._lock:
                for key, counts in noted.items():
                    known = self._counts.setdefault(key, [0, 0])
                    known[0] += counts[0]
                    known[1] += counts[1]
            raise
        if abs(now - self._forgot_s) >= _FORGET_S:
            self._store.forget(now - KEEP_S)
            self._forgot_s = now
