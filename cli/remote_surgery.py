"""What `doctor --server` examines: a server as it looks from here, by its control port."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from typing import Final

from anabranch.cli.failures import CommandFailed
from anabranch.cli.numbers import milliseconds
from anabranch.cli.remote_store import translated
from anabranch.cli.servers import connect
from anabranch.cli.surgery import Finding, Grade, clock_finding
from anabranch.client import values
from anabranch.client.sync import Client

_TIMEOUT_S: Final = 10.0
_SLOW_MS: Final = 1_000.0


def examine_server(server: str, now: float) -> list[Finding]:
    """Every check; where the server does not answer there is one finding, that it does not.

    Args:
        server: Its control port, as in `--server`.
        now: What this machine's clock says, in seconds since 1970.
    """
    try:
        with connect(server, timeout_s=_TIMEOUT_S) as client:
            begun = time.perf_counter()
            with translated():
                caller = client.who_am_i()
            took_ms = (time.perf_counter() - begun) * 1e3
            return [
                _connection(server, took_ms),
                _caller(caller),
                _release(caller.server_version, metadata.version("anabranch")),
                _looked("variants", lambda: _variants(client)),
                _looked("experiments", lambda: _experiments(client)),
                _looked("clock", lambda: _clock(client, now)),
            ]
    except CommandFailed as failure:
        return [
            Finding(
                check="connection",
                grade=Grade.BAD,
                found=failure.message,
                advice=failure.advice
                or f"see that `anabranch serve --control-port` runs there, that {server} is its control port and no other, "
                "and that nothing between drops it",
            )
        ]


def _looked(name: str, check: Callable[[], Finding]) -> Finding:
    """A check that the server may refuse."""
    try:
        with translated():
            return check()
    except CommandFailed as failure:
        return Finding(check=name, grade=Grade.POOR, found=failure.message, advice=failure.advice)


def _connection(server: str, took_ms: float) -> Finding:
    slow = took_ms > _SLOW_MS
    return Finding(
        check="connection",
        grade=Grade.POOR if slow else Grade.GOOD,
        found=f"{server} answers in {milliseconds(took_ms)} ms, the connection included",
        advice="it is far away, or busy: `anabranch_store_statement_seconds` of its metrics says whether its database is slow"
        if slow
        else "",
    )


def _caller(caller: values.Caller) -> Finding:
    models = f" for {', '.join(caller.models)}" if caller.models else ""
    may = ", ".join(caller.permissions) or "nothing"
    return Finding(
        check="caller", grade=Grade.GOOD, found=f"you are {caller.actor}, {caller.role}{models}: {may}"
    )


def _release(theirs: str, ours: str) -> Finding:
    if theirs == ours:
        return Finding(check="release", grade=Grade.GOOD, found=f"anabranch {ours}, there and here")
    return Finding(
        check="release",
        grade=Grade.POOR,
        found=f"anabranch {theirs} there, {ours} here",
        advice="what one of them does not know is refused: install the same release",
    )


def _variants(client: Client) -> Finding:
    served = client.variants()
    if not served:
        return Finding(
            check="variants",
            grade=Grade.POOR,
            found="it serves no variants that you may see",
            advice="`anabranch whoami` says which models you may touch",
        )
    numbers = Counter(each.model for each in served)
    found = ", ".join(f"{count} of {model}" for model, count in sorted(numbers.items()))
    failed = [f"{each.model}/{each.name}" for each in served if each.gate == "FAIL"]
    if failed:
        return Finding(
            check="variants",
            grade=Grade.POOR,
            found=f"{found}; failed the offline gate: {', '.join(failed)}",
            advice="they are no candidates, unless forced",
        )
    return Finding(check="variants", grade=Grade.GOOD, found=found)


def _experiments(client: Client) -> Finding:
    found = client.experiments()
    going = [each for each in found if not each.is_over]
    stuck = [each.name for each in going if each.phase == "Inconclusive"]
    told = f"{len(found)} experiments, {len(going)} not over"
    if stuck:
        return Finding(
            check="experiments",
            grade=Grade.POOR,
            found=f"{told}; Inconclusive: {', '.join(stuck)}",
            advice="`anabranch describe NAME` says what they wait for",
        )
    return Finding(check="experiments", grade=Grade.GOOD, found=told)


def _clock(client: Client, now: float) -> Finding:
    latest = max((max(each.applied_s, each.started_s) for each in client.experiments()), default=0.0)
    return clock_finding(
        latest, now, "the server began an experiment", "after everything that was begun there"
    )
