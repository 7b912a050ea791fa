"""Run the validation suite: cell by cell, on several processes, and again from where it was interrupted."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from anabranch.bandit.validation.checks import Check, Sense
from anabranch.bandit.validation.registry import Form, chosen, replications, run_cell
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.cli.output import json_line

_REFERENCE = Path(__file__).resolve().parents[1] / "tests" / "data" / "golden-confseq.json"
"""Outputs of another implementation: part of the repository, not of the package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is run.

    Attributes:
        rows: Numbers of the rows wanted; none means all.
        jobs: Processes.
    """

    form: Form
    seed: int
    rows: tuple[str, ...] = ()
    jobs: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One finished cell.

    Attributes:
        cell: Its key.
        seconds: Processor-bound wall time it took.
    """

    cell: str
    seed: int
    replications: int
    seconds: float
    checks: tuple[Check, ...]


def header(plan: Plan) -> dict[str, Any]:
    """What a file of results must agree with to be resumed, and what else was installed."""
    return {
        "suite": "validation",
        "form": plan.form.value,
        "seed": plan.seed,
        "anabranch": metadata.version("anabranch"),
        "python": platform.python_version(),
        "numpy": metadata.version("numpy"),
        "scipy": metadata.version("scipy"),
        "machine": platform.machine(),
    }


def read_results(path: Path, plan: Plan) -> list[Finished]:
    """The finished cells in a file of results; none when there is no file yet.

    A last line that was cut off by an interruption is dropped.

    Raises:
        CommandFailed: when the file is of another form or seed, or no file of results.
    """
    if not path.is_file():
        return []
    head, finished = read_file(path)
    for name in ("suite", "form", "seed"):
        expected = header(plan)[name]
        if head.get(name) != expected:
            raise CommandFailed(
                ExitCode.BAD_INPUT,
                f"{path} holds results of {name} {head.get(name)}, not {expected}",
                "give another --resume file, or the options the file was begun with",
            )
    return finished


def read_file(path: Path) -> tuple[Mapping[str, Any], list[Finished]]:
    """The header and the finished cells of a file of results."""
    lines = path.read_text(encoding="utf-8").split("\n")
    complete = lines[:-1]
    try:
        head, *records = [json.loads(line) for line in complete]
        return head, [_finished(record) for record in records]
    except (ValueError, KeyError, TypeError) as error:
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            f"{path} is no file of results of `anabranch simulate`: {error}",
            "give another",
        ) from error


def run_plan(plan: Plan, path: Path | None, done: Sequence[Finished]) -> Iterator[Finished]:
    """Run the cells that are not finished yet; each is written to the file, if any, before it is yielded.

    Args:
        plan: What to run.
        path: The file of results.
        done: What `read_results` found in it.
    """
    kept = {(one.cell, one.replications) for one in done}
    cells = [
        cell for cell in chosen(plan.form, plan.rows) if (cell.key, replications(cell, plan.form)) not in kept
    ]
    if path is not None:
        _begin(path, plan)
    for finished in _run_all(plan, [cell.key for cell in cells]):
        if path is not None:
            with path.open("a", encoding="utf-8") as file:
                file.write(json_line(asdict(finished)) + "\n")
        yield finished


def in_order(plan: Plan, results: Sequence[Finished]) -> list[Finished]:
    """The results that the plan asks for, in the suite's order; those of fewer or more replications are left out."""
    found = {(one.cell, one.replications): one for one in results}
    wanted = [(cell.key, replications(cell, plan.form)) for cell in chosen(plan.form, plan.rows)]
    return [found[key] for key in wanted if key in found]


def _run_all(plan: Plan, keys: Sequence[str]) -> Iterator[Finished]:
    if plan.jobs == 1:
        for key in keys:
            yield _run_one(key, plan.form, plan.seed)
        return
    # One thread of linear algebra a process: they would fight for the same processors.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    pool = ProcessPoolExecutor(max_workers=plan.jobs, mp_context=get_context("spawn"))
    try:
        waiting = [pool.submit(_run_one, key, plan.form, plan.seed) for key in keys]
        for future in as_completed(waiting):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _run_one(key: str, form: Form, seed: int) -> Finished:
    began = time.perf_counter()
    checks = run_cell(key, form, seed, clock=time.perf_counter, reference=_reference())
    cell = next(cell for cell in chosen(form) if cell.key == key)
    return Finished(
        cell=key,
        seed=seed,
        replications=replications(cell, form),
        seconds=round(time.perf_counter() - began, 2),
        checks=checks,
    )


@lru_cache(maxsize=1)
def _reference() -> Mapping[str, Any] | None:
    if not _REFERENCE.is_file():
        return None
    loaded: Mapping[str, Any] = json.loads(_REFERENCE.read_text(encoding="utf-8"))
    return loaded


def _begin(path: Path, plan: Plan) -> None:
    """Write the header of a new file; cut off the line that an interruption left half-written."""
    if not path.is_file() or not path.stat().st_size:
        path.write_text(json_line(header(plan)) + "\n", encoding="utf-8")
        return
    text = path.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")


def _finished(record: Mapping[str, Any]) -> Finished:
    checks = tuple(Check(**{**check, "sense": Sense(check["sense"])}) for check in record["checks"])
    return Finished(**{**record, "checks": checks})
