"""Matrices kept in blocks of low-bit codes: a scale and a minimum for every 32 weights of a row."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from anabranch.variants.errors import BuildError

# Weights that share a scale; the size that GGUF files use.
BLOCK = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """A matrix whose weights are `scale * code + minimum`.

    Args:
        bits: Bits of a code: 4 or 8.
        codes: In [0, 2**bits), shape (rows, columns).
        scales: One a block, shape (rows, columns / BLOCK).
        minimums: The weight of code 0, of the shape of `scales`.
    """

    bits: int
    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    minimums: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows (outputs) and columns (inputs)."""
        rows, columns = self.codes.shape
        return rows, columns

    def dense(self) -> NDArray[np.float32]:
        """The weights, shape (rows, columns)."""
        rows, columns = self.shape
        codes = self.codes.reshape(rows, -1, BLOCK).astype(np.float32)
        weights = codes * self.scales[..., None] + self.minimums[..., None]
        return weights.reshape(rows, columns)

    def packed(self) -> NDArray[np.uint8]:
        """The codes as bytes, shape (rows, blocks, BLOCK * bits / 8); of two codes the first is in the lower half."""
        return pack(self.codes.reshape(len(self.codes), -1, BLOCK), self.bits)

    def zero_points(self) -> NDArray[np.uint8]:
        """The code nearest to weight zero, one a block, shape (rows, blocks)."""
        safe = np.where(self.scales != 0, self.scales, np.float32(1))
        points = np.clip(np.rint(-self.minimums / safe), 0, (1 << self.bits) - 1)
        return points.astype(np.uint8)

    def remainders(self) -> NDArray[np.float32]:
        """What a weight has beyond `scale * (code - zero point)`, one a block, shape (rows, blocks)."""
        return self.minimums + self.zero_points().astype(np.float32) * self.scales


Matrix: TypeAlias = NDArray[np.float32] | Blocks


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes as bytes along the last axis; of two codes of 4 bits the first is in the lower half."""
    if bits == 8:
        return codes
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros_like(codes[..., :1])], axis=-1)
    return np.ascontiguousarray(codes[..., 0::2] | (codes[..., 1::2] << 4))


def dense(matrix: Matrix) -> NDArray[np.float32]:
    """The weights of a matrix however it is kept, shape (rows, columns)."""
    return matrix.dense() if isinstance(matrix, Blocks) else matrix


def stack_rows(matrices: list[Matrix]) -> Matrix:
    """Put matrices with the same inputs under each other; they stay blocks when all of them are, of the same bits."""
    blocks = [matrix for matrix in matrices if isinstance(matrix, Blocks)]
    if len(blocks) < len(matrices) or len({matrix.bits for matrix in blocks}) > 1:
        return np.concatenate([dense(matrix) for matrix in matrices])
    return Blocks(
        bits=blocks[0].bits,
        codes=np.concatenate([matrix.codes for matrix in blocks]),
        scales=np.concatenate([matrix.scales for matrix in blocks]),
        minimums=np.concatenate([matrix.minimums for matrix in blocks]),
    )


def quantize(weights: NDArray[np.float32], bits: int) -> Blocks:
    """Round every block to levels between its smallest and largest weight.

    With 8 bits zero is one of the levels, so that the minimum is a whole number of steps; 4 bits have no level to spare.

    Args:
        weights: Shape (rows, columns).
        bits: 4 or 8.

    Raises:
        BuildError: The columns are no whole number of blocks.
    """
    rows, columns = weights.shape
    if columns % BLOCK:
        raise BuildError(f"a matrix has {columns} columns, blocks need a multiple of {BLOCK}: use fp16")
    cut = weights.reshape(rows, -1, BLOCK).astype(np.float64)
    low, high = cut.min(axis=2), cut.max(axis=2)
    if bits == 8:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    top = (1 << bits) - 1
    scales = (high - low) / top
    # A block of equal weights: its minimum says it all.
    safe = np.where(scales > 0, scales, 1.0)
    if bits == 8:
        low = np.rint(low / safe) * scales
    codes = np.clip(np.rint((cut - low[..., None]) / safe[..., None]), 0, top).astype(np.uint8)
    return Blocks(
        bits=bits,
        codes=codes.reshape(rows, columns),
        scales=scales.astype(np.float32),
        minimums=low.astype(np.float32),
    )
