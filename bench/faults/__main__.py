"""Drills: real processes, killed at seeded random moments under load, and what that lost.

    python -m bench.faults [--store sqlite|postgres] [--faults 100] [--drills 4] [--seed 1] [--lock-s 0.4]
        [--only FAULT ...] [--keep FOLDER]

Prints a JSON line for each drill and one for all; the exit status is 1 when anything was lost, counted twice or wrong.
Writers are a worker's recorder and journal without models, so that faults are cheap; `tests/e2e/test_faults.py` does the
same to whole servers.
"""

import argparse
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.faults.checking import Found, check, in_new_folder
from bench.faults.database import Database, PostgresDatabase, SqliteFile, start_postgres
from bench.faults.drill import Drill
from bench.faults.seen import Fault, Seen
from bench.faults.world import World


def run_drill(
    folder: Path, server: Any, seed: int, faults: int, lock_s: float, only: list[Fault]
) -> dict[str, Any]:
    """One drill; every second one has sticky units.

    Args:
        folder: An empty one.
        server: A PostgreSQL server to drill two of ours over; None to drill one of ours over a SQLite file.
        seed: Of everything random.
        faults: How many.
        lock_s: How long the database is locked or away, at most.
        only: What goes wrong; everything that can, where it is empty.
    """
    begun = time.monotonic()
    sticky = seed % 2 == 1
    database: Database = (
        SqliteFile(World(folder=folder).database) if server is None else PostgresDatabase(server)
    )
    world = World(folder=folder, store_url=database.store_url)
    seen: Seen = Drill(world, database, seed, sticky=sticky, only=only, lock_s=lock_s).run(faults)
    found: Found = check(world, seen, sticky=sticky)
    return {
        "seed": seed,
        "store": "sqlite" if server is None else "postgres",
        "sticky": sticky,
        "faults": dict(seen.faults),
        "phases": dict(seen.phases),
        "phase": seen.phase,
        "failed_ticks": dict(seen.failed_ticks),
        "controllers": len(seen.lives),
        "took_s": round(time.monotonic() - begun, 1),
        **asdict(found),
    }


def main() -> int:
    """Run the drills."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--faults", type=int, default=100, help="of each drill")
    parser.add_argument("--drills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1, help="of the first drill; the others count on")
    parser.add_argument("--lock-s", type=float, default=0.4, help="longest time without the database")
    parser.add_argument(
        "--only",
        type=Fault,
        nargs="+",
        default=[],
        metavar="FAULT",
        help=", ".join(map(repr, map(str, Fault))),
    )
    parser.add_argument("--keep", type=Path, help="an empty folder to leave the drills' files in")
    options = parser.parse_args()
    results = []
    server = start_postgres() if options.store == "postgres" else None
    try:
        for seed in range(options.seed, options.seed + options.drills):
            with _folder(options.keep, seed) as folder:
                results.append(run_drill(folder, server, seed, options.faults, options.lock_s, options.only))
            print(json.dumps(results[-1]), flush=True)
    finally:
        if server is not None:
            server.close()
    faults: Counter[str] = Counter()
    for result in results:
        faults.update(result["faults"])
    total = {
        key: sum(result[key] for result in results)
        for key in ("answered", "recorded", "counted", "lost", "duplicated", "decisions", "publications")
    }
    wrong = sum(len(result["problems"]) for result in results)
    print(
        json.dumps(
            {
                "bench": "faults",
                "store": options.store,
                "faults": faults.total(),
                **faults,
                **total,
                "problems": wrong,
            }
        )
    )
    return 1 if wrong or total["lost"] or total["duplicated"] else 0


@contextlib.contextmanager
def _folder(keep: Path | None, seed: int) -> Iterator[Path]:
    """Where a drill's files are, and stay if they shall."""
    if keep is None:
        with in_new_folder() as name:
            yield Path(name)
    else:
        (keep / str(seed)).mkdir(parents=True)
        yield keep / str(seed)


if __name__ == "__main__":
    sys.exit(main())
