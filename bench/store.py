"""What the store costs: statements and milliseconds of a controller's round, on SQLite and on PostgreSQL in turns.

    python bench/store.py [--experiments 1 10] [--rounds 60]

Prints one JSON line. `idle` is a round without news, `busy` one in which every experiment has outcomes to fold in,
`follower` one of a replica that does not lead. Both databases are on this machine: PostgreSQL (with fsync off) is reached by a Unix socket, so that its
figures are work, not the network's delay; multiply its statements by that of yours. `growth` is what a day of rounds that
all have news adds to the database, for one experiment with two candidates.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy

from anabranch.bandit.evidence import Cell, PairCell
from anabranch.router.controller import Controller
from anabranch.router.leadership import Candidate, Following, Leadership
from anabranch.store.engine import new_engine
from anabranch.store.sizes import table_sizes
from anabranch.store.sql import SqlStore, open_store
from anabranch.variants.manifest import VERSION, Manifest
from anabranch.variants.recipes import Engine

_SERVER = Path(__file__).parents[1] / "tests" / "data" / "postgres_server.py"
_CANDIDATES = ("a", "b")
_DAY_ROUNDS = 86_400


def _manifest(model: str, variant: str) -> Manifest:
    return Manifest(
        version=VERSION,
        model=model,
        variant=variant,
        engine=Engine.ONNX,
        recipe={},
        artifact="m.onnx",
        files=(),
        signatures=(),
        outputs=(),
        text=None,
        sources={},
        tools={},
        cache_key="",
        size_bytes=0,
        build_s=0.0,
        parity=None,
        task=None,
        latency=(),
    )


def _document(number: int) -> dict[str, Any]:
    guardrail = {"role": "guardrail"}
    return {
        "apiVersion": "anabranch/v1",
        "kind": "Experiment",
        "metadata": {"name": f"exp-{number}"},
        "spec": {
            "model": f"m{number}",
            "baseline": "base",
            "candidates": list(_CANDIDATES),
            "metrics": [
                {"name": "latency", "source": "latency_ms", "role": "objective", "statistic": "p95"},
                {"name": "accuracy", "source": "feedback.correct", "nonInferiorityMargin": 0.02, **guardrail},
                {"name": "errors", "source": "error", "max": 0.05, **guardrail},
            ],
            "steps": [{"setWeight": 30}, {"pause": {}}],
        },
    }


class Bench:
    """One database with experiments on it, and a controller that leads."""

    def __init__(self, url: str, folder: Path, experiments: int) -> None:
        self.url = url
        self.store: SqlStore = open_store(url)
        self.statements = 0
        self.store.watch(self._heard)
        names = range(experiments)
        self._manifests = {f"m{n}": {v: _manifest(f"m{n}", v) for v in ("base", *_CANDIDATES)} for n in names}
        self.ids = [self.store.apply(_document(n), "bench", 1.0).id for n in names]
        self._folder = folder
        self._now = 1_000.0
        self.leader = self._controller(Candidate(self.store.replicas, "bench#1", 60.0))
        self.follower = self._controller(Following())
        for _ in range(3):
            self.leader.run_once()

    def add_outcomes(self) -> None:
        """What an ingester appends for every experiment in a second: some hundred requests, and as many labels."""
        latencies = dict.fromkeys(range(900, 960), 2)
        with self.store.ingestion() as ingestion:
            for identifier in self.ids:
                cells = [
                    Cell(
                        epoch=1,
                        variant=arm,
                        units=120,
                        requests=120,
                        metrics={
                            "latency_ms": latencies,
                            "compute_ms": latencies,
                            "error": {0: 120},
                            "feedback.correct": {0: 12, 1: 108},
                        },
                    )
                    for arm in ("base", *_CANDIDATES)
                ]
                pairs = [
                    PairCell(epoch=1, variant=arm, pairs=20, metrics={"mirror.top1_agreement": {0: 1, 1: 19}})
                    for arm in _CANDIDATES
                ]
                ingestion.add_delta(identifier, cells, pairs)

    def measure(self, controller: Controller, before: Callable[[], None] | None) -> tuple[int, float, float]:
        """Statements, milliseconds, and milliseconds of this process's CPU, of one round."""
        if before is not None:
            before()
        self._now += 1.0
        self.statements = 0
        began, cpu_began = time.perf_counter(), time.process_time()
        controller.run_once()
        cpu_ms, wall_ms = (
            1e3 * (time.process_time() - cpu_began),
            1e3 * (time.perf_counter() - began),
        )
        return self.statements, wall_ms, cpu_ms

    def size_bytes(self) -> int:
        engine = new_engine(self.url)
        total = sum(size.size_bytes for size in table_sizes(engine))
        engine.dispose()
        return total

    def _controller(self, leadership: Leadership) -> Controller:
        return Controller(
            self.store,
            self._folder,
            manifests=self._manifests,
            baselines=dict.fromkeys(self._manifests, "base"),
            wall_clock=lambda: self._now,
            publish=lambda _: None,
            leadership=leadership,
        )

    def _heard(self, _seconds: float, _failed: bool) -> None:
        self.statements += 1


def _load_server() -> Any:
    spec = importlib.util.spec_from_file_location("postgres_server", _SERVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    programs = module.find_programs()
    if programs is None:
        sys.exit("PostgreSQL's server is not installed: Debian has it as `postgresql`")
    return module.PostgresServer(programs)


def _compare(benches: dict[str, Bench], rounds: int) -> dict[str, Any]:
    """Every kind of round on every database, one after the other, so that they share the machine's moods."""
    seen: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
    for _ in range(rounds):
        for name, bench in benches.items():
            seen.setdefault(("idle", name), []).append(bench.measure(bench.leader, None))
            seen.setdefault(("follower", name), []).append(bench.measure(bench.follower, None))
            seen.setdefault(("busy", name), []).append(bench.measure(bench.leader, bench.add_outcomes))
    found: dict[str, Any] = {}
    for kind in ("idle", "follower", "busy"):
        figures = {
            name: {
                "statements": statistics.mode(count for count, _, _ in seen[kind, name]),
                "median_ms": round(statistics.median(ms for _, ms, _ in seen[kind, name]), 2),
                "median_cpu_ms": round(statistics.median(ms for _, _, ms in seen[kind, name]), 2),
            }
            for name in benches
        }
        ratio = figures["postgresql"]["median_ms"] / figures["sqlite"]["median_ms"]
        found[kind] = {**figures, "postgresql_to_sqlite": round(ratio, 2)}
    return found


def _growth(bench: Bench, rounds: int) -> dict[str, float]:
    """Megabytes a day, with and without the upkeep that removes what was folded in."""
    before = bench.size_bytes()
    for _ in range(rounds):
        bench.measure(bench.leader, bench.add_outcomes)
    grown = bench.size_bytes() - before
    bench.store.upkeep.compact(0.0, limit=10 * rounds)
    engine = new_engine(bench.url)
    raw = engine.raw_connection()
    if engine.dialect.name == "postgresql":
        raw.driver_connection.autocommit = True  # type: ignore[union-attr]  # psycopg's
    raw.cursor().execute("VACUUM FULL" if engine.dialect.name == "postgresql" else "VACUUM")
    raw.close()
    engine.dispose()
    kept = bench.size_bytes() - before
    return {
        "megabytes_a_day": round(grown / rounds * _DAY_ROUNDS / 1e6, 1),
        "megabytes_a_day_compacted": round(kept / rounds * _DAY_ROUNDS / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--experiments", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    server = _load_server()
    try:
        with tempfile.TemporaryDirectory() as folder:
            found: dict[str, Any] = {}
            for experiments in options.experiments:
                benches = {}
                for name in ("sqlite", "postgresql"):
                    place = Path(folder) / f"{name}-{experiments}"
                    place.mkdir()
                    url = (
                        f"sqlite:///{place / 'store.db'}"
                        if name == "sqlite"
                        else server.url(server.new_database())
                    )
                    benches[name] = Bench(url, place, experiments)
                found[f"{experiments} experiments"] = _compare(benches, options.rounds)
                if experiments == 1:
                    found["growth"] = {name: _growth(bench, 300) for name, bench in benches.items()}
                for bench in benches.values():
                    bench.store.close()
    finally:
        server.close()
    about = {
        "bench": "store",
        "commit": commit,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "sqlalchemy": sqlalchemy.__version__,
    }
    print(json.dumps({**about, **found}))


if __name__ == "__main__":
    main()
