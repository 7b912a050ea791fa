"""What it costs to read the journal back, beside reading it record by record.

Each line is one kind of record: microseconds a record, records a second, and the ratio to the record-by-record form of the
same rules (`bench/record_by_record.py`), read in turns from the same journal into stores of the same kind.

    python -m bench.ingestion [--records 100000] [--reps 3] [--store sqlite]
"""

import argparse
import json
import os
import platform
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from anabranch.store.ingest import Ingested, ingest
from anabranch.store.journal import JournalWriter
from anabranch.store.memory import MemoryStore
from anabranch.store.port import Store
from anabranch.store.records import Feedback, Flag, Pair, Record, Routed
from anabranch.store.sql import open_store
from bench.record_by_record import ingest_one_by_one

Reader = Callable[[Store, Path], Ingested]
_DOCUMENT: dict[str, Any] = {
    "apiVersion": "anabranch/v1",
    "kind": "Experiment",
    "metadata": {"name": "exp"},
    "spec": {
        "model": "m",
        "baseline": "base",
        "candidates": ["a", "b"],
        "metrics": [
            {
                "name": "latency",
                "source": "latency_ms",
                "role": "objective",
                "statistic": "p95",
                "direction": "min",
            },
            {
                "name": "accuracy",
                "source": "feedback.correct",
                "role": "guardrail",
                "nonInferiorityMargin": 0.05,
            },
        ],
        "steps": [{"setWeight": 50}],
    },
}
_ROUTED = Routed(
    at_s=1.0,
    experiment=1,
    epoch=1,
    arm=0,
    flags=Flag.EVIDENCE,
    status=0,
    latency_ms=1.0,
    queue_ms=0.1,
    compute_ms=0.5,
    batch_rows=4,
    propensity=0.5,
    sequence=0,
    unit=bytes(16),
)


def _routed(rng: random.Random, sequence: int) -> Routed:
    return replace(
        _ROUTED,
        arm=rng.randrange(3),
        latency_ms=rng.lognormvariate(1.0, 0.5),
        compute_ms=rng.lognormvariate(0.0, 0.5),
        sequence=sequence,
    )


def _sticky(rng: random.Random, sequence: int, *, share: float) -> Routed:
    """A request of a sticky unit; this share of them are their unit's first."""
    unit = sequence if rng.random() < share else int(sequence * rng.random())
    return replace(
        _routed(rng, sequence), flags=Flag.EVIDENCE | Flag.STICKY, unit=unit.to_bytes(8, "little") * 2
    )


def _pair(rng: random.Random, sequence: int) -> Pair:
    return Pair(
        at_s=1.0,
        experiment=1,
        epoch=1,
        arm=1 + rng.randrange(2),
        status=0,
        agrees=True,
        baseline_top1=1,
        top1=1,
        max_abs=0.0,
        cosine=1.0,
        sequence=sequence,
    )


def _feedback(_rng: random.Random, sequence: int) -> Feedback:
    return Feedback(
        at_s=1.0,
        experiment=1,
        epoch=1,
        arm=1,
        flags=Flag.EVIDENCE,
        lane=1,
        sequence=sequence,
        top1=1,
        is_label=False,
        value=1.0,
        metric="correct",
    )


# By name: how a record is made, and how many go into one commit.
_KINDS: dict[str, tuple[Callable[[random.Random, int], Record], int]] = {
    "requests, 32 a commit": (_routed, 32),
    "requests, 1 a commit": (_routed, 1),
    "sticky requests, 1 in 10 a new unit": (lambda rng, n: _sticky(rng, n, share=0.1), 32),
    "sticky requests, every one a new unit": (lambda rng, n: _sticky(rng, n, share=1.0), 32),
    "compared replies": (_pair, 32),
    "feedback": (_feedback, 32),
}


@contextmanager
def _store(kind: str) -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        store: Store = MemoryStore() if kind == "memory" else open_store(f"sqlite:///{folder}/store.db")
        store.apply(_DOCUMENT, "bench", 0.0)
        yield store
        store.close()


def _read_all(reader: Reader, journal: Path, records: int, kind: str) -> float:
    """Microseconds of CPU a record."""
    with _store(kind) as store:
        begun = time.process_time()
        found = 0
        while read := reader(store, journal).records:
            found += read
        took = time.process_time() - begun
        assert found == records
    return 1e6 * took / records


def _measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    make, group = _KINDS[name]
    rng = random.Random(2026)
    with tempfile.TemporaryDirectory() as folder:
        writer = JournalWriter(Path(folder), 1)
        for sequence in range(options.records):
            writer.append(make(rng, sequence))
            if sequence % group == group - 1:
                writer.commit()
        writer.close()
        took: dict[str, list[float]] = {"in bulk": [], "one by one": []}
        for _ in range(options.reps):
            took["in bulk"].append(_read_all(ingest, Path(folder), options.records, options.store))
            took["one by one"].append(
                _read_all(ingest_one_by_one, Path(folder), options.records, options.store)
            )
    bulk, plain = median(took["in bulk"]), median(took["one by one"])
    return {
        "kind": name,
        "us_per_record": round(bulk, 3),
        "records_per_s": round(1e6 / bulk),
        "one_by_one_us": round(plain, 3),
        "ratio": round(bulk / plain, 3),
        "spread_us": [round(min(took["in bulk"]), 3), round(max(took["in bulk"]), 3)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=100_000, help="records of each kind")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--store", choices=("sqlite", "memory"), default="sqlite")
    parser.add_argument("--only", help="kinds whose name contains this")
    options = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    for name in _KINDS:
        if options.only and options.only not in name:
            continue
        line = {
            "bench": "ingestion",
            "commit": commit.stdout.strip(),
            "machine": machine,
            "store": options.store,
        }
        print(
            json.dumps({**line, "records": options.records, "reps": options.reps, **_measure(name, options)})
        )


if __name__ == "__main__":
    main()
