"""The decoder in torch: reads tokens of one text, or a token of each of several, and fills their caches in place."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anabranch.variants.llm.blocks import BLOCK
from anabranch.variants.llm.decoder import EMBEDDING, FINAL_NORM, OUTPUT, DecoderShape, rotary_tables
from anabranch.variants.llm.gpu import low_bits
from anabranch.variants.llm.gpu.artifact import GpuPlan
from anabranch.variants.tensors import Array


class Weight(NamedTuple):
    """A matrix of shape (outputs, inputs): numbers, or codes with scales and minimums of their blocks."""

    numbers: Tensor | None = None
    codes: Tensor | None = None
    scales: Tensor | None = None
    minimums: Tensor | None = None

    def rows(self, at: Tensor) -> Tensor:
        """Some of its rows as numbers."""
        if self.numbers is not None:
            return self.numbers[at]
        assert self.codes is not None
        assert self.scales is not None
        assert self.minimums is not None
        return _numbers(self.codes[at], self.scales[at], self.minimums[at])

    def product(self, source: Tensor) -> Tensor:
        """The product with a source of shape (..., inputs)."""
        if self.numbers is not None:
            return functional.linear(source, self.numbers)
        assert self.codes is not None
        assert self.scales is not None
        assert self.minimums is not None
        return functional.linear(source, _numbers(self.codes, self.scales, self.minimums))


def _numbers(codes: Tensor, scales: Tensor, minimums: Tensor) -> Tensor:
    """The weights of blocks, shape (..., inputs); codes of 4 bits lie two in a byte, the first in the lower half."""
    if codes.shape[-1] * 2 == scales.shape[-1] * BLOCK:
        codes = torch.stack((codes & 15, codes >> 4), dim=-1).flatten(-2)
    groups = codes.view(*scales.shape, BLOCK).to(scales.dtype)
    numbers: Tensor = (groups * scales[..., None] + minimums[..., None]).flatten(-2)
    return numbers


class Layer(NamedTuple):
    """The weights of one layer."""

    attention_norm: Tensor
    qkv: Weight
    output: Weight
    feed_norm: Tensor
    gate_up: Weight
    down: Weight


LayerFunction: TypeAlias = Callable[..., Tensor]


class GpuDecoder:
    """A decoder in memory.

    Args:
        shape: Sizes.
        plan: Number formats.
        tensors: From the artifact.
        device: Where it runs, in torch's words.
    """

    def __init__(self, shape: DecoderShape, plan: GpuPlan, tensors: Mapping[str, Array], device: str) -> None:
        self.shape, self.plan, self.device = shape, plan, device
        # A copy: the file's pages are read-only.
        sent = {name: torch.from_numpy(np.array(array)).to(device) for name, array in tensors.items()}
        self._embedding = _weight(sent, EMBEDDING)
        has_output = OUTPUT in sent or f"{OUTPUT}.codes" in sent
        self._output = _weight(sent, OUTPUT) if has_output else self._embedding
        self._final_norm = sent[FINAL_NORM]
        self._layers = [
            Layer(
                sent[f"blk.{layer}.attn_norm.weight"],
                _weight(sent, f"blk.{layer}.qkv"),
                _weight(sent, f"blk.{layer}.output"),
                sent[f"blk.{layer}.ffn_norm.weight"],
                _weight(sent, f"blk.{layer}.gate_up"),
                _weight(sent, f"blk.{layer}.down"),
            )
            for layer in range(shape.layers)
        ]
        self._cos, self._sin = (torch.from_numpy(table).to(device) for table in rotary_tables(shape))

    @property
    def number(self) -> torch.dtype:
        """Of activations."""
        return torch.float16 if self.plan.half else torch.float32

    @property
    def cache_dtype(self) -> torch.dtype:
        """Of the cache's elements."""
        return torch.uint8 if self.plan.cache_kind else self.number

    @property
    def cache_size(self) -> int:
        """Elements of one head in a row of the cache."""
        kind, size = self.plan.cache_kind, self.shape.head_size
        return size if kind is None else low_bits.row_bytes(size, kind)

    def read(
        self,
        ids: Tensor,
        positions: Tensor,
        rows: Tensor,
        hidden_rows: Tensor,
        buffers: Tensor,
        layer_function: LayerFunction,
    ) -> Tensor:
        """Read tokens.

        Args:
            ids: Shape (texts, tokens).
            positions: In their texts, of the same shape.
            rows: Of the caches, where they go, of the same shape.
            hidden_rows: What is added to the score of a row: 0, or very negative; shape (texts, tokens, seen).
            buffers: The caches, shape (layers, 2, texts, heads, rows, size); at least `seen` rows.
            layer_function: `layer`, or what was compiled of it.

        Returns:
            What the last layer makes of them, normed, shape (texts, tokens, width).
        """
        hidden = self._embedding.rows(ids)
        cos, sin = self._cos[positions][:, :, None], self._sin[positions][:, :, None]
        # The query heads that share a key head lie behind each other, as further tokens.
        share = self.shape.heads // self.shape.kv_heads
        mask = hidden_rows.to(self.number).repeat(1, share, 1)[:, None]
        for number, weights in enumerate(self._layers):
            cache = buffers[number]
            hidden = layer_function(
                hidden,
                weights,
                (cos, sin),
                rows,
                mask,
                (cache[0], cache[1]),
                (self.shape.heads, self.shape.kv_heads, self.shape.head_size),
                self.shape.norm_epsilon,
                self.plan.cache_kind,
            )
        return _norm(hidden, self._final_norm, self.shape.norm_epsilon)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of what `read` returned, in FP32, shape (..., vocabulary)."""
        return self._output.product(hidden).float()


def layer(
    hidden: Tensor,
    weights: Layer,
    turns: tuple[Tensor, Tensor],
    rows: Tensor,
    mask: Tensor,
    caches: tuple[Tensor, Tensor],
    sizes: tuple[int, int, int],
    epsilon: float,
    cache_kind: str | None,
) -> Tensor:
    """One layer; writes the new tokens' keys and values into the caches.

    Args:
        hidden: Shape (texts, tokens, width).
        weights: Its weights.
        turns: Cosines and sines of the tokens' positions, shape (texts, tokens, 1, size / 2) each.
        rows: Where the new tokens go, shape (texts, tokens).
        mask: Added to the scores, shape (texts, 1, heads / kv_heads * tokens, seen).
        caches: Of keys and values, shape (texts, kv_heads, rows, elements) each.
        sizes: Query heads, key heads, numbers of a head.
        epsilon: Of the norms.
        cache_kind: `int8`, `int4`, or None for numbers.

    Source:
        Touvron et al. 2023, Llama; Ainslie et al. 2023, GQA.
    """
    texts, tokens, _ = hidden.shape
    heads, kv_heads, size = sizes
    keys, values = caches
    packed = weights.qkv.product(_norm(hidden, weights.attention_norm, epsilon))
    packed = packed.view(texts, tokens, heads + 2 * kv_heads, size)
    turned = _rotate(packed[:, :, : heads + kv_heads], *turns)
    query, key, value = turned[:, :, :heads], turned[:, :, heads:], packed[:, :, heads + kv_heads :]
    if cache_kind is not None:
        key, value = low_bits.put(key, cache_kind), low_bits.put(value, cache_kind)
    at = torch.arange(texts, device=hidden.device)[:, None]
    keys[at, :, rows] = key
    values[at, :, rows] = value
    seen_keys, seen_values = keys[:, :, : mask.shape[-1]], values[:, :, : mask.shape[-1]]
    if cache_kind is not None:
        seen_keys = low_bits.take(seen_keys, cache_kind, size).to(hidden.dtype)
        seen_values = low_bits.take(seen_values, cache_kind, size).to(hidden.dtype)
    share = heads // kv_heads
    grouped = query.view(texts, tokens, kv_heads, share, size).permute(0, 2, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(
        grouped.reshape(texts, kv_heads, share * tokens, size), seen_keys, seen_values, attn_mask=mask
    )
    mixed = mixed.view(texts, kv_heads, share, tokens, size).permute(0, 3, 1, 2, 4)
    hidden = hidden + weights.output.product(mixed.reshape(texts, tokens, heads * size))
    both = weights.gate_up.product(_norm(hidden, weights.feed_norm, epsilon))
    gate, up = both.chunk(2, dim=-1)
    return hidden + weights.down.product(functional.silu(gate) * up)


def _weight(tensors: Mapping[str, Tensor], name: str) -> Weight:
    if name in tensors:
        return Weight(tensors[name])
    return Weight(None, *(tensors[f"{name}.{part}"] for part in ("codes", "scales", "minimums")))


def _norm(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return functional.rms_norm(hidden, weight.shape, weight, epsilon)


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring pairs of numbers; heads have shape (texts, tokens, heads, size)."""
    even, odd = heads[..., 0::2].float(), heads[..., 1::2].float()
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
    return turned.to(heads.dtype)
