"""One shard of a decoder in torch: reads tokens, fills its part of the cache, and adds up with the other shards."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from anabranch.variants.llm.decoder import EMBEDDING, FINAL_NORM, OUTPUT, DecoderShape, rotary_tables

Sum: TypeAlias = Callable[[Tensor], None]
"""Replaces a tensor by its sum over all processes."""


class Shard:
    """A shard in memory.

    Args:
        shape: The shard's sizes.
        weights: Its weights by the names of GGUF files.
        add_up: Sums over all processes.
    """

    def __init__(self, shape: DecoderShape, weights: Mapping[str, NDArray[np.float32]], add_up: Sum) -> None:
        self._shape = shape
        self._add_up = add_up
        # A copy: the file's pages are read-only.
        self._weights = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
        self._cos, self._sin = (torch.from_numpy(table)[:, None, :] for table in rotary_tables(shape))

    def new_cache(self, tokens: int) -> Tensor:
        """An empty cache for a text of that many tokens, shape (layers, 2, heads, tokens, size)."""
        shape = self._shape
        return torch.zeros(shape.layers, 2, shape.kv_heads, tokens, shape.head_size)

    @torch.inference_mode()
    def read(self, cache: Tensor, tokens: Sequence[int], start: int) -> Tensor:
        """Read tokens; every process does so at once.

        Args:
            cache: Holds the `start` tokens before them, and gets these.
            tokens: At least one.
            start: Position of the first one.

        Returns:
            What the last layer makes of them, normed, shape (tokens, width).
        """
        hidden = self._weights[EMBEDDING][torch.tensor(tokens)]
        for layer in range(self._shape.layers):
            part = self._attend(
                layer, self._norm(hidden, f"blk.{layer}.attn_norm.weight"), cache[layer], start
            )
            self._add_up(part)
            hidden = hidden + part
            part = self._feed(layer, self._norm(hidden, f"blk.{layer}.ffn_norm.weight"))
            self._add_up(part)
            hidden = hidden + part
        return self._norm(hidden, FINAL_NORM)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> NDArray[np.float32]:
        """Logits of what `read` returned, shape (tokens, vocabulary); one process does so alone."""
        matrix = self._weights[OUTPUT if OUTPUT in self._weights else EMBEDDING]
        found: NDArray[np.float32] = functional.linear(hidden, matrix).numpy()
        return found

    def _norm(self, hidden: Tensor, name: str) -> Tensor:
        width = (self._shape.width,)
        return functional.rms_norm(hidden, width, self._weights[name], self._shape.norm_epsilon)

    def _linear(self, layer: int, part: str, source: Tensor) -> Tensor:
        return functional.linear(source, self._weights[f"blk.{layer}.{part}.weight"])

    def _attend(self, layer: int, normed: Tensor, cache: Tensor, start: int) -> Tensor:
        shape, count = self._shape, len(normed)
        end = start + count
        query, key, value = (
            self._linear(layer, part, normed).view(count, -1, shape.head_size)
            for part in ("attn_q", "attn_k", "attn_v")
        )
        cos, sin = self._cos[start:end], self._sin[start:end]
        cache[0, :, start:end] = _rotate(key, cos, sin).transpose(0, 1)
        cache[1, :, start:end] = value.transpose(0, 1)
        # A token sees itself and what came before it.
        seen = torch.ones(count, end, dtype=torch.bool).tril(start)
        mixed = functional.scaled_dot_product_attention(
            _rotate(query, cos, sin).transpose(0, 1)[None],
            cache[0, :, :end][None],
            cache[1, :, :end][None],
            attn_mask=seen,
            enable_gqa=True,
        )
        return self._linear(layer, "attn_output", mixed[0].transpose(0, 1).reshape(count, -1))

    def _feed(self, layer: int, normed: Tensor) -> Tensor:
        gate, up = (self._linear(layer, part, normed) for part in ("ffn_gate", "ffn_up"))
        return self._linear(layer, "ffn_down", functional.silu(gate) * up)


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring pairs of numbers; heads have shape (tokens, heads, size)."""
    even, odd = heads[..., 0::2], heads[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
