"""The volume of requests in memory."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import replace

from anabranch.store.volume_port import Volume


class MemoryVolumes:
    """`volume_port.VolumeStore` without a database."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str, int], Volume] = {}

    def add(self, volumes: Collection[Volume]) -> None:
        """See `volume_port.VolumeStore.add`."""
        with self._lock:
            for added in volumes:
                key = (added.model, added.level, added.slot_s)
                known = self._kept.get(key)
                self._kept[key] = (
                    added
                    if known is None
                    else replace(
                        known,
                        requests=known.requests + added.requests,
                        within=known.within + added.within,
                    )
                )

    def load(self, since_s: float) -> list[Volume]:
        """See `volume_port.VolumeStore.load`."""
        with self._lock:
            return [volume for _, volume in sorted(self._kept.items()) if volume.slot_s >= since_s]

    def forget(self, before_s: float) -> int:
        """See `volume_port.VolumeStore.forget`."""
        with self._lock:
            old = [key for key in self._kept if key[2] < before_s]
            for key in old:
                del self._kept[key]
            return len(old)
