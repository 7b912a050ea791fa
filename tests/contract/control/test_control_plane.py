"""What commands need of a control plane: one suite for the store itself, a server over it, and the light reader of files."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from anabranch.bandit.decision import Verb
from anabranch.cli.remote_store import RemoteStore
from anabranch.store.control_plane import ControlPlane, ReadPlane
from anabranch.store.memory import MemoryStore
from anabranch.store.port import Conflict, NotFound, Store
from anabranch.store.sql import open_store
from anabranch.store.sqlite_reader import SqliteReader
from anabranch.store.verify import verify

Bench = Any
Write = Callable[..., dict[str, Any]]
Reads = tuple[ReadPlane, Store]


@pytest.fixture
def kept(start: Callable[..., Bench], write: Write) -> Bench:
    """A port, and an experiment that three ticks moved on."""
    bench = start()
    bench.store.apply(write(), "ada", bench.now)
    for _ in range(3):
        bench.tick()
    return bench


@pytest.fixture(params=["store", "server"])
def plane(request: pytest.FixtureRequest, kept: Bench) -> Iterator[ControlPlane]:
    if request.param == "store":
        yield kept.store
        return
    remote = RemoteStore(kept.client())
    yield remote
    remote.close()


@pytest.fixture(params=["store", "server", "file"])
def reads(request: pytest.FixtureRequest, start: Callable[..., Bench], write: Write) -> Iterator[Reads]:
    """Who only reads, and the store behind it, which three ticks moved on and somebody asked something."""
    file = request.getfixturevalue("tmp_path") / "kept.db"
    store = open_store(f"sqlite:///{file}") if request.param == "file" else MemoryStore()
    bench = start(store=store)
    bench.store.apply(write(), "ada", bench.now)
    for _ in range(3):
        bench.tick()
    bench.store.request("exp", Verb.PAUSE, "", "ada", bench.now)
    plane: ReadPlane
    match request.param:
        case "store":
            plane = bench.store
        case "server":
            plane = RemoteStore(bench.client())
        case _:
            plane = SqliteReader(file)
    yield plane, bench.store
    if plane is not store:
        plane.close()
    store.close()


def test_experiments_are_read_with_their_whole_state(reads: Reads) -> None:
    plane, store = reads
    (mine,) = plane.experiments()
    theirs = store.experiment("exp")
    assert plane.experiment("exp") == mine
    for name in ("id", "name", "document", "spec_version", "applied_s", "state_version", "state"):
        assert getattr(mine, name) == getattr(theirs, name), name
    assert (mine.first_delta, mine.first_epoch) == (theirs.first_delta, theirs.first_epoch)


def test_decisions_and_evidence_are_read_whole_and_can_be_recomputed(reads: Reads) -> None:
    plane, store = reads
    assert plane.decisions("exp") == store.decisions("exp")
    assert plane.evidence_log("exp") == store.evidence_log("exp")
    assert plane.ledger.specs("exp") == store.ledger.specs("exp")
    assert plane.ledger.evidence("exp") == store.ledger.evidence("exp")
    store.set_baseline("m", "base", 5.0)
    assert plane.ledger.tenures("m") == store.ledger.tenures("m") != []
    assert verify(plane, "exp") == verify(store, "exp")
    assert verify(plane, "exp").matches


def test_what_waits_for_a_tick_is_read(reads: Reads) -> None:
    plane, store = reads
    assert [command.verb for command in plane.pending("exp")] == [Verb.PAUSE]
    assert plane.pending("exp") == store.pending("exp")


def test_a_request_waits_until_a_tick_answers_it(plane: ControlPlane, kept: Bench) -> None:
    command = plane.request("exp", Verb.PAUSE, "", "ada", kept.now)
    assert plane.pending("exp") == (command,)
    assert plane.events("exp")[-1].verb == "pause"
    kept.tick()
    assert plane.pending("exp") == ()
    assert command.id in plane.decisions("exp")[-1].decision.handled


@pytest.mark.parametrize(
    "verb",
    [Verb.PROMOTE, Verb.PROMOTE_FULL, Verb.RESUME, Verb.ABORT, Verb.RETRY, Verb.UNDO, Verb.APPROVE],
)
def test_whatever_a_person_asks_is_asked(plane: ControlPlane, kept: Bench, verb: Verb) -> None:
    argument = "a" if verb in (Verb.PROMOTE, Verb.PROMOTE_FULL) else ""
    command = plane.request("exp", verb, argument, "ada", kept.now)
    assert (command.verb, command.argument) == (verb, argument)
    assert kept.store.pending("exp") == (command,)


def test_events_are_of_one_experiment_or_of_all(reads: Reads) -> None:
    plane, store = reads
    assert len(plane.events()) == 2
    assert plane.events() == store.events()
    assert plane.events("exp") == store.events("exp")


@pytest.mark.parametrize("read", ["experiment", "decisions", "evidence_log"])
def test_what_there_is_not_is_said_with_what_there_is(reads: Reads, read: str) -> None:
    plane, _ = reads
    with pytest.raises(NotFound, match="no experiment 'nothing'; there are: exp"):
        getattr(plane, read)("nothing")


def test_a_retry_against_another_experiment_is_a_conflict(
    plane: ControlPlane, kept: Bench, write: Write
) -> None:
    plane.request("exp", Verb.ABORT, "", "ada", kept.now)
    kept.tick()
    kept.store.apply(write("other"), "ada", kept.now)
    with pytest.raises(Conflict, match="other"):
        plane.request("exp", Verb.RETRY, "", "ada", kept.now)
