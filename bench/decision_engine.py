"""CPU time of one tick and size of the state: sixteen variants, eight metrics, after many epochs.

    python bench/decision_engine.py [--epochs 1000] [--requests 2000] [--reps 20]

Prints JSON lines: one per stage of a tick at the end of the run, one for the whole tick early and late in the run, and
one for the state. Every tick begins a new epoch, as fast as a bandit step can. Figures are medians of process CPU time.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from anabranch.bandit.allocation import next_weights
from anabranch.bandit.evidence import Cell, Evidence, PairCell
from anabranch.bandit.fold import fold
from anabranch.bandit.judge import judge
from anabranch.bandit.scales import LATENCY_SCALE, FloatArray
from anabranch.bandit.spec import (
    Algorithm,
    BanditStep,
    Direction,
    Experiment,
    Metric,
    Role,
    Statistic,
)
from anabranch.bandit.state import ExperimentState
from anabranch.bandit.step import tick
from anabranch.store.codec import state_text

_MIN = Direction.MIN
_METRICS = (
    Metric(name="latency", source="latency_ms", role=Role.OBJECTIVE, statistic=Statistic.P95, direction=_MIN),
    Metric(name="fidelity", source="mirror.top1_agreement", role=Role.GUARDRAIL, minimum=0.9),
    Metric(name="accuracy", source="feedback.correct", role=Role.GUARDRAIL, non_inferiority_margin=0.01),
    Metric(name="errors", source="error", role=Role.GUARDRAIL, direction=_MIN, maximum=0.05),
    Metric(
        name="errors-more", source="error", role=Role.GUARDRAIL, direction=_MIN, non_inferiority_margin=0.01
    ),
    Metric(
        name="slo",
        source="latency_ms",
        role=Role.GUARDRAIL,
        statistic=Statistic.P99,
        direction=_MIN,
        maximum=80.0,
    ),
    Metric(name="score", source="feedback.score", role=Role.GUARDRAIL, non_inferiority_margin=0.1, high=5.0),
    Metric(name="compute", source="compute_ms", role=Role.SIGNAL, statistic=Statistic.P50, direction=_MIN),
)
_BANDIT = BanditStep(
    algorithm=Algorithm.THOMPSON,
    max_weight=0.5,
    min_prob=0.02,
    update_period_s=1.0,
    min_duration_s=1e9,
    max_duration_s=1e10,
)
_EXPERIMENT = Experiment(
    name="bench",
    model="m",
    baseline="base",
    candidates=tuple(f"v{number}" for number in range(15)),
    metrics=_METRICS,
    steps=(_BANDIT,),
)


def _histogram(values: FloatArray) -> dict[int, int]:
    bins, counts = np.unique(LATENCY_SCALE.bins_of(values), return_counts=True)
    return {int(index): int(count) for index, count in zip(bins, counts, strict=True)}


def _evidence(state: ExperimentState, number: int, requests: int, rng: np.random.Generator) -> Evidence:
    cells, pairs = [], []
    for arm in _EXPERIMENT.arms:
        n = max(round(requests * state.weights[arm]), 1)
        latencies = _histogram(20.0 * np.exp(0.3 * rng.standard_normal(n)))
        wrong = int(rng.binomial(n, 0.1))
        scores = np.bincount(rng.integers(60, 101, n), minlength=101)
        cells.append(
            Cell(
                epoch=state.epoch,
                variant=arm,
                units=n,
                requests=n,
                metrics={
                    "latency_ms": latencies,
                    "compute_ms": latencies,
                    "error": {0: n},
                    "feedback.correct": {0: wrong, 1: n - wrong},
                    "feedback.score": {int(i): int(c) for i, c in enumerate(scores) if c},
                },
            )
        )
        if arm != _EXPERIMENT.baseline:
            metrics = {"mirror.top1_agreement": {0: 1, 1: 39}, "feedback.correct": {0: 1, 1: 38, 2: 1}}
            pairs.append(PairCell(epoch=state.epoch, variant=arm, pairs=40, metrics=metrics))
    return Evidence(
        experiment="bench",
        first=number,
        last=number,
        cells=tuple(cells),
        pairs=tuple(pairs),
        weights={state.epoch: dict(state.weights)},
    )


def _median_ms(call: Callable[[], object], reps: int) -> float:
    times = []
    for _ in range(reps):
        began = time.process_time()
        call()
        times.append(1e3 * (time.process_time() - began))
    return round(statistics.median(times), 2)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=1_000)
    parser.add_argument("--requests", type=int, default=2_000, help="of all arms, in a tick")
    parser.add_argument("--reps", type=int, default=20)
    options = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    about = {
        "bench": "decision_engine",
        "commit": commit,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "variants": len(_EXPERIMENT.arms),
        "metrics": len(_METRICS),
        "requests_a_tick": options.requests,
    }

    def say(**figures: object) -> None:
        print(json.dumps({**about, **figures}), flush=True)

    rng = np.random.default_rng(1)
    state = tick(_EXPERIMENT, ExperimentState(), Evidence(experiment="bench"), (), 0.0).state
    ticks: list[float] = []
    for number in range(1, options.epochs + 1):
        evidence = _evidence(state, number, options.requests, rng)
        began = time.process_time()
        state = tick(_EXPERIMENT, state, evidence, (), 2.0 * number).state
        ticks.append(1e3 * (time.process_time() - began))
        if sys.stderr.isatty() and number % 50 == 0:
            print(f"\repoch {number}", end="", file=sys.stderr)
    evidence = _evidence(state, options.epochs + 1, options.requests, rng)
    folded = fold(_EXPERIMENT, state, evidence)
    stages = {
        "fold": lambda: fold(_EXPERIMENT, state, evidence),
        "judge": lambda: judge(_EXPERIMENT, folded, 1.0),
        "next weights": lambda: next_weights(_EXPERIMENT, folded, _BANDIT),
    }
    for stage, call in stages.items():
        say(what=stage, epochs=state.epoch, median_ms=_median_ms(call, options.reps))
    early = ticks[5 : max(len(ticks) // 10, 6)]
    late = ticks[-max(len(ticks) // 10, 1) :]
    say(
        what="tick that moves weights, early", epochs=len(early), median_ms=round(statistics.median(early), 2)
    )
    say(what="tick that moves weights, late", epochs=state.epoch, median_ms=round(statistics.median(late), 2))
    held = replace(state, allocated_s=1e9)
    say(
        what="tick that keeps weights",
        epochs=state.epoch,
        median_ms=_median_ms(lambda: tick(_EXPERIMENT, held, evidence, (), 1e9), options.reps),
    )
    size = len(state_text(state).encode())
    say(what="state", epochs=state.epoch, kilobytes_a_variant=round(size / 1e3 / len(_EXPERIMENT.arms), 1))


if __name__ == "__main__":
    main()
