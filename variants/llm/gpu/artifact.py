"""What is kept of a decoder for a GPU: its sizes and number formats in JSON, its weights in one safetensors file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anabranch.variants.errors import ManifestError
from anabranch.variants.llm.blocks import Blocks, Matrix, dense, quantize, stack_rows
from anabranch.variants.llm.decoder import EMBEDDING, FINAL_NORM, OUTPUT, Decoder, DecoderShape
from anabranch.variants.llm.recipes import KvInt4, KvInt8, LanguageSpec
from anabranch.variants.recipes import Fp32, Int4WeightOnly, Int8WeightOnly
from anabranch.variants.safetensors_file import load_tensors, save_tensors
from anabranch.variants.tensors import Array

DESCRIPTION = "decoder.json"
WEIGHTS = "weights.safetensors"
# Matrices that are read by one product, under one name.
JOINED = {"qkv": ("attn_q", "attn_k", "attn_v"), "gate_up": ("ffn_gate", "ffn_up")}
_ALONE = {"output": "attn_output", "down": "ffn_down"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPlan:
    """What a recipe asks of a decoder on a GPU.

    Args:
        half: Weights and activations are FP16; otherwise FP32, whose products are not rounded to TF32.
        weight_bits: 8 or 4 puts every matrix into blocks, the embedding into blocks of 8; None keeps them as numbers.
        cache_kind: `int8` or `int4` keeps keys and values in low bits, a scale and a minimum for 32 numbers of one
            token; None keeps them as the activations are.
        is_compiled: The steps are compiled, and replayed as CUDA graphs.
    """

    half: bool = True
    weight_bits: int | None = None
    cache_kind: str | None = None
    is_compiled: bool = False


def gpu_plan(spec: LanguageSpec) -> GpuPlan:
    """The number formats of a recipe: what keeps weights or a cache in fewer bits, or a window, computes in FP16."""
    bits = {Int8WeightOnly: 8, Int4WeightOnly: 4}.get(type(spec.recipe))
    cache_kind = {KvInt8: "int8", KvInt4: "int4"}.get(type(spec.recipe))
    return GpuPlan(
        half=not isinstance(spec.recipe, Fp32),
        weight_bits=bits,
        cache_kind=cache_kind,
        is_compiled=spec.is_compiled,
    )


def write_decoder(decoder: Decoder, plan: GpuPlan, folder: Path) -> tuple[str, ...]:
    """Write a decoder; return the names of the files, the description first."""
    tensors: dict[str, Array] = {}
    for name in (
        FINAL_NORM,
        *(f"blk.{layer}.{part}_norm.weight" for layer in _layers(decoder) for part in ("attn", "ffn")),
    ):
        tensors[name] = _number(decoder.vector(name), plan)
    for name in (EMBEDDING, OUTPUT):
        if name in decoder.weights:
            tensors |= _packed(name, decoder.weights[name], plan, 8 if plan.weight_bits else None)
    for layer in _layers(decoder):
        for joined, parts in JOINED.items():
            matrix = stack_rows([decoder.layer(layer, part) for part in parts])
            tensors |= _packed(f"blk.{layer}.{joined}", matrix, plan, plan.weight_bits)
        for name, part in _ALONE.items():
            tensors |= _packed(f"blk.{layer}.{name}", decoder.layer(layer, part), plan, plan.weight_bits)
    save_tensors(folder / WEIGHTS, tensors)
    values = {"shape": asdict(decoder.shape), "plan": asdict(plan)}
    (folder / DESCRIPTION).write_text(json.dumps(values, indent=2) + "\n")
    return DESCRIPTION, WEIGHTS


def read_description(folder: Path) -> tuple[DecoderShape, GpuPlan]:
    """A decoder's sizes and number formats.

    Raises:
        ManifestError: The folder holds no such decoder.
    """
    path = folder / DESCRIPTION
    try:
        values = json.loads(path.read_text())
        return DecoderShape(**values["shape"]), GpuPlan(**values["plan"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{path} describes no decoder ({error!r}): build the variant again") from error


def read_weights(folder: Path) -> dict[str, Array]:
    """Its tensors, as they lie in the file."""
    return load_tensors(folder / WEIGHTS)


def _layers(decoder: Decoder) -> range:
    return range(decoder.shape.layers)


def _number(values: NDArray[np.float32], plan: GpuPlan) -> Array:
    return values.astype(np.float16) if plan.half else values


def _packed(name: str, matrix: Matrix, plan: GpuPlan, bits: int | None) -> dict[str, Array]:
    if bits is None:
        return {name: _number(dense(matrix), plan)}
    kept = isinstance(matrix, Blocks) and matrix.bits == bits
    blocks = matrix if isinstance(matrix, Blocks) and kept else quantize(dense(matrix), bits)
    rows = blocks.shape[0]
    return {
        f"{name}.codes": blocks.packed().reshape(rows, -1),
        f"{name}.scales": _number(blocks.scales, plan),
        f"{name}.minimums": _number(blocks.minimums, plan),
    }
