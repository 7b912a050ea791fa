"""From kept volumes to one regular series a model and class; pure.

Only whole stretches are in a series: the one that goes on now is not. A stretch in which no server stored anything at all is
a gap, for nobody was there to count, and is bridged in a straight line; one in which others had requests is a true zero.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anabranch.store.volume_port import SLOT_S, Volume, slot_of

Rates = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The requests of one model and class.

    Attributes:
        start_s: Beginning of the first stretch, in seconds since 1970.
        rates: Requests a second, by stretch.
    """

    model: str
    level: str
    start_s: int
    rates: Rates


def series_of(volumes: Collection[Volume], now_s: float) -> list[Series]:
    """The series of all models and classes, each from its own first stretch to the last whole one.

    Args:
        volumes: What is kept.
        now_s: The stretch that this is in is left out, and what comes after it.
    """
    end = slot_of(now_s)
    past = [volume for volume in volumes if volume.slot_s < end]
    counted = {volume.slot_s for volume in past}
    found: dict[tuple[str, str], dict[int, int]] = {}
    for volume in past:
        found.setdefault((volume.model, volume.level), {})[volume.slot_s] = volume.requests
    made = []
    for (model, level), by_slot in sorted(found.items()):
        start = min(by_slot)
        slots = np.arange(start, end, SLOT_S)
        is_known = np.array([slot in counted for slot in slots.tolist()])
        rates = np.array([by_slot.get(slot, 0) / SLOT_S for slot in slots.tolist()])
        # The first is known: it is this series' own.
        rates = np.interp(slots, slots[is_known], rates[is_known])
        made.append(Series(model=model, level=level, start_s=start, rates=rates))
    return made
