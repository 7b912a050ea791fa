"""What commands need of a control plane: one suite for the store itself and for a server over it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from anabranch.bandit.decision import Verb
from anabranch.cli.remote_store import RemoteStore
from anabranch.store.control_plane import ControlPlane
from anabranch.store.port import Conflict, NotFound
from anabranch.store.verify import verify

Bench = Any
Write = Callable[..., dict[str, Any]]


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


def test_experiments_are_read_with_their_whole_state(plane: ControlPlane, kept: Bench) -> None:
    (mine,) = plane.experiments()
    theirs = kept.store.experiment("exp")
    assert plane.experiment("exp") == mine
    for name in ("id", "name", "document", "spec_version", "applied_s", "state_version", "state"):
        assert getattr(mine, name) == getattr(theirs, name), name
    assert (mine.first_delta, mine.first_epoch) == (theirs.first_delta, theirs.first_epoch)


def test_decisions_and_evidence_are_read_whole_and_can_be_recomputed(
    plane: ControlPlane, kept: Bench
) -> None:
    assert plane.decisions("exp") == kept.store.decisions("exp")
    assert plane.evidence_log("exp") == kept.store.evidence_log("exp")
    assert verify(plane, "exp") == verify(kept.store, "exp")
    assert verify(plane, "exp").matches


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


def test_events_are_of_one_experiment_or_of_all(plane: ControlPlane, kept: Bench) -> None:
    assert plane.events() == kept.store.events()
    assert plane.events("exp") == kept.store.events("exp")


@pytest.mark.parametrize("read", ["experiment", "decisions", "evidence_log"])
def test_what_there_is_not_is_said_with_what_there_is(plane: ControlPlane, read: str) -> None:
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
