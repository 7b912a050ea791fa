"""The bench's command line.

python -m bench.dataplane install
python -m bench.dataplane run [--only split,tiny,...] [--peers NAME ...] [--cases NAME ...] [--reps 3] [--seconds 3] [--out FILE] [--memory-minutes 3]
python -m bench.dataplane report [FILE ...]
"""

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from bench.dataplane import cost, encoder, environments, growth, split, tiny, weight_change
from bench.dataplane.places import RESULTS
from bench.dataplane.records import Journal
from bench.dataplane.report import write_page

Scenario = Callable[[Journal, int, float], None]


def main() -> int:
    """Run one command; the exit status is 1 where something could not be installed."""
    parser = argparse.ArgumentParser(prog="python -m bench.dataplane", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    install = commands.add_parser("install", help="install the peers and compile the backend")
    install.add_argument("--only", default="", help="names of environments, with commas")
    run = commands.add_parser("run", help="measure")
    run.add_argument("--only", default="", help="names of scenarios, with commas; all by default")
    run.add_argument("--peers", nargs="*", default=(), help="names of peers as in the tables; all by default")
    run.add_argument("--cases", nargs="*", default=(), help="names of cases, likewise")
    run.add_argument("--reps", type=int, default=3)
    run.add_argument("--seconds", type=float, default=3.0, help="window of one measurement")
    run.add_argument("--out", type=Path, default=None, help="file of JSON lines to append to")
    run.add_argument("--memory-minutes", type=float, default=3.0, help="60 for the long form")
    run.add_argument("--memory-rate", type=float, default=1500.0, help="requests a second of the memory run")
    tables = commands.add_parser("report", help="write the tables and plots of docs/performance.md")
    tables.add_argument("files", type=Path, nargs="*", help="results; the newest file by default")
    options = parser.parse_args()
    match options.command:
        case "install":
            only = frozenset(name for name in options.only.split(",") if name)
            problems = environments.install(_say, only)
            for problem in problems:
                _say(f"NOT INSTALLED  {problem}")
            return 1 if problems else 0
        case "run":
            _run(options)
        case "report":
            write_page(options.files or [sorted(RESULTS.glob("dataplane-*.jsonl"))[-1]], _say)
    return 0


def _run(options: argparse.Namespace) -> None:
    scenarios: dict[str, Scenario] = {
        "split": split.run,
        "tiny": tiny.run,
        "cost": cost.run,
        "weights": weight_change.run,
        "encoder": encoder.run,
        "growth": growth.run,
        "memory": partial(growth.run_memory, minutes=options.memory_minutes, rate=options.memory_rate),
    }
    chosen = [name for name in options.only.split(",") if name] or list(scenarios)
    unknown = sorted(set(chosen) - set(scenarios))
    if unknown:
        sys.exit(f"scenarios {', '.join(unknown)} are unknown: choose from {', '.join(scenarios)}")
    out = options.out or RESULTS / f"dataplane-{datetime.now(UTC):%Y-%m-%d}.jsonl"
    peers, cases = frozenset(options.peers), frozenset(options.cases)
    for name in chosen:
        scenarios[name](Journal(out, _say, peers, cases), options.reps, options.seconds)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
