"""Measure peers in turns: every repetition starts each of them once, so that what the machine does meanwhile hits all alike."""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.dataplane.measuring import MeasurementFailed, check_answer, measure
from bench.dataplane.messages import Array, Message
from bench.dataplane.peers import Peer, Running, Unavailable
from bench.dataplane.places import CACHE
from bench.dataplane.processes import DidNotStart
from bench.dataplane.records import Journal


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to load a server.

    Attributes:
        name: As the tables show it.
        message: What is sent.
        load: Fields of LoadPlan.
    """

    name: str
    message: Message
    load: Mapping[str, Any] = field(default_factory=dict)


Measured = Callable[[Peer, Running, int], None]
"""Measures one started peer in one repetition."""


def in_turns(scenario: str, peers: Sequence[Peer], reps: int, journal: Journal, measured: Measured) -> None:
    """Start, measure and stop every peer in every repetition; one that cannot is recorded and left out from then on."""
    lost: set[str] = set()
    for rep in range(reps):
        for peer in peers:
            if peer.name in lost or (journal.peers and peer.name not in journal.peers):
                continue
            problem = _one_turn(peer, rep, measured)
            if problem:
                lost.add(peer.name)
                journal.unavailable(scenario, peer.name, problem)


def _one_turn(peer: Peer, rep: int, measured: Measured) -> str:
    CACHE.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="run-", dir=CACHE))
    try:
        running = peer.start(work)
        try:
            measured(peer, running, rep)
        finally:
            running.stop()
    except (Unavailable, DidNotStart, MeasurementFailed) as error:
        return str(error)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return ""


def measure_cases(
    scenario: str,
    cases: Sequence[Case],
    journal: Journal,
    *,
    expected: Callable[[Peer, Message], Array],
    unit_header: str = "",
    **load: Any,
) -> Measured:
    """A `Measured` that checks a peer's answers and then puts it through some cases.

    Args:
        scenario: Its name in the records.
        cases: The ways to load it.
        journal: Where results go.
        expected: What a peer must answer to a message.
        unit_header: The header that splits stick to.
        load: Fields of LoadPlan for every case.
    """

    def measured(peer: Peer, running: Running, rep: int) -> None:
        unit = {unit_header: "user-1"} if unit_header else {}
        for message in {id(case.message): case.message for case in cases}.values():
            check_answer(running, message, expected(peer, message), unit)
        for case in cases:
            if journal.cases and case.name not in journal.cases:
                continue
            options = {**load, **case.load, "unit_header": unit_header, "seed": rep + 1}
            result = measure(running, case.message, **options)
            journal.result(
                scenario, case.name, peer.name, rep, version=running.version, load=options, result=result
            )

    return measured
