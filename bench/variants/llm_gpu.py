"""Every recipe of the language model on this GPU: quality, memory, time to first token, time per token, streams at once.

    python bench/variants/llm_gpu.py [--models DIR] [--rounds 8] [--variants a,b] [--output FILE]

Prints JSON lines of the kinds of `llm.py`, for `llm_tables.py`. Variants take turns inside every round, each alone in its
batch; the obvious alternative is the same decoder in eager FP16. The floor of a token is every byte of the weights once,
at the rate of a large copy.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from gpu_floor import gpu_rates  # type: ignore[import-not-found]  # they lie beside this script
from llm import PROMPTS, machine, tokens_of_the_text  # type: ignore[import-not-found]
from llm_streams import Told, drive  # type: ignore[import-not-found]

from anabranch.variants.errors import RecipeError
from anabranch.variants.llm.build import build_language_model
from anabranch.variants.llm.decode_batch import DecodeBatch
from anabranch.variants.llm.generator import Generator, load_generator
from anabranch.variants.llm.recipes import LANGUAGE_SPECS
from anabranch.variants.llm.smollm2 import MODEL, smollm2_source
from anabranch.variants.manifest import Manifest
from anabranch.variants.recipes import Device

PEERS = ("torch-fp32-cuda", "torch-fp16-cuda")
ANSWER = 64
STREAMS = (1, 4, 8, 16)
_STREAM_ROUNDS = 3


@dataclass(slots=True)
class Runner:
    """A variant ready to be timed: first tokens and further tokens by prompt, a list a round."""

    manifest: Manifest
    generator: Generator
    batch: DecodeBatch
    peak_mb: float
    ttft_ms: dict[int, list[float]] = field(default_factory=dict)
    tpot_ms: dict[int, list[float]] = field(default_factory=dict)

    def answer(self, prompts: list[Sequence[int]]) -> list[Told]:
        """Answers to all of them at once."""
        told: list[Told] = drive(self.generator, self.batch, prompts, ANSWER)
        return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path(".state/bench-models"))
    parser.add_argument("--variants", default=",".join(_on_gpu()))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--commit", help="what is measured, where there is no git")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    lines: list[dict[str, Any]] = []

    def say(kind: str, **fields: Any) -> None:
        lines.append({"kind": kind, **fields})
        print(json.dumps(lines[-1]), flush=True)
        if options.output:
            options.output.write_text("".join(json.dumps(line) + "\n" for line in lines))

    say("machine", device="cuda", gpu=torch.cuda.get_device_name(), **machine(options.commit))
    rates = gpu_rates()
    say("rates", **rates)
    runners = []
    for name in options.variants.split(","):
        try:
            [manifest] = build_language_model(smollm2_source(), [name], options.models, progress=_tell)
        except RecipeError as error:
            _tell(str(error))
            continue
        runners.append(_loaded(manifest, options.models))
        say("variant", **_described(runners[-1]))
    text = tokens_of_the_text()
    for number in range(options.rounds + 1):
        for prompt in PROMPTS:
            for runner in runners:
                start = number * 16
                [told] = runner.answer([text[start : start + prompt]])
                # In the first round kernels are compiled and graphs recorded.
                if number:
                    runner.ttft_ms.setdefault(prompt, []).append(1e3 * told.times[0])
                    pace = (told.times[-1] - told.times[0]) / (len(told.times) - 1)
                    runner.tpot_ms.setdefault(prompt, []).append(1e3 * pace)
    for runner in runners:
        for prompt in PROMPTS:
            say("speed", **_speed(runner, prompt, runners, rates["bytes"]))
    for streams in STREAMS:
        found: dict[str, list[float]] = {}
        for number in range(_STREAM_ROUNDS + 1):
            for runner in runners:
                prompts = [text[97 * at : 97 * at + PROMPTS[0]] for at in range(number, number + streams)]
                told = runner.answer(prompts)
                if number:
                    made = sum(len(each.tokens) for each in told) / max(each.times[-1] for each in told)
                    found.setdefault(runner.manifest.variant, []).append(made)
        for name, each in found.items():
            rate = round(statistics.median(each), 1)
            say("throughput", variant=name, generations=streams, tokens_per_s=rate)


def _on_gpu() -> list[str]:
    return [spec.name for spec in LANGUAGE_SPECS if spec.device is Device.CUDA]


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _loaded(manifest: Manifest, root: Path) -> Runner:
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    generator = load_generator(root / MODEL / manifest.variant)
    batch = generator.new_batch(max(STREAMS), time.perf_counter)
    assert batch is not None, "variants on a GPU share steps"
    peak_mb = round((torch.cuda.max_memory_allocated() - held) / 1e6, 1)
    return Runner(manifest, generator, batch, peak_mb)


def _described(runner: Runner) -> dict[str, Any]:
    manifest = runner.manifest
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
        "peak_mb": runner.peak_mb,
    }


def _speed(runner: Runner, prompt: int, runners: list[Runner], bandwidth: float) -> dict[str, Any]:
    first, other = runner.ttft_ms[prompt], runner.tpot_ms[prompt]
    tpot_ms = statistics.median(other)
    floor_ms = 1e3 * runner.manifest.size_bytes / bandwidth
    line: dict[str, Any] = {
        "variant": runner.manifest.variant,
        "prompt": prompt,
        "ttft_p50_ms": round(statistics.median(first), 2),
        "ttft_max_ms": round(max(first), 2),
        "tpot_p50_ms": round(tpot_ms, 3),
        "tpot_max_ms": round(max(other), 3),
        "answers": len(other),
        "floor_ms": round(floor_ms, 4),
        "over_floor": round(tpot_ms / floor_ms, 1),
    }
    for peer in runners:
        if peer.manifest.variant in PEERS:
            name = peer.manifest.variant
            line[f"ttft_times_{name}"] = _ratio(peer.ttft_ms[prompt], first)
            line[f"tpot_times_{name}"] = _ratio(peer.tpot_ms[prompt], other)
    return line


def _ratio(theirs: list[float], ours: list[float]) -> float:
    """How many times as fast as the other: the median over the rounds."""
    return round(statistics.median(their / our for their, our in zip(theirs, ours, strict=True)), 2)


if __name__ == "__main__":
    main()
