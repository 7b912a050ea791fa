"""The port by which the volume of requests is kept: how many came in each stretch of time, for forecasts and for people.

Every server adds what its own workers answered; a store has the sum, so the history outlives servers that come and go.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Protocol

SLOT_S: Final = 300
"""Length of a stretch, in seconds; stretches begin at its multiples since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """What came in one stretch.

    Attributes:
        model: What was asked.
        level: Class of priority: `realtime`, `interactive` or `batch`.
        slot_s: Beginning of the stretch, in seconds since 1970.
        requests: Requests, whatever became of them.
        within: Those that were answered within the class's target.
    """

    model: str
    level: str
    slot_s: int
    requests: int
    within: int


class VolumeStore(Protocol):
    """Where volumes are kept."""

    def add(self, volumes: Collection[Volume]) -> None:
        """Add to what is kept of the same model, class and stretch."""
        ...

    def load(self, since_s: float) -> list[Volume]:
        """All that began at a time or later; by model, class and time."""
        ...

    def forget(self, before_s: float) -> int:
        """Remove what began before a time; answers how many rows."""
        ...


def slot_of(at_s: float) -> int:
    """The stretch that a time is in: its beginning, in seconds since 1970."""
    return int(at_s // SLOT_S) * SLOT_S
