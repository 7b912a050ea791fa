"""What can be made of a language model: the recipes of any model that apply, and those of the KV cache."""

import difflib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeAlias

from anabranch.variants.availability import cuda_devices, torch_cuda_problem
from anabranch.variants.errors import RecipeError
from anabranch.variants.llm.blocks import BLOCK
from anabranch.variants.llm.decoder import DecoderShape
from anabranch.variants.recipes import Device, Engine, Fp16, Fp32, Int4WeightOnly, Int8WeightOnly


@dataclass(frozen=True, slots=True, kw_only=True)
class KvWindow:
    """A token sees the latest tokens only, itself among them; the cache never grows beyond them."""

    name: ClassVar[str] = "kv-window"
    recent: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class KvSinks:
    """As a window, but the first tokens of a text stay: attention rests on them."""

    name: ClassVar[str] = "kv-sinks"
    sinks: int = 4
    recent: int = 508


@dataclass(frozen=True, slots=True, kw_only=True)
class KvInt4:
    """Keys and values in 4 bits, one scale a channel fixed by calibration."""

    name: ClassVar[str] = "kv-int4"


@dataclass(frozen=True, slots=True, kw_only=True)
class KvInt8:
    """Keys and values in 8 bits, one scale a channel fixed by calibration."""

    name: ClassVar[str] = "kv-int8"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorParallel:
    """Every matrix is cut across processes that add up their parts twice a layer.

    Args:
        degree: Processes.
    """

    degree: int

    @property
    def name(self) -> str:
        """`tensor-parallel-2` for two processes."""
        return f"tensor-parallel-{self.degree}"


LanguageRecipe: TypeAlias = (
    Fp32 | Fp16 | Int8WeightOnly | Int4WeightOnly | KvWindow | KvSinks | KvInt8 | KvInt4 | TensorParallel
)

# Every recipe that can be asked for by name, the reference first.
LANGUAGE_RECIPES: tuple[LanguageRecipe, ...] = (
    Fp32(),
    Fp16(),
    Int8WeightOnly(),
    Int4WeightOnly(),
    KvWindow(),
    KvSinks(),
    KvInt8(),
    KvInt4(),
    TensorParallel(degree=2),
    TensorParallel(degree=3),
    TensorParallel(degree=4),
)

SUMMARIES: Mapping[str, str] = {
    recipe.name: (type(recipe).__doc__ or "").partition("\n")[0] for recipe in LANGUAGE_RECIPES
}
"""By recipe name, one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageSpec:
    """A recipe and a device; they say which engine runs it.

    Args:
        recipe: What is made of the model.
        device: Where it runs.
        is_compiled: On a GPU: the steps are compiled and replayed as CUDA graphs, not launched one by one.
    """

    recipe: LanguageRecipe
    device: Device = Device.CPU
    is_compiled: bool = False

    @property
    def engine(self) -> Engine:
        """ONNX Runtime has no sums across processes in its CPU build, and its attention on CUDA takes no FP32 and no mask."""
        if self.device is Device.CUDA:
            return Engine.TORCH_COMPILE if self.is_compiled else Engine.TORCH
        return Engine.TORCH if isinstance(self.recipe, TensorParallel) else Engine.ONNX

    @property
    def name(self) -> str:
        """For example `onnx-kv-sinks`, or `torch-compile-fp16-cuda`: a CPU goes without saying."""
        suffix = "" if self.device is Device.CPU else f"-{self.device}"
        return f"{self.engine}-{self.recipe.name}{suffix}"


# Every variant that can be asked for by name: one engine on a CPU, both of torch's on a GPU.
LANGUAGE_SPECS: tuple[LanguageSpec, ...] = (
    *(LanguageSpec(recipe=recipe) for recipe in LANGUAGE_RECIPES),
    *(
        LanguageSpec(recipe=recipe, device=Device.CUDA, is_compiled=is_compiled)
        for is_compiled in (False, True)
        for recipe in LANGUAGE_RECIPES
        if not isinstance(recipe, TensorParallel)
    ),
)


def language_recipe_fields(recipe: LanguageRecipe) -> dict[str, Any]:
    """The recipe's name and settings, as the manifest keeps them."""
    return {"name": recipe.name, **asdict(recipe)}


def language_spec(name: str) -> LanguageSpec:
    """Read a variant's default name, such as `onnx-kv-sinks`.

    Raises:
        RecipeError: No recipe of language models makes this name.
    """
    known = {spec.name: spec for spec in LANGUAGE_SPECS}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=2)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise RecipeError(f"{name!r} is no variant of a language model: {hint}there are {', '.join(known)}")
    return known[name]


def language_specs(
    variants: Sequence[str],
    recipes: Sequence[str],
    engine: Engine = Engine.ONNX,
    device: Device = Device.CPU,
) -> list[LanguageSpec]:
    """The variants that a person named one way or the other; where none was, all of the device that one process runs.

    Args:
        variants: Default names, such as `onnx-kv-sinks`.
        recipes: Names of recipes, such as `kv-sinks`.
        engine: Of the recipes: `onnx` on a CPU, one of torch's on a GPU.
        device: Of the recipes.

    Raises:
        RecipeError: A name is not one of a language model's.
    """
    every = [
        spec
        for spec in LANGUAGE_SPECS
        if spec.device is device and (device is Device.CPU or spec.engine is engine)
    ]
    if not variants and not recipes:
        return [spec for spec in every if not isinstance(spec.recipe, TensorParallel)]
    by_recipe = {spec.recipe.name: spec for spec in every}
    strange = [name for name in recipes if name not in by_recipe]
    if strange:
        raise RecipeError(
            f"recipe {strange[0]!r} is none of a language model on device {device}: there are {', '.join(by_recipe)}"
        )
    return [*map(language_spec, variants), *(by_recipe[name] for name in recipes)]


def missing_here(spec: LanguageSpec) -> str:
    """What this machine lacks for a variant; empty when nothing."""
    if spec.engine is not Engine.ONNX and importlib.util.find_spec("torch") is None:
        return "torch is not installed: pip install 'anabranch[torch]'"
    if spec.device is Device.CUDA:
        if not cuda_devices():
            return "no CUDA device was found here"
        return torch_cuda_problem(fp8=False)
    return ""


def refusal(recipe: LanguageRecipe, shape: DecoderShape, device: Device = Device.CPU) -> str:
    """Why a model cannot take a recipe; empty when it can."""
    if isinstance(recipe, TensorParallel):
        if shape.kv_heads % recipe.degree:
            degrees = [degree for degree in range(2, shape.kv_heads + 1) if shape.kv_heads % degree == 0]
            return (
                f"{recipe.degree} processes cannot share {shape.kv_heads} key heads: the degree must divide them, "
                f"so it can be {' or '.join(map(str, degrees)) or 'none'}"
            )
        if shape.inner % recipe.degree:
            return f"{recipe.degree} processes cannot share {shape.inner} inner numbers: the degree must divide them"
    if device is Device.CUDA and isinstance(recipe, (KvInt8, KvInt4)) and shape.head_size % BLOCK:
        return f"heads have {shape.head_size} numbers, {BLOCK} of them share a scale on a GPU: it must divide them"
    if isinstance(recipe, KvInt4) and shape.head_size % 2:
        return f"heads have {shape.head_size} numbers, 4-bit codes need an even number"
    return ""
