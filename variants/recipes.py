"""What a variant is built by: an engine and a recipe, and which pairs this machine can run.

A recipe is a small frozen value; it is written into the manifest field by field. Its builder is found by its type in
`onnx_recipes` or `torch_recipes`.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, ClassVar, TypeAlias

from anabranch.variants.errors import RecipeError


class Engine(StrEnum):
    """What runs an artifact."""

    ONNX = "onnx"
    TORCH = "torch"


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
class Fp16:
    """Weights and arithmetic in half precision; inputs and outputs stay as they are."""

    name: ClassVar[str] = "fp16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bf16:
    """Weights and arithmetic in bfloat16; inputs and outputs stay as they are."""

    name: ClassVar[str] = "bf16"


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
class Mixed:
    """Attention in FP16, feed-forward blocks in INT8 with dynamic ranges, the rest in FP32."""

    name: ClassVar[str] = "mixed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """Nothing was done: the artifact is the user's own file."""

    name: ClassVar[str] = "imported"


Recipe: TypeAlias = Fp32 | Fp16 | Bf16 | Int8Dynamic | Int8Static | Mixed | Imported

# Every recipe that can be asked for by name, the reference first.
RECIPES: tuple[Recipe, ...] = (
    Fp32(),
    Fp16(),
    Bf16(),
    Int8Dynamic(),
    Int8Dynamic(ranges=Ranges.ROW),
    Int8Static(),
    Int8Static(calibration=Calibration.PERCENTILE),
    Int8Static(calibration=Calibration.KL),
    Mixed(),
)

_NO_BF16 = "ONNX Runtime has no bfloat16 kernels for these operators on a CPU: use fp16, or the torch engine"
_NO_STATIC = "static ranges are built into ONNX graphs only: use the onnx engine, or int8-dynamic"
_REFUSED: Mapping[tuple[Engine, str], str] = {
    (Engine.ONNX, "bf16"): _NO_BF16,
    (Engine.TORCH, "fp16"): "half precision runs at a fifth of the speed in torch on a CPU: use bf16",
    (Engine.TORCH, "int8-dynamic-row"): "torch's int8-dynamic takes a range a row already: use that name",
    (Engine.TORCH, "int8-static"): _NO_STATIC,
    (Engine.TORCH, "int8-static-percentile"): _NO_STATIC,
    (Engine.TORCH, "int8-static-kl"): _NO_STATIC,
    (
        Engine.TORCH,
        "mixed",
    ): "mixed needs FP16 attention, which torch runs slowly on a CPU: use the onnx engine",
}
_MODULES = {Engine.ONNX: "onnxruntime", Engine.TORCH: "torch"}
_INSTALL = {Engine.ONNX: "pip install onnxruntime", Engine.TORCH: "pip install 'anabranch[torch]'"}


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantSpec:
    """An engine and a recipe; the variant's default name is made of both."""

    engine: Engine
    recipe: Recipe

    @property
    def name(self) -> str:
        """For example `onnx-int8-dynamic`."""
        return f"{self.engine}-{self.recipe.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeStatus:
    """Whether a pair of engine and recipe runs on this machine, and if not, why."""

    spec: VariantSpec
    runs_here: bool
    reason: str


def recipe_fields(recipe: Recipe) -> dict[str, Any]:
    """The recipe's name and settings, as the manifest keeps them."""
    return {"name": recipe.name, **{key: value for key, value in asdict(recipe).items() if key != "name"}}


def variant_spec(name: str) -> VariantSpec:
    """Read a variant's default name, such as `onnx-int8-dynamic`.

    Raises:
        RecipeError: No engine and recipe make this name.
    """
    known = {spec.name: spec for spec in _pairs()}
    if name not in known:
        raise RecipeError(f"variant {name!r} names no engine and recipe, must be one of {', '.join(known)}")
    return known[name]


def available_recipes() -> tuple[RecipeStatus, ...]:
    """Every pair of engine and recipe, and whether it runs here."""
    return tuple(recipe_status(spec) for spec in _pairs())


def recipe_status(spec: VariantSpec) -> RecipeStatus:
    """Whether one pair runs on this machine."""
    refused = _REFUSED.get((spec.engine, spec.recipe.name))
    if refused is not None:
        return RecipeStatus(spec=spec, runs_here=False, reason=refused)
    module = _MODULES[spec.engine]
    if importlib.util.find_spec(module) is None:
        reason = f"{module} is not installed: {_INSTALL[spec.engine]}"
        return RecipeStatus(spec=spec, runs_here=False, reason=reason)
    return RecipeStatus(spec=spec, runs_here=True, reason="")


def require_runnable(spec: VariantSpec) -> None:
    """Refuse a pair that does not run here.

    Raises:
        RecipeError: With the reason.
    """
    status = recipe_status(spec)
    if not status.runs_here:
        raise RecipeError(f"{spec.name} cannot be built here: {status.reason}")


def _pairs() -> list[VariantSpec]:
    return [VariantSpec(engine=engine, recipe=recipe) for engine in Engine for recipe in RECIPES]
