"""A decoder in memory: its sizes and its weights, from a GGUF file or made at random."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anabranch.variants.errors import VariantError
from anabranch.variants.llm.blocks import Matrix, dense
from anabranch.variants.llm.gguf_file import GgufFile

_ARCHITECTURE = "llama"
EMBEDDING = "token_embd.weight"
OUTPUT = "output.weight"
FINAL_NORM = "output_norm.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderShape:
    """Sizes of a decoder of the Llama family.

    Args:
        layers: Blocks of attention and feed-forward.
        heads: Query heads.
        kv_heads: Key and value heads; they divide the query heads.
        head_size: Numbers in one head.
        width: Numbers a token between the layers.
        inner: Numbers a token inside the feed-forward block.
        vocabulary: Token ids.
        context: Most tokens of prompt and answer together.
        rope_base: Base of the rotary angles.
        norm_epsilon: Added to a mean square before its root.
    """

    layers: int
    heads: int
    kv_heads: int
    head_size: int
    width: int
    inner: int
    vocabulary: int
    context: int
    rope_base: float = 10_000.0
    norm_epsilon: float = 1e-5

    @property
    def query_width(self) -> int:
        """Numbers of all query heads."""
        return self.heads * self.head_size

    @property
    def kv_width(self) -> int:
        """Numbers of all key heads, and of all value heads."""
        return self.kv_heads * self.head_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """Sizes and weights.

    Args:
        shape: The sizes.
        weights: Matrices of shape (outputs, inputs) and vectors, by the names of GGUF files; rows of queries and keys
            are in the order of interleaved rotary pairs.
    """

    shape: DecoderShape
    weights: Mapping[str, Matrix]

    @property
    def is_tied(self) -> bool:
        """Whether the embedding's matrix also makes the logits."""
        return OUTPUT not in self.weights

    def vector(self, name: str) -> NDArray[np.float32]:
        """The weights of a norm."""
        return dense(self.weights[name])

    def layer(self, layer: int, part: str) -> Matrix:
        """A matrix of one layer, such as `attn_q`."""
        return self.weights[f"blk.{layer}.{part}.weight"]


def read_decoder(file: GgufFile) -> Decoder:
    """The decoder in a GGUF file.

    Raises:
        VariantError: It is of another architecture, or lacks a size or a tensor.
    """
    kind = file.metadata.get("general.architecture")
    if kind != _ARCHITECTURE:
        raise VariantError(f"the file holds a model of architecture {kind!r}, must be {_ARCHITECTURE!r}")
    shape = _shape(file)
    names = [EMBEDDING, FINAL_NORM, *([OUTPUT] if OUTPUT in file.tensors else [])]
    parts = (
        "attn_norm",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_norm",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    )
    names += [f"blk.{layer}.{part}.weight" for layer in range(shape.layers) for part in parts]
    return Decoder(shape=shape, weights={name: file.matrix(name) for name in names})


def _shape(file: GgufFile) -> DecoderShape:
    values = file.metadata
    try:
        heads = int(values["llama.attention.head_count"])
        width = int(values["llama.embedding_length"])
        size = int(values.get("llama.attention.key_length", width // heads))
        rotated = int(values.get("llama.rope.dimension_count", size))
        if rotated != size:
            raise VariantError(f"{rotated} of {size} numbers of a head are rotated, must be all of them")
        return DecoderShape(
            layers=int(values["llama.block_count"]),
            heads=heads,
            kv_heads=int(values.get("llama.attention.head_count_kv", heads)),
            head_size=size,
            width=width,
            inner=int(values["llama.feed_forward_length"]),
            vocabulary=file.tensors[EMBEDDING][0],
            context=int(values["llama.context_length"]),
            rope_base=float(values.get("llama.rope.freq_base", 10_000.0)),
            norm_epsilon=float(values["llama.attention.layer_norm_rms_epsilon"]),
        )
    except KeyError as error:
        raise VariantError(f"the file does not say {error}: it is not a complete model") from None


def random_decoder(shape: DecoderShape, seed: int) -> Decoder:
    """A decoder of random weights that keeps its activations near 1: for tests and for sizes nobody publishes.

    Args:
        shape: The sizes.
        seed: The same seed gives the same weights.
    """
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return np.asarray(rng.standard_normal((rows, columns)) * columns**-0.5, np.float32)

    weights: dict[str, Matrix] = {
        EMBEDDING: matrix(shape.vocabulary, shape.width) * np.float32(shape.width**0.5),
        # A matrix of its own: tied to the embedding, a token would mostly predict itself.
        OUTPUT: matrix(shape.vocabulary, shape.width),
        FINAL_NORM: _norm(rng, shape.width),
    }
    for layer in range(shape.layers):
        rows = {
            "attn_q": (shape.query_width, shape.width),
            "attn_k": (shape.kv_width, shape.width),
            "attn_v": (shape.kv_width, shape.width),
            "attn_output": (shape.width, shape.query_width),
            "ffn_gate": (shape.inner, shape.width),
            "ffn_up": (shape.inner, shape.width),
            "ffn_down": (shape.width, shape.inner),
        }
        weights |= {f"blk.{layer}.{part}.weight": matrix(*size) for part, size in rows.items()}
        weights |= {
            f"blk.{layer}.{part}.weight": _norm(rng, shape.width) for part in ("attn_norm", "ffn_norm")
        }
    return Decoder(shape=shape, weights=weights)


def _norm(rng: np.random.Generator, width: int) -> NDArray[np.float32]:
    return np.asarray(1 + 0.1 * rng.standard_normal(width), np.float32)


def rotary_tables(shape: DecoderShape) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosine and sine of every position's angles, each of shape (context, head_size / 2)."""
    frequencies = shape.rope_base ** (-np.arange(0, shape.head_size, 2) / shape.head_size)
    angles = np.arange(shape.context)[:, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
