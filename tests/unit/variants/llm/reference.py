"""A decoder in plain numpy, without a cache and without ONNX Runtime: what the graphs are compared with."""

import numpy as np
from numpy.typing import NDArray

from anabranch.variants.llm.blocks import dense
from anabranch.variants.llm.decoder import EMBEDDING, FINAL_NORM, OUTPUT, Decoder
from anabranch.variants.llm.kv_cache import Window

Numbers = NDArray[np.float64]


def reference_logits(decoder: Decoder, tokens: list[int], window: Window | None = None) -> Numbers:
    """Logits after every token, shape (tokens, vocabulary)."""
    shape = decoder.shape
    hidden = _matrix(decoder, EMBEDDING)[tokens]
    for layer in range(shape.layers):
        name = f"blk.{layer}"
        normed = _norm(hidden, _matrix(decoder, f"{name}.attn_norm.weight"), shape.norm_epsilon)
        hidden = hidden + _attention(decoder, name, normed, window)
        normed = _norm(hidden, _matrix(decoder, f"{name}.ffn_norm.weight"), shape.norm_epsilon)
        gate = normed @ _matrix(decoder, f"{name}.ffn_gate.weight").T
        up = normed @ _matrix(decoder, f"{name}.ffn_up.weight").T
        hidden = hidden + (gate / (1 + np.exp(-gate)) * up) @ _matrix(decoder, f"{name}.ffn_down.weight").T
    final = _norm(hidden, _matrix(decoder, FINAL_NORM), shape.norm_epsilon)
    head: Numbers = _matrix(decoder, EMBEDDING if decoder.is_tied else OUTPUT)
    return final @ head.T


def _matrix(decoder: Decoder, name: str) -> Numbers:
    return dense(decoder.weights[name]).astype(np.float64)


def _norm(hidden: Numbers, weight: Numbers, epsilon: float) -> Numbers:
    scaled: Numbers = hidden / np.sqrt((hidden**2).mean(axis=-1, keepdims=True) + epsilon)
    return scaled * weight


def _rotate(heads: Numbers, base: float) -> Numbers:
    """Rotate neighbouring pairs of numbers; heads have shape (heads, tokens, size)."""
    size = heads.shape[-1]
    angles = np.arange(heads.shape[1])[:, None] * base ** (-np.arange(0, size, 2) / size)
    even, odd = heads[..., 0::2], heads[..., 1::2]
    rotated = np.empty_like(heads)
    rotated[..., 0::2] = even * np.cos(angles) - odd * np.sin(angles)
    rotated[..., 1::2] = even * np.sin(angles) + odd * np.cos(angles)
    return rotated


def _attention(decoder: Decoder, name: str, normed: Numbers, window: Window | None) -> Numbers:
    shape = decoder.shape
    count = len(normed)

    def heads(part: str, number: int) -> Numbers:
        flat = normed @ _matrix(decoder, f"{name}.{part}.weight").T
        split: Numbers = flat.reshape(count, number, shape.head_size).transpose(1, 0, 2)
        return split

    group = shape.heads // shape.kv_heads
    query = _rotate(heads("attn_q", shape.heads), shape.rope_base)
    key = np.repeat(_rotate(heads("attn_k", shape.kv_heads), shape.rope_base), group, axis=0)
    value = np.repeat(heads("attn_v", shape.kv_heads), group, axis=0)
    scores = query @ key.transpose(0, 2, 1) / np.sqrt(shape.head_size)
    place = np.arange(count)
    seen = place[None, :] <= place[:, None]
    if window is not None:
        seen &= (place[None, :] < window.sinks) | (place[None, :] > place[:, None] - window.recent)
    scores = np.where(seen, scores, -np.inf)
    share = np.exp(scores - scores.max(axis=-1, keepdims=True))
    share /= share.sum(axis=-1, keepdims=True)
    mixed = (share @ value).transpose(1, 0, 2).reshape(count, shape.query_width)
    output: Numbers = mixed @ _matrix(decoder, f"{name}.attn_output.weight").T
    return output
