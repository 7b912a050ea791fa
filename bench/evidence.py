"""What evidence takes up, and what checking it costs: bytes a tick, and seconds of `verify` and `verify --chain`.

    python -m bench.evidence [--ticks 3000] [--requests 300]

Prints one JSON line. An experiment of three arms runs under a bandit that moves the weights every tick, so that every tick
is a decision: the most there can be to check. Latencies are log-normal, labels come for half of the requests. `text_bytes` is
what the evidence of a tick is as JSON, as it was kept before it was compressed. Seconds are this process's CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anabranch.bandit.evidence import Cell, PairCell
from anabranch.bandit.measures import LATENCY_SCALE
from anabranch.bandit.scales import Histogram
from anabranch.bandit.step import tick
from anabranch.store.codec import evidence_text
from anabranch.store.document import parse
from anabranch.store.engine import new_engine
from anabranch.store.packing import pack
from anabranch.store.sizes import table_sizes
from anabranch.store.sql import SqlStore, open_store
from anabranch.store.verify import Verification, verify, verify_chain

_MEDIANS_MS = {"onnx-fp32": 12.0, "onnx-int8-dynamic": 11.8, "onnx-mixed": 11.9}
_DOCUMENT: dict[str, Any] = {
    "apiVersion": "anabranch/v1",
    "kind": "Experiment",
    "metadata": {"name": "minilm-int8"},
    "spec": {
        "model": "minilm",
        "baseline": "onnx-fp32",
        "candidates": ["onnx-int8-dynamic", "onnx-mixed"],
        "metrics": [
            {"name": "latency", "source": "latency_ms", "role": "objective", "statistic": "p95"},
            {
                "name": "accuracy",
                "source": "feedback.correct",
                "role": "guardrail",
                "nonInferiorityMargin": 0.01,
            },
            {"name": "errors", "source": "error", "role": "guardrail", "max": 0.05},
        ],
        "steps": [
            {"setWeight": 20},
            {"bandit": {"updatePeriod": "1s", "minDuration": "100d", "maxDuration": "200d"}},
        ],
    },
}


class Run:
    """One experiment, driven tick by tick."""

    def __init__(self, store: SqlStore, requests: int) -> None:
        self._store = store
        self._requests = requests
        self._random = np.random.default_rng(7)
        self._experiment = parse(_DOCUMENT)
        self._id = store.apply(_DOCUMENT, "bench", 0.0).id
        self.now = 0.0
        self.text_bytes = 0
        self.packed_bytes = 0

    def tick(self) -> None:
        """A second of traffic, and what the controller does about it."""
        self.now += 1.0
        kept = self._store.experiment(self._experiment.name)
        if kept.state.weights:
            with self._store.ingestion() as ingestion:
                ingestion.add_delta(self._id, *self._outcomes(kept.state.epoch, kept.state.weights))
        evidence = replace(self._store.load_evidence(self._experiment.name, kept.state.cursor), at_s=self.now)
        result = tick(self._experiment, kept.state, evidence, (), self.now)
        self._store.save(
            self._experiment.name,
            expected=kept.state_version,
            state=result.state,
            evidence=evidence,
            decision=result.decision,
        )
        if not evidence.is_empty:
            text = evidence_text(evidence)
            self.text_bytes += len(text)
            self.packed_bytes += len(pack(text))

    def _outcomes(self, epoch: int, weights: Any) -> tuple[list[Cell], list[PairCell]]:
        cells = []
        for arm, share in weights.items():
            count = int(self._random.poisson(self._requests * share))
            latency_ms = self._random.lognormal(np.log(_MEDIANS_MS[arm]), 0.35, count)
            cells.append(
                Cell(
                    epoch=epoch,
                    variant=arm,
                    units=count,
                    requests=count,
                    metrics={
                        "latency_ms": _histogram(LATENCY_SCALE.bins_of(latency_ms)),
                        "compute_ms": _histogram(LATENCY_SCALE.bins_of(latency_ms * 0.8)),
                        "error": _histogram(self._random.random(count) < 0.001),
                        "feedback.correct": _histogram(self._random.random(count // 2) < 0.95),
                    },
                )
            )
        return cells, []


def _histogram(bins: Any) -> Histogram:
    found, counts = np.unique(np.asarray(bins, np.int64), return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _timed(work: Callable[[], Verification]) -> tuple[float, Verification]:
    began = time.process_time()
    found = work()
    assert found.matches, found.first_mismatch or found.problems
    return time.process_time() - began, found


def main() -> None:
    """Run, check, and print."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--ticks", type=int, default=3000)
    arguments.add_argument("--requests", type=int, default=300, help="a tick")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'store.db'}"
        store = open_store(url)
        run = Run(store, given.requests)
        began = time.process_time()
        for _ in range(given.ticks):
            run.tick()
        ticks_s = time.process_time() - began
        chain_s, chained = _timed(lambda: verify_chain(store, "minilm-int8"))
        verify_s, verified = _timed(lambda: verify(store, "minilm-int8"))
        store.close()
        engine = new_engine(url)
        sizes = {size.table: size.size_bytes for size in table_sizes(engine)}
        engine.dispose()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    decisions = len(chained.decisions)
    print(
        json.dumps(
            {
                "bench": "evidence",
                "commit": commit.stdout.strip(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
                "ticks": given.ticks,
                "requests_a_tick": given.requests,
                "decisions": decisions,
                "verdicts_again": verified.verdicts,
                "text_bytes": round(run.text_bytes / given.ticks),
                "packed_bytes": round(run.packed_bytes / given.ticks),
                "smaller": round(run.text_bytes / run.packed_bytes, 2),
                "table_bytes": {name: sizes[name] for name in ("evidence", "decision", "delta")},
                "ticks_cpu_s": round(ticks_s, 2),
                "chain_cpu_s": round(chain_s, 2),
                "verify_cpu_s": round(verify_s, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
