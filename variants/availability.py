"""Which combinations of engine, recipe and device this machine can build and run, and why not the others."""

import ctypes
import functools
import importlib.metadata
import importlib.util
import os
import shutil
from dataclasses import dataclass
from typing import assert_never

from anabranch.variants.errors import RecipeError
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
    Ranges,
    Tf32,
    VariantSpec,
    all_specs,
)

_NEEDS_CUDA = "a mode of NVIDIA GPUs: ask for device cuda, or use fp32"
_NO_STATIC = "fixed ranges are built into ONNX graphs only: use the onnx engine, or int8-dynamic"
_NO_SEARCH = "the search for precisions works on ONNX graphs only: use the onnx engine, or mixed"
_ROW_ALREADY = "torch's int8-dynamic takes a range a row already: use that name"
_NO_INTEGER_CUDA = "ONNX Runtime has no INT8 products of this kind on CUDA, it would copy to the CPU or multiply in FP32: use fp16, or the torch engine"
_NO_BF16 = "ONNX Runtime has no bfloat16 kernels for all of these operators: use fp16, or the torch engine"
_CUDA_PROVIDER = "CUDAExecutionProvider"
_TORCH_EXTRA = "torch is not installed: pip install 'anabranch[torch]'"
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
# FP8 products exist since this compute capability (Ada, Hopper).
_FP8_CAPABILITY = (8, 9)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeStatus:
    """Whether a combination runs on this machine, and if not, why."""

    spec: VariantSpec
    runs_here: bool
    reason: str


def available_recipes() -> tuple[RecipeStatus, ...]:
    """Every combination of engine, recipe and device, and whether it runs here."""
    return tuple(recipe_status(spec) for spec in all_specs())


def recipe_status(spec: VariantSpec) -> RecipeStatus:
    """Whether one combination runs on this machine."""
    reason = _makes_no_sense(spec) or _missing_here(spec)
    return RecipeStatus(spec=spec, runs_here=not reason, reason=reason)


def require_runnable(spec: VariantSpec) -> None:
    """Refuse a combination that does not run here.

    Raises:
        RecipeError: With the reason.
    """
    status = recipe_status(spec)
    if not status.runs_here:
        raise RecipeError(f"{spec.name} cannot be built here: {status.reason}")


def _makes_no_sense(spec: VariantSpec) -> str:
    """Why nobody's machine runs the combination; empty when some do."""
    on_onnx, on_gpu = spec.engine is Engine.ONNX, spec.device is Device.CUDA
    match spec.recipe:
        case Fp32() | Fp16() | Imported():
            return ""
        case Tf32():
            return "" if on_gpu else _NEEDS_CUDA
        case Bf16():
            return _NO_BF16 if on_onnx else ""
        case Fp8():
            if on_onnx:
                return "ONNX Runtime has no FP8 products: use the torch engine on device cuda"
            return "" if on_gpu else _NEEDS_CUDA
        case Int8Dynamic(ranges=Ranges.ROW):
            return (_NO_INTEGER_CUDA if on_gpu else "") if on_onnx else _ROW_ALREADY
        case Int8Dynamic() | Mixed():
            return _NO_INTEGER_CUDA if on_onnx and on_gpu else ""
        case Int8Static() | Int8Qat():
            return (_NO_INTEGER_CUDA if on_gpu else "") if on_onnx else _NO_STATIC
        case MixedWithin():
            return (_NO_INTEGER_CUDA if on_gpu else "") if on_onnx else _NO_SEARCH
        case Int8WeightOnly() | Int4WeightOnly():
            return ""
        case _:
            assert_never(spec.recipe)


def _missing_here(spec: VariantSpec) -> str:
    """What this machine lacks for the combination; empty when nothing."""
    on_gpu = spec.device is Device.CUDA
    if on_gpu and not cuda_devices():
        return "no CUDA device was found here"
    match spec.engine:
        case Engine.ONNX:
            if importlib.util.find_spec("onnxruntime") is None:
                return "onnxruntime is not installed: pip install 'anabranch[cpu]'"
            if isinstance(spec.recipe, Int8Qat) and importlib.util.find_spec("torch") is None:
                return f"training needs torch, and {_TORCH_EXTRA}"
            return onnx_cuda_problem() if on_gpu else ""
        case Engine.TORCH | Engine.TORCH_COMPILE:
            if importlib.util.find_spec("torch") is None:
                return _TORCH_EXTRA
            if on_gpu:
                return torch_cuda_problem(fp8=isinstance(spec.recipe, Fp8))
            if spec.engine is Engine.TORCH_COMPILE and not _has_compiler():
                return "torch.compile needs a C++ compiler on a CPU: install g++, or set CXX"
            return ""
        case _:
            assert_never(spec.engine)


def _has_compiler() -> bool:
    return shutil.which(os.environ.get("CXX") or "g++") is not None


@functools.cache
def cuda_devices() -> int:
    """How many GPUs the NVIDIA driver shows; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def onnx_cuda_problem() -> str:
    """Why ONNX Runtime cannot use a GPU here, as far as can be told without loading a model; empty when it can."""
    installed = installed_runtimes()
    if len(installed) > 1:
        return two_runtimes(installed)
    import onnxruntime

    if _CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return (
            "this onnxruntime is the CPU build: pip uninstall onnxruntime, then pip install 'anabranch[gpu]'"
        )
    return ""


def torch_cuda_problem(*, fp8: bool) -> str:
    """Why torch cannot use a GPU here; empty when it can.

    Args:
        fp8: Whether 8-bit float products are needed.
    """
    import torch

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} does not see the GPU: install a CUDA build of torch"
    capability = torch.cuda.get_device_capability()
    if fp8 and capability < _FP8_CAPABILITY:
        return f"FP8 needs compute capability 8.9 or newer, this GPU has {capability[0]}.{capability[1]}"
    return ""


def installed_runtimes() -> list[str]:
    """The distributions of ONNX Runtime in this environment; two of them overwrite each other's files."""
    found: list[str] = []
    for name in _RUNTIMES:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found


def two_runtimes(installed: list[str]) -> str:
    """What to say of an environment with several distributions of ONNX Runtime."""
    names = " and ".join(installed)
    return (
        f"{names} are both installed and overwrite each other's files: "
        f"pip uninstall -y {' '.join(installed)}, then install the one that you need"
    )
