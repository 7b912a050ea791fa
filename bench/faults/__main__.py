"""Drills: real processes, killed at seeded random moments under load, and what that lost.

    python -m bench.faults [--faults 100] [--drills 4] [--seed 1] [--lock-s 0.4] [--keep FOLDER]

Prints a JSON line for each drill and one for all; the exit status is 1 when anything was lost, counted twice or wrong.
Writers are a worker's recorder and journal without models, so that faults are cheap; `tests/e2e/test_faults.py` does the
same to whole servers.
"""

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.faults.checking import Found, check, in_new_folder
from bench.faults.drill import Drill, Seen
from bench.faults.world import World


def run_drill(world: World, seed: int, faults: int, lock_s: float) -> dict[str, Any]:
    """One drill; every second one has sticky units."""
    begun = time.monotonic()
    sticky = seed % 2 == 1
    seen: Seen = Drill(world, seed, sticky=sticky, lock_s=lock_s).run(faults)
    found: Found = check(world, seen, sticky=sticky)
    return {
        "seed": seed,
        "sticky": sticky,
        "faults": dict(seen.faults),
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
    parser.add_argument("--faults", type=int, default=100, help="of each drill")
    parser.add_argument("--drills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1, help="of the first drill; the others count on")
    parser.add_argument("--lock-s", type=float, default=0.4, help="longest lock of the database")
    parser.add_argument("--keep", type=Path, help="an empty folder to leave the drills' files in")
    options = parser.parse_args()
    results = []
    for seed in range(options.seed, options.seed + options.drills):
        if options.keep:
            folder = options.keep / str(seed)
            folder.mkdir(parents=True)
            results.append(run_drill(World(folder=folder), seed, options.faults, options.lock_s))
        else:
            with in_new_folder() as name:
                results.append(run_drill(World(folder=Path(name)), seed, options.faults, options.lock_s))
        print(json.dumps(results[-1]), flush=True)
    faults: Counter[str] = Counter()
    for result in results:
        faults.update(result["faults"])
    total = {
        key: sum(result[key] for result in results)
        for key in ("answered", "recorded", "counted", "lost", "duplicated", "decisions", "publications")
    }
    wrong = sum(len(result["problems"]) for result in results)
    print(json.dumps({"bench": "faults", "faults": faults.total(), **faults, **total, "problems": wrong}))
    return 1 if wrong or total["lost"] or total["duplicated"] else 0


if __name__ == "__main__":
    sys.exit(main())
