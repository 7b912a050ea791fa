"""Caches of several texts side by side, so that one call of the decoder reads a token of each.

The texts in use are the first ones of the buffers: whoever leaves is replaced by the last one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.variants.llm.kv_cache import HIDDEN, Cache, CacheGeometry


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedBatch:
    """Where one new token of each text goes.

    Args:
        last_rows: The row of each new token, shape (texts,).
        positions: Their positions in their texts, shape (texts, 1).
        visible: 0 for what a token may look at and very negative otherwise, shape (texts, 1, 1, rows); None where the
            order of the rows says it.
    """

    last_rows: NDArray[np.int32]
    positions: NDArray[np.int64]
    visible: NDArray[np.float32] | None

    @property
    def rows(self) -> int:
        """Rows in use of the longest text."""
        return int(self.last_rows.max()) + 1


class BatchCache:
    """Room for several caches.

    Args:
        geometry: The variant's buffers.
        slots: Texts at most.
        rows: Rows of one text's cache at most.
    """

    def __init__(self, geometry: CacheGeometry, slots: int, rows: int) -> None:
        self.slots = slots
        self._geometry, self._rows = geometry, rows
        self.buffers: Any = geometry.allocate_batch(slots, rows)
        self._caches: list[Cache] = []

    @property
    def texts(self) -> int:
        """Texts in use: the first ones of the buffers."""
        return len(self._caches)

    def admit(self, cache: Cache) -> None:
        """Take a text in behind the others; its cache lives here from now on."""
        cache.move(self.buffers[:, :, len(self._caches)])
        self._caches.append(cache)

    def leave(self, text: int) -> None:
        """Forget a text; the last one takes its place."""
        last = self._caches.pop()
        if text < len(self._caches):
            last.move(self.buffers[:, :, text])
            self._caches[text] = last

    def rest(self) -> None:
        """Nobody is in: give the memory back."""
        self.buffers = self._geometry.allocate_batch(self.slots, self._rows)

    def place(self) -> PlacedBatch:
        """Make room for one new token of each text."""
        placed = [cache.place(1) for cache in self._caches]
        rows = np.array([each.rows - 1 for each in placed], np.int32)
        visible: NDArray[np.float32] | None = None
        if placed[0].visible is not None:
            visible = np.full((len(placed), 1, 1, int(rows.max()) + 1), HIDDEN, np.float32)
            for text, each in enumerate(placed):
                visible[text, ..., : each.rows] = each.visible
        positions = np.concatenate([each.positions for each in placed])
        return PlacedBatch(last_rows=rows, positions=positions, visible=visible)
