"""Replay an encoder as CUDA graphs: one launch instead of a hundred, which is what a small batch waits for.

A graph has fixed shapes, so requests are padded up to a few of them; each is recorded when it is first met. The copies to
the GPU and back are part of a graph, and a large batch runs as two halves side by side: while one waits for a kernel's
last blocks, the other keeps the chip busy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

Encode: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# Larger batches keep the GPU busy without a graph.
_MAX_ROWS = 128
_MAX_TOKENS = 512
_TOKEN_STEP = 16
_WARM_CALLS = 3
# Tokens of a batch from which two halves side by side are faster than the whole.
_SPLIT_TOKENS = 8_192


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A graph, and the pinned memory that it reads and writes.

    Args:
        graph: Replays the copies and the encoder.
        asked: Token ids, then their mask, shape (2, rows, tokens).
        logits: Shape (rows, classes).
        embedding: On the GPU, shape (rows, width).
    """

    graph: torch.cuda.CUDAGraph
    asked: Tensor
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
        most_lanes: Parts of a large batch that run side by side, 1 or 2.
    """

    def __init__(self, encode: Encode, *, most_lanes: int = 2) -> None:
        self._encode = encode
        self._most_lanes = most_lanes
        self._recorded: dict[tuple[int, int], _Recorded] = {}

    def __call__(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits on the CPU, and embeddings that are valid until the next call.

        Args:
            ids: Token ids on the CPU, shape (rows, tokens).
            mask: 1 for a token, 0 for padding, of the same shape.
        """
        rows, tokens = ids.shape
        shape = padded_shape(rows, tokens)
        if shape is None:
            return self._encode(*_sent(torch.stack((ids, mask)).int()))
        recorded = self._recorded.get(shape)
        if recorded is None:
            recorded = self._recorded[shape] = self._record(shape)
        if (rows, tokens) != shape:
            recorded.asked[1].zero_()
        recorded.asked[0, :rows, :tokens].copy_(ids)
        recorded.asked[1, :rows, :tokens].copy_(mask)
        recorded.graph.replay()
        torch.cuda.current_stream().synchronize()
        return recorded.logits[:rows].clone(), recorded.embedding[:rows]

    def _record(self, shape: tuple[int, int]) -> _Recorded:
        rows, tokens = shape
        asked = torch.ones((2, rows, tokens), dtype=torch.int32).pin_memory()
        lanes = self._most_lanes if rows > 1 and rows * tokens >= _SPLIT_TOKENS else 1
        sides = [torch.cuda.Stream() for _ in range(lanes)]  # type: ignore[no-untyped-call]  # torch leaves it untyped
        parts = asked.chunk(lanes, dim=1)
        for side, part in zip(sides, parts, strict=True):
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                # As in the recording: what is compiled for these tensors is found again there.
                for _ in range(_WARM_CALLS):
                    warm = self._encode(*_sent(part))
        torch.cuda.synchronize()
        logits = torch.empty((rows, warm[0].shape[1])).pin_memory()
        embeddings = warm[1].new_empty((rows, warm[1].shape[1]))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            whole = torch.cuda.current_stream()
            answers = logits.chunk(lanes), embeddings.chunk(lanes)
            for side, part, answer, place in zip(sides, parts, *answers, strict=True):
                side.wait_stream(whole)
                with torch.cuda.stream(side):
                    found, embedding = self._encode(*_sent(part))
                    answer.copy_(found, non_blocking=True)
                    place.copy_(embedding)
            for side in sides:
                whole.wait_stream(side)
        return _Recorded(graph, asked, logits, embeddings)


def _sent(part: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and mask on the GPU, each a tensor of its own."""
    return part[0].to("cuda", non_blocking=True), part[1].to("cuda", non_blocking=True)
