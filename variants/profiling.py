"""Trace a variant's calls, operator by operator, into a file that Perfetto and chrome://tracing open."""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anabranch.variants.errors import VariantError
from anabranch.variants.manifest import load_manifest
from anabranch.variants.recipes import Device, Engine
from anabranch.variants.runtime import LoadedVariant, load_variant
from anabranch.variants.sessions import OnnxSession
from anabranch.variants.tensors import Request

_WARM_CALLS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """What was traced.

    Attributes:
        rows: Rows of one call.
        calls: Calls in the trace; those that warmed the variant are not.
        call_ms: Mean time of one of them, with the tracing.
    """

    variant: str
    rows: int
    calls: int
    call_ms: float
    trace: Path


def profile_variant(
    folder: Path, target: Path, *, batch: int = 1, calls: int = 20, threads: int = 1
) -> Traced:
    """Load a variant, warm it, and trace a few calls.

    Args:
        folder: The variant's folder.
        target: Where the trace goes, JSON.
        batch: Requests of one call, at least 1.
        calls: Calls to trace, at least 1.
        threads: Threads that share one call's work on a CPU.

    Raises:
        VariantError: The variant generates text or is remote, or does not load or run.
    """
    manifest = load_manifest(folder)
    if manifest.generation is not None:
        raise VariantError(
            f"{manifest.variant} generates text: its steps are not traced yet, time them with serve"
        )
    if manifest.remote is not None:
        raise VariantError(f"{manifest.variant} runs on another server: trace it there")
    if batch < 1 or calls < 1:
        raise VariantError(f"batch is {batch} and calls is {calls}, both must be at least 1")
    target.parent.mkdir(parents=True, exist_ok=True)
    trace = _trace_onnx if manifest.engine is Engine.ONNX else _trace_torch
    return trace(folder, target, batch, calls, threads)


def _trace_onnx(folder: Path, target: Path, batch: int, calls: int, threads: int) -> Traced:
    # ONNX Runtime traces from the first call on: a session of its own is warm before the one that is traced.
    requests = _requests(load_variant(folder, threads=threads), batch)
    with tempfile.TemporaryDirectory() as scratch:
        variant = load_variant(folder, threads=threads, trace=Path(scratch) / "trace")
        session = variant.session
        assert isinstance(session, OnnxSession), "the engine is ONNX Runtime"
        try:
            call_ms = _timed(lambda: variant.infer(requests), calls)
        finally:
            written = session.end_trace()
        shutil.move(written, target)
    return _traced(variant, requests, calls, call_ms, target)


def _trace_torch(folder: Path, target: Path, batch: int, calls: int, threads: int) -> Traced:
    from torch.profiler import ProfilerActivity, profile

    variant = load_variant(folder, threads=threads)
    requests = _requests(variant, batch)
    for _ in range(_WARM_CALLS):
        variant.infer(requests)
    activities = [ProfilerActivity.CPU]
    if variant.manifest.device is Device.CUDA:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        call_ms = _timed(lambda: variant.infer(requests), calls)
    profiler.export_chrome_trace(str(target))
    return _traced(variant, requests, calls, call_ms, target)


def _requests(variant: LoadedVariant, batch: int) -> list[Request]:
    """As many requests as asked for, of the lengths that warm a variant."""
    known = variant.usual_requests()
    return [known[index % len(known)] for index in range(batch)]


def _timed(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) * 1e3 / calls


def _traced(
    variant: LoadedVariant, requests: Sequence[Request], calls: int, call_ms: float, target: Path
) -> Traced:
    rows = sum(variant.check_inputs(request) for request in requests)
    return Traced(
        variant=variant.manifest.variant, rows=rows, calls=calls, call_ms=round(call_ms, 3), trace=target
    )
