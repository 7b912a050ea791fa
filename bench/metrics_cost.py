"""CPU time that metrics cost a request: noted on the request path, put into buckets with the report.

    python bench/metrics_cost.py [--requests 5000] [--reps 60]

Prints one JSON line. The peer is what prometheus_client would cost on the request path: one labelled histogram observed
and one labelled counter incremented, its children already looked up. The stages take turns within one run; figures are
the best of the turns, in nanoseconds of process CPU time a request, loop overhead taken off.
"""

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

from anabranch.router.metrics.catalogue import REQUESTS
from anabranch.router.metrics.meter import VariantMeter
from anabranch.router.metrics.samples import Tally
from anabranch.store.records import Flag
from anabranch.variants.batching import Timing

TIMING = Timing(0.0004, 0.0021, 4)
FLIGHT: Any = SimpleNamespace(
    flags=Flag.EVIDENCE, is_hedged=False, level=2, took_ms=2.0, model="m", variant="v"
)


def _timed(work: Callable[[], None], count: int) -> float:
    begun = time.process_time_ns()
    work()
    return (time.process_time_ns() - begun) / count


def main() -> None:
    """Measure, and print the line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--reps", type=int, default=60)
    given = parser.parse_args()
    span = range(given.requests)
    meters = {"m": {"v": VariantMeter()}}
    tally = Tally()
    registry = CollectorRegistry()
    borders = REQUESTS.duration.borders
    histogram = Histogram("h", "h", ["m", "v"], buckets=borders, registry=registry).labels("m", "v")
    counter = Counter("c", "c", ["m", "v", "s"], registry=registry).labels("m", "v", "OK")

    def loop() -> None:
        for _ in span:
            pass

    def note() -> None:
        for number in span:
            meters[FLIGHT.model][FLIGHT.variant].note(FLIGHT, 0, 2.0 + number % 7, TIMING)

    def report() -> None:
        meters["m"]["v"].report(tally, "m", "v")
        tally.take()

    def peer() -> None:
        for number in span:
            histogram.observe(0.002 + number % 7)
            counter.inc()

    best = dict.fromkeys(("loop", "note", "report", "peer"), float("inf"))
    for _ in range(given.reps):
        for name, work in (("loop", loop), ("note", note), ("report", report), ("peer", peer)):
            best[name] = min(best[name], _timed(work, given.requests))
    note_ns, report_ns, peer_ns = best["note"] - best["loop"], best["report"], best["peer"] - best["loop"]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    line = {
        "bench": "metrics_cost",
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "requests": given.requests,
        "note_ns": round(note_ns),
        "report_ns": round(report_ns),
        "total_ns": round(note_ns + report_ns),
        "prometheus_client_ns": round(peer_ns),
        "ratio": round((note_ns + report_ns) / peer_ns, 3),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
