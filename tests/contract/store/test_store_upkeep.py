"""What may go, and what never does."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from anabranch.bandit.decision import Action, Change, Decision
from anabranch.bandit.evidence import Cell
from anabranch.bandit.lifecycle import Phase
from anabranch.store.ingestion_port import FeedbackRow, PairRow, UnitRow
from anabranch.store.lease import LeaseLost
from anabranch.store.port import Store
from anabranch.store.upkeep_port import Compacted

Write = Callable[..., dict[str, Any]]
ENDED_S = 1_000.0
NOTHING = Compacted()


def outcomes(store: Store, experiment: int, sequence: int) -> None:
    """One request with its unit, its pair and its label."""
    pair = PairRow(experiment=experiment, lane=1, sequence=sequence, arm=1, epoch=0, baseline_top1=1, top1=1)
    label = FeedbackRow(
        experiment=experiment,
        lane=1,
        sequence=sequence,
        metric="correct",
        epoch=0,
        arm=0,
        sampled=True,
        top1=1,
        is_label=True,
        value=1.0,
        at_s=1.0,
    )
    with store.ingestion() as ingestion:
        ingestion.add_units(
            [UnitRow(experiment=experiment, unit=b"%d" % sequence, lane=1, sequence=sequence)]
        )
        ingestion.add_pairs([pair])
        ingestion.add_feedback([label])
        ingestion.add_delta(experiment, [Cell(epoch=0, variant="a", requests=1)], [])


def fold(store: Store, name: str, phase: Phase = Phase.PROGRESSING) -> None:
    """What a tick saves: a decision at `ENDED_S`, on all evidence so far."""
    kept = store.experiment(name)
    evidence = store.load_evidence(name, kept.state.cursor)
    number = kept.state.decisions + 1
    decision = Decision(
        number=number,
        at_s=ENDED_S,
        phase=phase,
        step=0,
        epoch=0,
        weights={"base": 1.0},
        actions=(Action(change=Change.PHASE, reason="a test"),),
        verdicts=(),
        evidence_last=evidence.last,
    )
    state = replace(kept.state, cursor=max(evidence.last, kept.state.cursor), phase=phase, decisions=number)
    store.save(name, expected=kept.state_version, state=state, evidence=evidence, decision=decision)


@pytest.fixture
def two(store: Store, write_document: Write) -> tuple[int, int]:
    """An experiment that is over and one that goes on, each with three requests of which two are folded in."""
    over = store.apply(write_document("over", model="m"), "ada", 1.0).id
    going_on = store.apply(write_document("going-on", model="n"), "ada", 1.0).id
    for sequence in range(2):
        outcomes(store, over, sequence)
        outcomes(store, going_on, sequence)
    fold(store, "over", Phase.ROLLED_BACK)
    fold(store, "going-on")
    outcomes(store, over, 2)
    outcomes(store, going_on, 2)
    return over, going_on


@pytest.mark.usefixtures("two")
def test_outcomes_that_are_folded_in_can_go_at_once_and_the_others_cannot(store: Store) -> None:
    assert store.upkeep.removable(ENDED_S) == Compacted(deltas=4)
    assert store.upkeep.compact(ENDED_S) == Compacted(deltas=4)
    assert store.upkeep.removable(ENDED_S) == NOTHING
    assert store.upkeep.compact(ENDED_S) == NOTHING
    cursor = store.experiment("going-on").state.cursor
    assert [cell.requests for cell in store.load_evidence("going-on", cursor).cells] == [1]


def test_single_requests_go_when_their_experiment_has_been_over_for_long_enough(
    store: Store, two: tuple[int, int]
) -> None:
    assert store.upkeep.compact(ENDED_S + 1.0) == Compacted(deltas=5, units=3, pairs=3, feedback=3)
    over, going_on = two
    asked = [UnitRow(experiment=which, unit=b"0", lane=9, sequence=9) for which in (over, going_on)]
    with store.ingestion() as ingestion:
        new, _ = ingestion.add_units(asked)
    assert [row.experiment for row in new] == [over], "units of one that goes on are still known"


@pytest.mark.usefixtures("two")
def test_what_decisions_rest_on_is_never_removed(store: Store) -> None:
    before = [
        (store.experiment(name), store.evidence_log(name), store.decisions(name), store.events(name))
        for name in ("over", "going-on")
    ]
    store.upkeep.compact(ENDED_S + 1.0)
    after = [
        (store.experiment(name), store.evidence_log(name), store.decisions(name), store.events(name))
        for name in ("over", "going-on")
    ]
    assert after == before
    assert all(log for _, log, _, _ in after)


def test_no_number_of_an_outcome_comes_twice(store: Store, write_document: Write) -> None:
    kept = store.apply(write_document(), "ada", 1.0)
    for sequence in range(3):
        outcomes(store, kept.id, sequence)
        fold(store, "exp")
        store.upkeep.compact(ENDED_S)
    cursor = store.experiment("exp").state.cursor
    outcomes(store, kept.id, 3)
    evidence = store.load_evidence("exp", cursor)
    assert evidence.last == cursor + 1
    assert [cell.requests for cell in evidence.cells] == [1]


@pytest.mark.usefixtures("two")
def test_a_large_compaction_is_done_in_parts(store: Store) -> None:
    removed: list[int] = []
    while not removed or removed[-1] == 4:
        removed.append(store.upkeep.compact(ENDED_S + 1.0, limit=4).rows)
    assert removed == [4, 4, 4, 2]
    assert store.upkeep.removable(ENDED_S + 1.0) == NOTHING


@pytest.mark.usefixtures("two")
def test_a_controller_that_no_longer_leads_removes_nothing(store: Store) -> None:
    stale = store.replicas.lead("ann", 0.0)
    store.replicas.lead("bob", 60.0)
    with pytest.raises(LeaseLost):
        store.upkeep.compact(ENDED_S, lease=stale)
    assert store.upkeep.removable(ENDED_S) == Compacted(deltas=4)
