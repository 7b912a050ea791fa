"""One JSON line a measurement: what was measured on what, from which commit, with which versions."""

import dataclasses
import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anabranch.proto.native import describe_native
from bench.dataplane.load_plan import LoadResult
from bench.dataplane.places import REPOSITORY

_OUR_PACKAGES = ("ngh2", "uvloop", "onnxruntime", "numpy", "protobuf")


@dataclasses.dataclass(frozen=True, slots=True)
class Journal:
    """Where results go, and of whom.

    Attributes:
        path: A file of JSON lines, appended to.
        say: Takes one line for people.
        peers: Who is measured; everybody if empty.
        cases: What is measured; everything if empty.
    """

    path: Path
    say: Callable[[str], None]
    peers: frozenset[str] = frozenset()
    cases: frozenset[str] = frozenset()

    def write(self, scenario: str, case: str, peer: str, rep: int, **fields: Any) -> None:
        """Append one measurement."""
        line = {
            "bench": "dataplane",
            "scenario": scenario,
            "case": case,
            "peer": peer,
            "rep": rep,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "load_average": round(os.getloadavg()[0], 2),
            **commit(),
            "machine": machine(),
            **fields,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.say(f"{scenario:10} {case:18} {peer:28} {_brief(fields)}")

    def result(
        self,
        scenario: str,
        case: str,
        peer: str,
        rep: int,
        *,
        version: str,
        load: Mapping[str, Any],
        result: LoadResult,
    ) -> None:
        """Append what the generator saw."""
        seen = dataclasses.asdict(result)
        del seen["timeline"]
        self.write(scenario, case, peer, rep, version=version, load=dict(load), result=seen)

    def unavailable(self, scenario: str, peer: str, reason: str) -> None:
        """Append that a peer could not be measured, and why: it stays in the tables."""
        self.write(scenario, "", peer, 0, unavailable=reason)


@cache
def commit() -> dict[str, Any]:
    """The commit, and whether the files measured are exactly its own."""
    return {
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "is_clean": not _git("status", "--porcelain", "--untracked-files=no"),
    }


@cache
def machine() -> dict[str, Any]:
    """The machine and the versions of what the project itself runs on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _OUR_PACKAGES} | {"native": describe_native()},
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    return done.stdout.strip()


def _cpu_model() -> str:
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    fields = {name.strip(): value.strip() for name, _, value in lines}
    name = fields.get("model name", "unknown")
    return f"{name}, family {fields.get('cpu family')}, model {fields.get('model')}"


def _brief(fields: Mapping[str, Any]) -> str:
    result = fields.get("result")
    if result is None:
        return json.dumps({key: value for key, value in fields.items() if key not in ("load", "version")})[
            :160
        ]
    return (
        f"{result['cpu_us']:9.1f} µs  {result['rps']:9.1f}/s  p50 {result['p50_ms']:8.3f} ms  "
        f"p99 {result['p99_ms']:8.3f} ms  core {result['cpu_share']:.0%}  failed {result['failed']}"
    )
