"""Replay an encoder as CUDA graphs: one launch instead of a hundred, which is what a small batch waits for.

A graph has fixed shapes, so requests are padded up to a few of them; each is recorded when it is first met.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

Encode: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# Larger batches keep the GPU busy without a graph.
_MAX_ROWS = 64
_MAX_TOKENS = 512
_TOKEN_STEP = 16
_WARM_CALLS = 3


@dataclass(frozen=True, slots=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    ids: Tensor
    mask: Tensor
    logits: Tensor
    embedding: Tensor


def padded_shape(rows: int, tokens: int) -> tuple[int, int] | None:
    """The recorded shape that a batch fits: rows a power of two, tokens a multiple of 16; None where it is too large."""
    if rows > _MAX_ROWS or tokens > _MAX_TOKENS:
        return None
    return 1 << (rows - 1).bit_length(), -(-tokens // _TOKEN_STEP) * _TOKEN_STEP


class GraphReplay:
    """An encoder on a GPU that answers by replaying graphs; not for several threads at once.

    Args:
        encode: The encoder, its tensors on the current CUDA device.
    """

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._recorded: dict[tuple[int, int], _Recorded] = {}

    def __call__(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and embeddings, valid until the next call.

        Args:
            ids: Token ids on the CPU, shape (rows, tokens).
            mask: 1 for a token, 0 for padding, of the same shape.
        """
        rows, tokens = ids.shape
        shape = padded_shape(rows, tokens)
        if shape is None:
            return self._encode(ids.cuda(), mask.cuda())
        recorded = self._recorded.get(shape)
        if recorded is None:
            recorded = self._recorded[shape] = self._record(shape)
        if (rows, tokens) != shape:
            recorded.mask.zero_()
        recorded.ids[:rows, :tokens].copy_(ids, non_blocking=True)
        recorded.mask[:rows, :tokens].copy_(mask, non_blocking=True)
        recorded.graph.replay()
        return recorded.logits[:rows], recorded.embedding[:rows]

    def _record(self, shape: tuple[int, int]) -> _Recorded:
        ids = torch.zeros(shape, dtype=torch.int64, device="cuda")
        mask = torch.ones_like(ids)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_CALLS):
                self._encode(ids, mask)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits, embedding = self._encode(ids, mask)
        return _Recorded(graph, ids, mask, logits, embedding)
