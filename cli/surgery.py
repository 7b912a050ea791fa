"""What `doctor` examines: each check a function that looks at one thing and says what was found and what to do."""

from __future__ import annotations

import errno
import os
import platform
import re
import resource
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from rich.table import Table
from rich.text import Text

from anabranch.cli.failures import CommandFailed
from anabranch.cli.liveness import is_served
from anabranch.cli.numbers import duration

_DISK_BAD, _DISK_POOR = 100 << 20, 1 << 30
_FILES_POOR = 1_024
_CLOCK_ROOM_S = 5.0
_EPOCH_S = 1_735_689_600.0  # 2025: a clock before it was never set


class Grade(StrEnum):
    """How a check came out."""

    GOOD = "good"
    POOR = "poor"  # works, and may hurt
    BAD = "bad"  # does not work


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found.

    Attributes:
        advice: What to do; empty where nothing is to do.
    """

    check: str
    grade: Grade
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surgery:
    """What is examined.

    Attributes:
        now: What the machine's clock says, in seconds since 1970.
    """

    host: str
    port: int
    state: Path
    models: Path
    store: str
    now: float


def examine(surgery: Surgery) -> list[Finding]:
    """Every check; one that breaks is a finding of its own."""
    findings = []
    for check in CHECKS:
        try:
            findings.append(check(surgery))
        except Exception as error:  # noqa: BLE001  # a doctor does not faint
            name = check.__name__.removeprefix("check_")
            findings.append(
                Finding(
                    check=name,
                    grade=Grade.BAD,
                    found=f"the check broke: {error!r}",
                    advice="please report this",
                )
            )
    return findings


def check_installation(_surgery: Surgery) -> Finding:
    """That the packages of the base installation are there."""
    missing = []
    for text in metadata.requires("anabranch") or []:
        named = re.match(r"[A-Za-z0-9._-]+", text)
        if named is None or "extra ==" in text:
            continue
        try:
            metadata.version(named.group())
        except metadata.PackageNotFoundError:
            missing.append(named.group())
    if missing:
        return Finding(
            check="installation",
            grade=Grade.BAD,
            found=f"missing: {', '.join(missing)}",
            advice="install again: pip install --upgrade 'anabranch[cpu]'",
        )
    found = f"anabranch {metadata.version('anabranch')}, Python {platform.python_version()}"
    return Finding(check="installation", grade=Grade.GOOD, found=found)


def check_runtime(_surgery: Surgery) -> Finding:
    """That ONNX Runtime is there once, and what it runs on."""
    installed = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            installed.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    if len(installed) > 1:
        return Finding(
            check="runtime",
            grade=Grade.BAD,
            found=f"{' and '.join(installed)} own the same files",
            advice="uninstall both, then install one: anabranch[cpu] or anabranch[gpu]",
        )
    if not installed:
        return Finding(
            check="runtime",
            grade=Grade.POOR,
            found="no ONNX Runtime: variants of the onnx engine cannot run",
            advice="pip install 'anabranch[cpu]', or anabranch[gpu]",
        )
    import onnxruntime

    # Azure's is in every build, and calls a service of Microsoft's: nothing runs there here.
    found = [each.removesuffix("ExecutionProvider") for each in onnxruntime.get_available_providers()]
    providers = [each for each in found if each != "Azure"]
    return Finding(check="runtime", grade=Grade.GOOD, found=f"{installed[0]} on {', '.join(providers)}")


def check_torch(_surgery: Surgery) -> Finding:
    """Whether the torch engine is there; it need not be."""
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return Finding(
            check="torch",
            grade=Grade.GOOD,
            found="not installed; only the torch engine needs it: anabranch[torch]",
        )
    return Finding(check="torch", grade=Grade.GOOD, found=f"torch {version}")


def check_processors(_surgery: Surgery) -> Finding:
    """How many processors and files a server may use."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{processors} processors, {files} open files"
    if 0 <= files < _FILES_POOR:
        limit = "unlimited" if most < 0 else most
        return Finding(
            check="processors",
            grade=Grade.POOR,
            found=found,
            advice=f"each connection is a file: raise the limit with `ulimit -n` (allowed: {limit})",
        )
    return Finding(check="processors", grade=Grade.GOOD, found=found)


def check_port(surgery: Surgery) -> Finding:
    """That the port is free, or has our own server."""
    from anabranch.router.ports import check_port as require_free

    place = f"{surgery.host}:{surgery.port}"
    try:
        require_free(surgery.host, surgery.port)
    except socket.gaierror as error:
        return Finding(
            check="port",
            grade=Grade.BAD,
            found=f"{surgery.host} is no address: {error.strerror}",
            advice="check --host",
        )
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return Finding(
                check="port",
                grade=Grade.BAD,
                found=f"{place}: {error.strerror}",
                advice="choose another --host or --port",
            )
        if is_served(surgery.store):
            return Finding(
                check="port", grade=Grade.GOOD, found=f"{place} is taken, and a server runs on this store"
            )
        return Finding(
            check="port",
            grade=Grade.BAD,
            found=f"{place} is taken by another process",
            advice=f"stop it (`ss -ltnp 'sport = :{surgery.port}'` names it), or serve with another --port",
        )
    return Finding(check="port", grade=Grade.GOOD, found=f"{place} is free")


def check_state(surgery: Surgery) -> Finding:
    """That the state folder can be written, and has room."""
    folder = surgery.state
    nearest = next((each for each in (folder, *folder.resolve().parents) if each.is_dir()), Path("/"))
    if not os.access(nearest, os.W_OK | os.X_OK):
        return Finding(
            check="state",
            grade=Grade.BAD,
            found=f"{nearest} cannot be written by this user",
            advice="change its owner, or choose another --state",
        )
    free = shutil.disk_usage(nearest).free
    found = f"{folder} {'is there' if folder.is_dir() else 'will be made'}, {free / (1 << 30):,.1f} GiB free"
    if free < _DISK_BAD:
        return Finding(
            check="state", grade=Grade.BAD, found=found, advice="the journal needs room: free some"
        )
    if free < _DISK_POOR:
        return Finding(
            check="state", grade=Grade.POOR, found=found, advice="the journal grows with traffic: free some"
        )
    return Finding(check="state", grade=Grade.GOOD, found=found)


def check_database(surgery: Surgery) -> Finding:
    """That the database opens and is whole."""
    from anabranch.cli.connection import existing_store, sqlite_path

    try:
        path = sqlite_path(surgery.store)
        if path is not None and not path.is_file():
            return Finding(
                check="database", grade=Grade.GOOD, found=f"{path} is made by `anabranch serve` or `apply`"
            )
        with existing_store(surgery.store) as store:
            experiments = store.experiments()
    except CommandFailed as failure:
        return Finding(check="database", grade=Grade.BAD, found=failure.message, advice=failure.advice)
    going = sum(not each.state.phase.is_over for each in experiments)
    found = f"opens; {len(experiments)} experiments, {going} not over"
    if path is not None and (damage := _damage(path)):
        return Finding(
            check="database", grade=Grade.BAD, found=f"{path} is damaged: {damage}", advice="restore a backup"
        )
    return Finding(check="database", grade=Grade.GOOD, found=found)


def check_server(surgery: Surgery) -> Finding:
    """Whether somebody moves experiments on."""
    served = is_served(surgery.store)
    if served:
        return Finding(check="server", grade=Grade.GOOD, found="a server runs on this store")
    return Finding(
        check="server",
        grade=Grade.GOOD,
        found="no server runs on this store from this machine",
        advice="start one with `anabranch serve`",
    )


def check_clock(surgery: Surgery) -> Finding:
    """That the clock is set, and does not lie before what was decided already."""
    if surgery.now < _EPOCH_S:
        return Finding(
            check="clock",
            grade=Grade.BAD,
            found="the clock was never set",
            advice="set it, for example by NTP",
        )
    from anabranch.cli.connection import existing_store

    try:
        with existing_store(surgery.store) as store:
            latest = max((each.state.epoch_started_s for each in store.experiments()), default=0.0)
    except CommandFailed:
        latest = 0.0
    return clock_finding(
        latest, surgery.now, "the store holds decisions", "set, and after everything that was decided"
    )


def clock_finding(latest: float, now: float, ahead: str, good: str) -> Finding:
    """Whether something was decided after now, by this clock.

    Args:
        latest: When the last thing was, in seconds since 1970; 0 where there is none.
        now: By this clock.
        ahead: What is said before the time, where it lies in the future.
        good: What is said where it does not.
    """
    if latest > now + _CLOCK_ROOM_S:
        return Finding(
            check="clock",
            grade=Grade.BAD,
            found=f"{ahead} {duration(latest - now)} in the future",
            advice="this clock or the server's is wrong: set both by NTP",
        )
    return Finding(check="clock", grade=Grade.GOOD, found=good)


def check_models(surgery: Surgery) -> Finding:
    """That variants are built, and their bytes are what their manifests say."""
    from anabranch.router.models import find_manifests
    from anabranch.variants.errors import VariantError
    from anabranch.variants.manifest import load_manifest

    try:
        found = find_manifests(surgery.models)
    except FileNotFoundError:
        return Finding(
            check="models",
            grade=Grade.POOR,
            found=f"no variants in {surgery.models}",
            advice="build some with `anabranch build`, or say where they are with --models",
        )
    wrong = []
    for model, variants in found.items():
        for variant, manifest in variants.items():
            try:
                if manifest.remote is None:
                    load_manifest(surgery.models / model / variant)
            except VariantError as error:
                wrong.append(f"{model}/{variant}: {error}")
    if wrong:
        return Finding(check="models", grade=Grade.BAD, found="; ".join(wrong), advice="build these again")
    number = sum(len(variants) for variants in found.values())
    names = ", ".join(found)
    return Finding(
        check="models", grade=Grade.GOOD, found=f"{number} variants of {names}, bytes as in their manifests"
    )


def check_terminal(_surgery: Surgery) -> Finding:
    """That tables and bars can be drawn."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    if encoding != "utf8":
        return Finding(
            check="terminal",
            grade=Grade.POOR,
            found=f"stdout is {sys.stdout.encoding}: marks and bars may not show",
            advice="set LANG=C.UTF-8 or PYTHONUTF8=1",
        )
    return Finding(check="terminal", grade=Grade.GOOD, found="UTF-8")


CHECKS: tuple[Callable[[Surgery], Finding], ...] = (
    check_installation,
    check_runtime,
    check_torch,
    check_processors,
    check_port,
    check_state,
    check_database,
    check_server,
    check_clock,
    check_models,
    check_terminal,
)

_MARKS = {Grade.GOOD: ("✓", "green"), Grade.POOR: ("!", "yellow"), Grade.BAD: ("✗", "bold red")}


def findings_table(findings: Sequence[Finding]) -> Table:
    """One line a check; what to do stands below it."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.grade]
        table.add_row(Text(f"{mark} {finding.check}", style=style), finding.found)
        if finding.advice:
            table.add_row("", Text(f"→ {finding.advice}", style="dim" if finding.grade is Grade.GOOD else ""))
    return table


def _damage(path: Path) -> str:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)) as file:
        (answer,) = file.execute("PRAGMA quick_check(1)").fetchone()
    return "" if answer == "ok" else str(answer)
