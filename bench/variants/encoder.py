"""Every recipe of the encoder that runs on a device: size, accuracy, memory, latency by batch, and the ratios that count.

    python bench/variants/encoder.py [--device cpu] [--models DIR] [--rounds 20] [--variants a,b] [--output FILE]

Prints JSON lines: one for the machine, one a variant, one a variant and shape. Variants take turns inside every round,
so that a ratio compares times that lie milliseconds apart. Calls are whole ones: numpy arrays in, numpy arrays out.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import onnx
from gpu_floor import (  # type: ignore[import-not-found]  # it lies beside this script
    gpu_kernels,
    gpu_rates,
    over_floors,
)

from anabranch.variants.availability import available_recipes, installed_runtimes
from anabranch.variants.build import build
from anabranch.variants.engines import open_session
from anabranch.variants.manifest import Manifest, load_manifest
from anabranch.variants.minilm import MODEL, minilm_source
from anabranch.variants.models import ModelSource
from anabranch.variants.onnx_recipes import OnnxBuilder
from anabranch.variants.recipes import Device, Engine, VariantSpec, variant_spec
from anabranch.variants.runtime import load_variant
from anabranch.variants.tensors import Array, Request

WORDS = 30_522
# Rows and tokens of one call.
SHAPES = {
    Device.CPU: ((1, 32), (8, 32), (32, 32), (1, 128), (8, 128)),
    Device.CUDA: ((1, 32), (8, 32), (32, 32), (1, 128), (32, 128), (128, 128)),
}
# The shape whose kernels are listed on a GPU.
LARGE = (32, 128)
# What a person would otherwise do, for each engine; ratios to them stand beside the ratio to FP32.
ALTERNATIVES = {Device.CPU: ("onnx-fp32", "torch-bf16"), Device.CUDA: ("onnx-fp32-cuda", "torch-fp16-cuda")}
FP32 = {Device.CPU: "torch-fp32", Device.CUDA: "torch-fp32-cuda"}
_CALL_S = 0.02
_MOST_CALLS = 20


@dataclass(slots=True)
class Runner:
    """One variant ready to be timed."""

    name: str
    run: Callable[[Request], Any]
    times_ms: dict[tuple[int, int], list[list[float]]] = field(default_factory=dict)


def main() -> None:
    options = _options()
    device = Device(options.device)
    names = options.variants.split(",") if options.variants else _runnable(device, options)
    output = options.output.open("w") if options.output else None
    _print({"kind": "machine", **machine(device, options.commit)}, output)
    source = minilm_source(evaluate=options.evaluate)
    specs = [variant_spec(name) for name in names]
    if options.latency_only:
        artifacts = _written(source, specs, options.models)
    else:
        for manifest in _built(source, specs, options.models):
            _print({"kind": "variant", **_described(manifest, options.models, device)}, output)
        artifacts = [(spec, _artifact(options.models / MODEL / spec.name)) for spec in specs]
    if options.judge_only:
        return
    runners = [_runner(spec, path) for spec, path in artifacts]
    if not options.no_default:
        runners += [_plain_compile(path) for spec, path in artifacts if spec.name == "torch-fp16-cuda"]
    shapes = SHAPES[device]
    inputs = {shape: _tokens(*shape) for shape in shapes}
    for runner in runners:
        for shape in shapes:
            print(f"warm {runner.name} {shape}", file=sys.stderr, flush=True)
            runner.run(inputs[shape])
            runner.run(inputs[shape])
            runner.times_ms[shape] = []
    for _ in range(options.rounds):
        for shape in shapes:
            for runner in runners:
                runner.times_ms[shape].append(_times_ms(runner, inputs[shape]))
    rates = gpu_rates() if device is Device.CUDA else {}
    if rates:
        _print({"kind": "rates", **rates}, output)
    for runner in runners:
        for shape in shapes:
            line = _latency(runner, shape, runners, device)
            if rates:
                line |= over_floors(runner.name, *shape, line["p50_ms"], rates)
            _print({"kind": "latency", **line}, output)
    if rates:
        for runner in runners:
            _print(
                {"kind": "kernels", "variant": runner.name, **gpu_kernels(runner.run, inputs[LARGE])}, output
            )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=[device.value for device in Device])
    parser.add_argument("--models", type=Path, default=Path(".state/bench-models"))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--evaluate", type=int, default=2_000, help="held-out sentences")
    parser.add_argument("--variants", default="", help="names, by default all that run here")
    parser.add_argument("--engines", default=",".join(Engine), help="of the variants that run here")
    parser.add_argument("--training", action="store_true", help="with int8-qat, which trains for minutes")
    parser.add_argument(
        "--latency-only", action="store_true", help="write the artifacts without judging them"
    )
    parser.add_argument("--judge-only", action="store_true", help="build and judge, time nothing")
    parser.add_argument(
        "--no-default", action="store_true", help="without torch.compile in its default mode, slow to warm"
    )
    parser.add_argument("--commit", help="what is measured, where there is no git")
    parser.add_argument("--output", type=Path, help="a file for the lines too")
    return parser.parse_args()


def _runnable(device: Device, options: argparse.Namespace) -> list[str]:
    specs = [status.spec for status in available_recipes() if status.runs_here]
    return [
        spec.name
        for spec in specs
        if spec.device is device
        and spec.engine in options.engines.split(",")
        and (options.training or spec.recipe.name != "int8-qat")
    ]


def _built(source: ModelSource, specs: list[VariantSpec], root: Path) -> Iterator[Manifest]:
    for spec in specs:
        yield from build(source, [spec], root, progress=lambda line: print(line, file=sys.stderr, flush=True))


def _written(source: ModelSource, specs: list[VariantSpec], root: Path) -> list[tuple[VariantSpec, Path]]:
    """The artifacts alone: nothing is compared with the reference."""
    from anabranch.variants.torch_engine.artifact import write_encoder

    root.mkdir(parents=True, exist_ok=True)
    model = source.prepare(root, lambda line: print(line, file=sys.stderr, flush=True))
    builder = OnnxBuilder(model)
    artifacts: list[tuple[VariantSpec, Path]] = []
    for spec in specs:
        suffix = "onnx" if spec.engine is Engine.ONNX else "safetensors"
        path = root / f"{spec.name}.{suffix}"
        if spec.engine is Engine.ONNX:
            onnx.save(builder.build(spec.recipe), str(path))
        else:
            write_encoder(model, spec, path)
        artifacts.append((spec, path))
    return artifacts


def _artifact(folder: Path) -> Path:
    return folder / load_manifest(folder).artifact


def _print(line: dict[str, Any], output: TextIO | None) -> None:
    text = json.dumps(line)
    print(text, flush=True)
    if output is not None:
        output.write(text + "\n")
        output.flush()


def machine(device: Device, commit: str | None = None) -> dict[str, Any]:
    """What was measured, where and when; the commit is this checkout's unless it is told."""
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    packages = [*installed_runtimes(), "numpy", "torch"]
    facts: dict[str, Any] = {
        "device": device.value,
        "commit": commit or head.stdout.strip() or "unknown",
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "utc": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
    }
    if device is Device.CUDA:
        import torch

        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _described(manifest: Manifest, root: Path, device: Device) -> dict[str, Any]:
    return {
        "variant": manifest.variant,
        "size_mb": round(manifest.size_bytes / 1e6, 1),
        "build_s": manifest.build_s,
        "task": asdict(manifest.task) if manifest.task else None,
        "parity": asdict(manifest.parity) if manifest.parity else None,
        "peak_mb": _peak_mb(root / MODEL / manifest.variant, device),
    }


def _peak_mb(folder: Path, device: Device) -> float:
    """Memory that a process of its own needs to load the variant and answer the largest shape."""
    command = [sys.executable, __file__, "--peak", str(folder), device.value]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure_peak(folder: Path, device: Device) -> None:
    """Print the peak in MB: resident memory, or what is taken of the GPU's."""
    free_before = 0
    if device is Device.CUDA:
        import torch

        free_before = torch.cuda.mem_get_info()[0]
    variant = load_variant(folder)
    variant.infer([_tokens(*max(SHAPES[device]))])
    if device is Device.CUDA:
        print((free_before - torch.cuda.mem_get_info()[0]) / 1e6)
    else:
        print(_peak_resident_bytes() / 1e6)


def _peak_resident_bytes() -> int:
    """Of this program: getrusage also counts what the parent had before it started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _runner(spec: VariantSpec, artifact: Path) -> Runner:
    session = open_session(spec.engine, artifact, threads=1, device=spec.device, recipe=spec.recipe.name)
    return Runner(spec.name, session.run)


def _plain_compile(artifact: Path) -> Runner:
    """`torch.compile` as people call it: default mode, FP16, no CUDA graphs."""
    import torch

    from anabranch.variants.torch_engine.artifact import read_encoder

    compiled = torch.compile(read_encoder(artifact).to("cuda"))

    def run(request: Request) -> Array:
        ids, mask = (torch.from_numpy(request[name]).cuda() for name in ("input_ids", "attention_mask"))
        with torch.inference_mode():
            logits: Array = compiled(ids, mask)[0].cpu().numpy()
        return logits

    return Runner("torch.compile default fp16", run)


def _tokens(rows: int, tokens: int) -> Request:
    ids = np.random.default_rng(rows * 1000 + tokens).integers(1000, WORDS, (rows, tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _times_ms(runner: Runner, request: Request) -> list[float]:
    """A few calls in a row: as many as fit into some milliseconds, at least one."""
    times: list[float] = []
    start = time.perf_counter()
    while not times or (len(times) < _MOST_CALLS and time.perf_counter() - start < _CALL_S):
        begin = time.perf_counter()
        runner.run(request)
        times.append((time.perf_counter() - begin) * 1e3)
    return times


def _latency(
    runner: Runner,
    shape: tuple[int, int],
    runners: list[Runner],
    device: Device,
) -> dict[str, Any]:
    rows, tokens = shape
    calls = [ms for turn in runner.times_ms[shape] for ms in turn]
    p50, p99 = np.percentile(calls, [50, 99])
    ratios = {
        f"times_{other.name}": round(_ratio(other, runner, shape), 3)
        for other in runners
        if other.name in (FP32[device], *ALTERNATIVES[device], "torch.compile default fp16")
    }
    return {
        "variant": runner.name,
        "rows": rows,
        "tokens": tokens,
        "p50_ms": round(float(p50), 4),
        "p99_ms": round(float(p99), 4),
        "rows_per_s": round(rows * 1e3 / float(p50), 1),
        "calls": len(calls),
        **ratios,
    }


def _ratio(other: Runner, runner: Runner, shape: tuple[int, int]) -> float:
    """How many times as fast as the other: the median over the rounds."""
    pairs = zip(other.times_ms[shape], runner.times_ms[shape], strict=True)
    return statistics.median(statistics.median(theirs) / statistics.median(ours) for theirs, ours in pairs)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        measure_peak(Path(sys.argv[2]), Device(sys.argv[3]))
    else:
        main()
