"""The keys and values of one generation: which rows of the buffers hold which tokens, and what a new token may see.

A whole cache keeps every token in order. A window keeps the first tokens of a text, the sinks, and the latest ones: a
row whose token nobody will look at again is filled with the last row's, so that the buffers never grow and nothing
else moves. Keys carry their positions' rotation, so the order of rows means nothing.

Source:
    Xiao et al. 2024, Efficient streaming language models with attention sinks.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# Added to the score of a row that may not be looked at; exp of it is 0, and FP16 can hold it.
HIDDEN = -10_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheGeometry:
    """The buffers of a variant.

    Args:
        layers: Layers, each with a buffer of keys and one of values.
        heads: Key heads.
        size: Elements of one head in a row.
        dtype: numpy's name of their type.
    """

    layers: int
    heads: int
    size: int
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Bytes that one token takes in all layers."""
        return 2 * self.layers * self.heads * self.size * np.dtype(self.dtype).itemsize

    def allocate(self, rows: int) -> NDArray[Any]:
        """Buffers of that many rows, shape (layers, 2, heads, rows, size)."""
        return np.zeros((self.layers, 2, self.heads, rows, self.size), self.dtype)

    def allocate_batch(self, slots: int, rows: int) -> NDArray[Any]:
        """Buffers of several texts, shape (layers, 2, slots, heads, rows, size); rows without use take no memory."""
        return np.zeros((self.layers, 2, slots, self.heads, rows, self.size), self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What a windowed variant remembers.

    Args:
        sinks: The first tokens of a text, kept for good.
        recent: The latest tokens, the current one among them.
    """

    sinks: int
    recent: int

    @property
    def rows(self) -> int:
        """Tokens in the cache at most, between calls."""
        return self.sinks + self.recent


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Where the new tokens of one call go.

    Args:
        rows: Rows in use after the call.
        positions: The new tokens' positions in the text, shape (1, tokens).
        visible: 0 for what a new token may look at and very negative otherwise, shape (1, 1, tokens, rows); None where
            the order of the rows says it.
    """

    rows: int
    positions: NDArray[np.int64]
    visible: NDArray[np.float32] | None


def past_name(layer: int, side: str) -> str:
    """The graph's input for one buffer of the cache; `side` is `key` or `value`."""
    return f"past.{layer}.{side}"


def present_name(layer: int, side: str) -> str:
    """The graph's output for the same buffer."""
    return f"present.{layer}.{side}"


class Cache(Protocol):
    """The cache of one generation."""

    @property
    def buffers(self) -> NDArray[Any]:
        """Keys and values, shape (layers, 2, heads, rows, size)."""
        ...

    @property
    def most_tokens(self) -> int:
        """Tokens that one call may bring."""
        ...

    def place(self, tokens: int) -> Placed:
        """Make room for new tokens, at most `most_tokens`."""
        ...

    def move(self, buffers: NDArray[Any]) -> None:
        """Live in other buffers from now on, which may have fewer or more rows but enough for one further token."""
        ...


class WholeCache:
    """Every token of a text.

    Args:
        geometry: The variant's buffers.
        capacity: Tokens of the text at most.
        most_tokens: Tokens that one call may bring.
    """

    def __init__(self, geometry: CacheGeometry, capacity: int, most_tokens: int) -> None:
        self.buffers = geometry.allocate(capacity)
        self.most_tokens = most_tokens
        self._used = 0

    def place(self, tokens: int) -> Placed:
        """Rows after those in use."""
        positions = np.arange(self._used, self._used + tokens)[None]
        self._used += tokens
        assert self._used <= self.buffers.shape[3], "the caller counts the tokens of a text"
        return Placed(rows=self._used, positions=positions, visible=None)

    def move(self, buffers: NDArray[Any]) -> None:
        """Take the rows in use along."""
        buffers[:, :, :, : self._used] = self.buffers[:, :, :, : self._used]
        self.buffers = buffers


class WindowCache:
    """Sinks and the latest tokens of a text of any length.

    Args:
        geometry: The variant's buffers.
        window: What is remembered.
        most_tokens: Tokens that one call may bring; the first of them still sees its whole window.
    """

    def __init__(self, geometry: CacheGeometry, window: Window, most_tokens: int) -> None:
        # Between calls the window's rows minus the token to come; in a call that many new ones.
        self.buffers = geometry.allocate(window.rows - 1 + most_tokens)
        self.most_tokens = most_tokens
        self._window = window
        self._places: NDArray[np.int64] = np.empty(0, np.int64)
        self._next = 0

    def place(self, tokens: int) -> Placed:
        """Drop what the new tokens cannot see, and put them behind the rest."""
        self._drop()
        positions = np.arange(self._next, self._next + tokens)
        self._next += tokens
        self._places = np.concatenate([self._places, positions])
        seen = self._sees(positions[:, None], self._places[None, :])
        visible = np.where(seen, np.float32(0), np.float32(HIDDEN))[None, None]
        return Placed(rows=len(self._places), positions=positions[None], visible=visible)

    def move(self, buffers: NDArray[Any]) -> None:
        """Take along what the next token sees."""
        self._drop()
        rows = len(self._places)
        buffers[:, :, :, :rows] = self.buffers[:, :, :, :rows]
        self.buffers = buffers

    def _sees(self, token: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether a token looks at another one."""
        recent = (other > token - self._window.recent) | (other < self._window.sinks)
        found: NDArray[np.bool_] = recent & (other <= token)
        return found

    def _drop(self) -> None:
        """Fill rows that the next token does not see with rows from the end."""
        kept = self._sees(np.int64(self._next) + np.zeros(1, np.int64), self._places)
        count = int(kept.sum())
        holes = np.flatnonzero(~kept[:count])
        if len(holes):
            movers = count + np.flatnonzero(kept[count:])
            self.buffers[:, :, :, holes] = self.buffers[:, :, :, movers]
            self._places[holes] = self._places[movers]
        self._places = self._places[:count]


def empty_cache(geometry: CacheGeometry, window: Window | None, tokens: int, most_tokens: int) -> Cache:
    """A cache for one text.

    Args:
        geometry: The variant's buffers.
        window: What the variant remembers; None for everything.
        tokens: The text's tokens at most.
        most_tokens: Tokens that one call may bring.
    """
    if window is None:
        return WholeCache(geometry, tokens, most_tokens)
    return WindowCache(geometry, window, most_tokens)
