"""What a variant is built by: an engine, a recipe and a device; `availability` says which of them run here.

A recipe is a small frozen value; it is written into the manifest field by field. Its builder is found by its type in
`onnx_recipes` or `torch_engine.artifact`.
"""

import difflib
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, ClassVar, TypeAlias

from anabranch.variants.errors import RecipeError


class Engine(StrEnum):
    """What runs an artifact."""

    ONNX = "onnx"
    TORCH = "torch"
    TORCH_COMPILE = "torch-compile"


class Device(StrEnum):
    """Where an artifact runs; it never runs elsewhere because the device is missing."""

    CPU = "cpu"
    CUDA = "cuda"


class Calibration(StrEnum):
    """How the range of an activation is chosen from what calibration saw.

    `minmax` keeps everything; `percentile` drops the largest 0.001 %; `kl` takes the range whose 128 levels lose the
    least information by Kullback-Leibler divergence.
    """

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    KL = "kl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp32:
    """The reference: full precision."""

    name: ClassVar[str] = "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tf32:
    """Weights in full precision, products of 10-bit mantissas summed in FP32: a mode of NVIDIA's tensor cores."""

    name: ClassVar[str] = "tf32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp16:
    """Weights and arithmetic in half precision; inputs and outputs stay as they are."""

    name: ClassVar[str] = "fp16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bf16:
    """Weights and arithmetic in bfloat16; inputs and outputs stay as they are."""

    name: ClassVar[str] = "bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8:
    """Linear layers in 8-bit floats (E4M3), a scale a token and a scale a channel; the rest in bfloat16."""

    name: ClassVar[str] = "fp8"


class Ranges(StrEnum):
    """What shares one range of activations when it is measured on every call.

    `tensor` is what ONNX Runtime's quantizer does: a request's answer then depends on who shares its batch. With `row`
    it depends on the request alone.
    """

    TENSOR = "tensor"
    ROW = "row"


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Dynamic:
    """INT8 weights, one scale a channel, and activations whose range is measured on every call.

    Embedding tables become INT8 too: for a small encoder that is most of the file.

    Args:
        ranges: What shares a range. The torch engine always takes a range a row.
    """

    ranges: Ranges = Ranges.TENSOR

    @property
    def name(self) -> str:
        """`int8-dynamic`, and the ranges where they are not the tensor's."""
        return "int8-dynamic" if self.ranges is Ranges.TENSOR else f"int8-dynamic-{self.ranges}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Static:
    """INT8 weights, one scale a channel, and activation ranges fixed by calibration.

    Args:
        calibration: How a range is chosen.
        samples: Most calibration requests to look at.
    """

    calibration: Calibration = Calibration.MINMAX
    samples: int = 128

    @property
    def name(self) -> str:
        """`int8-static`, and the calibration where it is not min-max."""
        return "int8-static" if self.calibration is Calibration.MINMAX else f"int8-static-{self.calibration}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Qat:
    """INT8 with fixed ranges, after a short training that lets the weights adapt to the rounding.

    The FP32 model is the teacher: its embeddings of the training split are the targets, so no label is needed.

    Args:
        calibration: How the ranges are chosen; they stay fixed during the training.
        samples: Most calibration requests to look at.
        steps: Optimizer steps.
        batch_size: Training requests a step.
        learning_rate: Largest rate of AdamW; it rises and falls once over the steps.
    """

    name: ClassVar[str] = "int8-qat"
    calibration: Calibration = Calibration.PERCENTILE
    samples: int = 128
    steps: int = 160
    batch_size: int = 16
    learning_rate: float = 5e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8WeightOnly:
    """INT8 weights, in ONNX graphs embedding tables too; activations and arithmetic stay as they are.

    Args:
        block_size: Weights along the input that share a scale, in ONNX graphs; torch takes one scale a channel.
    """

    name: ClassVar[str] = "int8-weight-only"
    block_size: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Int4WeightOnly:
    """INT4 weights in blocks with a scale and a zero point each; in ONNX graphs embedding tables are INT8.

    Args:
        block_size: Weights along the input that share a scale.
    """

    name: ClassVar[str] = "int4-weight-only"
    block_size: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """Attention in half precision, feed-forward blocks in INT8 with dynamic ranges, the rest in FP32.

    Half precision is FP16 in ONNX graphs and on a GPU, bfloat16 for torch on a CPU.
    """

    name: ClassVar[str] = "mixed"


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedWithin:
    """INT8 with dynamic ranges for as many linear layers as a largest loss of accuracy allows, FP32 for the others.

    Args:
        max_accuracy_drop: Largest tolerated loss on the training split, a share in (0, 1).
    """

    max_accuracy_drop: float

    @property
    def name(self) -> str:
        """`mixed-within-0.5` for half a percentage point."""
        return f"mixed-within-{self.max_accuracy_drop * 100:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """Nothing was done: the artifact is the user's own file."""

    name: ClassVar[str] = "imported"


Recipe: TypeAlias = (
    Fp32
    | Tf32
    | Fp16
    | Bf16
    | Fp8
    | Int8Dynamic
    | Int8Static
    | Int8Qat
    | Int8WeightOnly
    | Int4WeightOnly
    | Mixed
    | MixedWithin
    | Imported
)

# Every recipe that can be asked for by name, the reference first.
RECIPES: tuple[Recipe, ...] = (
    Fp32(),
    Tf32(),
    Fp16(),
    Bf16(),
    Fp8(),
    Int8Dynamic(),
    Int8Dynamic(ranges=Ranges.ROW),
    Int8Static(),
    Int8Static(calibration=Calibration.PERCENTILE),
    Int8Static(calibration=Calibration.KL),
    Int8Qat(),
    Int8WeightOnly(),
    Int4WeightOnly(),
    Mixed(),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantSpec:
    """An engine, a recipe and a device; the variant's default name is made of them."""

    engine: Engine
    recipe: Recipe
    device: Device = Device.CPU

    @property
    def name(self) -> str:
        """For example `onnx-int8-dynamic`, or `torch-fp16-cuda`: a CPU goes without saying."""
        suffix = "" if self.device is Device.CPU else f"-{self.device}"
        return f"{self.engine}-{self.recipe.name}{suffix}"


def recipe_fields(recipe: Recipe) -> dict[str, Any]:
    """The recipe's name and settings, as the manifest keeps them."""
    return {"name": recipe.name, **{key: value for key, value in asdict(recipe).items() if key != "name"}}


def variant_spec(name: str) -> VariantSpec:
    """Read a variant's default name, such as `onnx-int8-dynamic`.

    Raises:
        RecipeError: No engine, recipe and device make this name.
    """
    known = {spec.name: spec for spec in all_specs()}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise RecipeError(
            f"variant {name!r} names no engine and recipe: {hint}`anabranch build --list-recipes` prints all"
        )
    return known[name]


def all_specs() -> list[VariantSpec]:
    """Every engine with every recipe on every device, the CPU's first."""
    return [
        VariantSpec(engine=engine, recipe=recipe, device=device)
        for device in Device
        for engine in Engine
        for recipe in RECIPES
    ]
