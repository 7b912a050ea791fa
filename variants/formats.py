"""The number format of every linear layer: what a recipe promises, layer by layer.

Layers are named as in the ONNX graph: `layer.0.attention.query`, `layer.0.feedforward.up`, ....
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import assert_never

from anabranch.variants.recipes import (
    Bf16,
    Device,
    Engine,
    Fp8,
    Fp16,
    Fp32,
    Imported,
    Int4WeightOnly,
    Int8Dynamic,
    Int8Qat,
    Int8Static,
    Int8WeightOnly,
    Mixed,
    MixedWithin,
    Recipe,
    Tf32,
    VariantSpec,
)


class NumberFormat(StrEnum):
    """How a linear layer keeps its weights and multiplies.

    `int8` has integer activations too; `int8-weight` and `int4-weight` turn the weights back into floats first.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    FP8 = "fp8"
    INT8 = "int8"
    INT8_WEIGHT = "int8-weight"
    INT4_WEIGHT = "int4-weight"


def uniform_format(recipe: Recipe) -> NumberFormat | None:
    """The format of every linear layer; None where a recipe gives them different ones."""
    match recipe:
        case Fp32() | Tf32() | Imported():
            return NumberFormat.FP32
        case Fp16():
            return NumberFormat.FP16
        case Bf16():
            return NumberFormat.BF16
        case Fp8():
            return NumberFormat.FP8
        case Int8Dynamic() | Int8Static() | Int8Qat():
            return NumberFormat.INT8
        case Int8WeightOnly():
            return NumberFormat.INT8_WEIGHT
        case Int4WeightOnly():
            return NumberFormat.INT4_WEIGHT
        case Mixed() | MixedWithin():
            return None
        case _:
            assert_never(recipe)


def half_format(engine: Engine, device: Device) -> NumberFormat:
    """The half precision that an engine multiplies fastest: bfloat16 for torch on a CPU, else FP16."""
    on_torch_cpu = engine is not Engine.ONNX and device is Device.CPU
    return NumberFormat.BF16 if on_torch_cpu else NumberFormat.FP16


def promised_formats(
    spec: VariantSpec, *, attention: Iterable[str], feedforward: Iterable[str]
) -> dict[str, NumberFormat]:
    """The format of every layer of an encoder under a recipe that fixes them beforehand.

    Args:
        spec: The variant; not one whose precisions are searched for.
        attention: Linear layers of the attention blocks.
        feedforward: Linear layers of the feed-forward blocks.
    """
    everywhere = uniform_format(spec.recipe)
    half = half_format(spec.engine, spec.device)
    formats = dict.fromkeys(attention, everywhere or half)
    return formats | dict.fromkeys(feedforward, everywhere or NumberFormat.INT8)


def count_formats(formats: Mapping[str, NumberFormat]) -> str:
    """For example `24 fp16, 12 int8`."""
    counts: dict[str, int] = {}
    for number_format in formats.values():
        counts[number_format] = counts.get(number_format, 0) + 1
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
