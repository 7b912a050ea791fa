"""Every recipe of the language model on this CPU: size, quality, memory, time to first token and time per token.

    python bench/variants/llm.py [--models DIR] [--as-built] [--rounds 8] [--variants a,b] [--output FILE]

Prints JSON lines: one for the machine, one a variant, one a variant and prompt. Variants take turns inside every round,
so that a ratio compares times that lie seconds apart. The obvious alternative, the same decoder in eager torch, takes its
turn as well. One thread works on a call unless a line says otherwise.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from anabranch.variants.llm.build import REFERENCE, build_language_model
from anabranch.variants.llm.decoder import DecoderShape, read_decoder
from anabranch.variants.llm.decoder_session import CHUNK
from anabranch.variants.llm.generation import Answering, Stepper, generate
from anabranch.variants.llm.generator import load_generator, open_decoder
from anabranch.variants.llm.gguf_file import GgufFile
from anabranch.variants.llm.kv_cache import CacheGeometry, Window
from anabranch.variants.llm.parallel.module import Shard
from anabranch.variants.llm.parallel.shards import shard
from anabranch.variants.llm.recipes import LANGUAGE_RECIPES, LanguageSpec
from anabranch.variants.llm.sampling import Sampling
from anabranch.variants.llm.smollm2 import MODEL, evaluation_text, gguf_path, read_vocabulary, smollm2_source
from anabranch.variants.manifest import Manifest, load_manifest
from anabranch.variants.recipes import Engine

# Tokens of the prompt; the longer one fills the windows.
PROMPTS = (64, 600)
ANSWER = 24
EAGER = "torch eager fp32"
# Rounds in which as many generations as cores run at once.
_RATES = 3


@dataclass(slots=True)
class Runner:
    """One variant ready to be timed: first tokens and further tokens by prompt, a list a round."""

    name: str
    session: Stepper
    window: Window | None
    ttft_ms: dict[int, list[float]] = field(default_factory=dict)
    tpot_ms: dict[int, list[float]] = field(default_factory=dict)


class EagerSession:
    """The decoder as a person would write it in torch: one process, FP32, nothing compiled."""

    shares_steps = False

    def __init__(self, shape: DecoderShape, weights: dict[str, NDArray[np.float32]]) -> None:
        self._shard = Shard(shape, weights, lambda _part: None)
        self.geometry = CacheGeometry(
            layers=shape.layers, heads=shape.kv_heads, size=shape.head_size, dtype="float32"
        )

    def new_cache(self, window: Window | None, tokens: int) -> Any:
        assert window is None
        return _EagerCache(self._shard.new_cache(tokens))

    def step(self, cache: Any, tokens: Sequence[int], wanted: int = 1) -> NDArray[np.float32]:
        hidden = self._shard.read(cache.rows, tokens, cache.used)
        cache.used += len(tokens)
        return self._shard.logits(hidden[-wanted:])

    def close(self) -> None:
        return


@dataclass(slots=True)
class _EagerCache:
    rows: Any
    used: int = 0
    most_tokens: int = CHUNK


def main() -> None:
    options = _options()
    names = options.variants.split(",") if options.variants else _in_one_process()
    output = options.output.open("w") if options.output else None
    _print({"kind": "machine", **machine()}, output)
    if options.as_built:
        manifests = [load_manifest(options.models / MODEL / name) for name in names]
    else:
        manifests = list(_built(names, options.models))
    for manifest in manifests:
        _print({"kind": "variant", **_described(manifest, options.models)}, output)
    runners = [_runner(manifest, options.models) for manifest in manifests]
    runners.append(_eager())
    text = tokens_of_the_text()
    for number in range(options.rounds + 1):
        for prompt in PROMPTS:
            for runner in runners:
                # The first round is for the caches of the processor and of the engines.
                _run(runner, text[number * 16 : number * 16 + prompt], counts=number > 0)
    for runner in runners:
        for prompt in PROMPTS:
            _print({"kind": "speed", **_speed(runner, prompt, runners)}, output)
    rates: dict[str, list[float]] = {runner.name: [] for runner in runners}
    for _ in range(_RATES):
        for runner in runners:
            rates[runner.name].append(_tokens_per_s(runner, text))
    cores = len(os.sched_getaffinity(0))
    for name, found in rates.items():
        rate = round(statistics.median(found), 1)
        _print({"kind": "throughput", "variant": name, "generations": cores, "tokens_per_s": rate}, output)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path(".state/bench-models"))
    parser.add_argument("--as-built", action="store_true", help="take the variants as they are in --models")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--variants", default="", help="names, by default all that one process runs")
    parser.add_argument("--output", type=Path, help="a file for the lines too")
    return parser.parse_args()


def _in_one_process() -> list[str]:
    specs = [LanguageSpec(recipe=recipe) for recipe in LANGUAGE_RECIPES]
    return [spec.name for spec in specs if spec.engine is Engine.ONNX]


def _built(names: list[str], root: Path) -> Iterator[Manifest]:
    for name in names:
        yield from build_language_model(
            smollm2_source(), [name], root, progress=lambda line: print(line, file=sys.stderr, flush=True)
        )


def _print(line: dict[str, Any], output: TextIO | None) -> None:
    text = json.dumps(line)
    print(text, flush=True)
    if output is not None:
        output.write(text + "\n")
        output.flush()


def machine(commit: str | None = None) -> dict[str, Any]:
    """What was measured, where and when; the commit is this checkout's unless it is told."""
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "commit": commit or head.stdout.strip() or "unknown",
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("onnxruntime", "numpy", "torch")},
        "utc": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
    }


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _described(manifest: Manifest, root: Path) -> dict[str, Any]:
    generation = manifest.generation
    assert generation is not None
    return {
        "variant": manifest.variant,
        "size_mb": round(manifest.size_bytes / 1e6, 1),
        "build_s": manifest.build_s,
        "cache_mb": round(generation.cache_bytes / 1e6, 1),
        "fidelity": asdict(generation.fidelity) if generation.fidelity else None,
        "perplexity": asdict(generation.perplexity) if generation.perplexity else None,
        "tail": asdict(generation.tail) if generation.tail else None,
        "peak_mb": _peak_mb(root / MODEL / manifest.variant),
    }


def _peak_mb(folder: Path) -> float:
    """Memory that a process of its own needs to load the variant and answer the longer prompt."""
    command = [sys.executable, __file__, "--peak", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure_peak(folder: Path) -> None:
    """Print the peak of resident memory in MB."""
    generator = load_generator(folder)
    prompt = tokens_of_the_text()[: PROMPTS[-1]]
    for _ in generator.events(generator.answering_tokens(prompt, Sampling(max_tokens=4), stops=frozenset())):
        pass
    # The kernel's own mark of this program: what getrusage says begins with the parent's.
    lines = Path("/proc/self/status").read_text().splitlines()
    print(round(int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1.024 / 1e3, 1))


def _runner(manifest: Manifest, root: Path) -> Runner:
    assert manifest.generation is not None
    session = open_decoder(root / MODEL / manifest.variant, manifest.artifact, threads=1)
    return Runner(manifest.variant, session, manifest.generation.window)


def _eager() -> Runner:
    import torch

    torch.set_num_threads(1)
    decoder = read_decoder(GgufFile(gguf_path()))
    return Runner(EAGER, EagerSession(decoder.shape, shard(decoder, 1, 0)), None)


def tokens_of_the_text() -> list[int]:
    from anabranch.variants.llm.byte_pairs import BytePairs

    pieces = BytePairs(read_vocabulary(GgufFile(gguf_path())))
    return pieces.encode(evaluation_text()[:20_000])


def _run(runner: Runner, prompt: Sequence[int], *, counts: bool) -> int:
    """One answer; returns its tokens."""
    cache = runner.session.new_cache(runner.window, len(prompt) + ANSWER)
    answering = Answering(prompt, Sampling(max_tokens=ANSWER), stops=frozenset(), draw=lambda: 0.0)
    events = generate(runner.session, cache, answering, is_cancelled=lambda: False)
    times = [time.perf_counter(), *(time.perf_counter() for _ in events)]
    if counts:
        runner.ttft_ms.setdefault(len(prompt), []).append(1e3 * (times[1] - times[0]))
        runner.tpot_ms.setdefault(len(prompt), []).append(1e3 * (times[-1] - times[1]) / (len(times) - 2))
    return len(times) - 1


def _speed(runner: Runner, prompt: int, runners: list[Runner]) -> dict[str, Any]:
    first, other = runner.ttft_ms[prompt], runner.tpot_ms[prompt]
    line: dict[str, Any] = {
        "variant": runner.name,
        "prompt": prompt,
        "ttft_p50_ms": round(statistics.median(first), 1),
        "ttft_max_ms": round(max(first), 1),
        "tpot_p50_ms": round(statistics.median(other), 2),
        "tpot_max_ms": round(max(other), 2),
        "tokens_per_s": round(1e3 / statistics.median(other), 1),
        "answers": len(other),
    }
    for peer in runners:
        if peer.name in (REFERENCE, EAGER):
            line[f"ttft_times_{peer.name}"] = _ratio(peer.ttft_ms[prompt], first)
            line[f"tpot_times_{peer.name}"] = _ratio(peer.tpot_ms[prompt], other)
    return line


def _ratio(theirs: list[float], ours: list[float]) -> float:
    """How many times as fast as the other: the median over the rounds."""
    return round(statistics.median(their / our for their, our in zip(theirs, ours, strict=True)), 2)


def _tokens_per_s(runner: Runner, text: list[int]) -> float:
    """Tokens a second of as many generations at once as there are cores."""
    made: list[int] = []
    threads = [
        threading.Thread(target=lambda: made.append(_run(runner, text[: PROMPTS[0]], counts=False)))
        for _ in range(len(os.sched_getaffinity(0)))
    ]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(made) / (time.perf_counter() - start)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        measure_peak(Path(sys.argv[2]))
    else:
        main()
