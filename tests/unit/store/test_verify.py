import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anabranch.bandit.certificate import recompute
from anabranch.bandit.decision import Verb
from anabranch.bandit.evidence import Cell, PairCell
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.step import Tick
from anabranch.store.certificates import certificate_from, certificate_text
from anabranch.store.chain import GENESIS, link
from anabranch.store.codec import decision_from, decision_text, state_text
from anabranch.store.memory import MemoryStore
from anabranch.store.packing import pack, unpack
from anabranch.store.port import NotFound, Store
from anabranch.store.sql import SqlStore, open_store
from anabranch.store.verify import certificate_of, verify, verify_chain

Drive = Callable[..., Tick]
Outcomes = Callable[..., tuple[list[Cell], list[PairCell]]]


def promote(
    store: Store, drive: Drive, outcomes: Outcomes, *, start: float = 100.0, ticks: int = 60
) -> Phase:
    """Run the experiment with equal outcomes until it is over."""
    for turn in range(ticks):
        state = store.experiment("exp").state
        cells: list[Cell] = []
        pairs: list[PairCell] = []
        if state.weights and state.phase is not Phase.PENDING:
            cells, pairs = outcomes(state.epoch, {name: state.weights[name] for name in state.weights})
        result = drive(store, start + turn, cells=cells, pairs=pairs)
        if result.state.phase.is_over:
            break
    return store.experiment("exp").state.phase


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "exp.db"


@pytest.fixture
def finished(database: Path, small_document: dict[str, Any], drive: Drive, outcomes: Outcomes) -> SqlStore:
    store = open_store(f"sqlite:///{database}")
    store.apply(small_document, "ada", 1.0)
    assert promote(store, drive, outcomes) is Phase.PROMOTED, store.decisions("exp")[-1].decision.summary
    return store


def change_evidence(database: Path, last: int, before: str, after: str) -> None:
    """Change the first such part of what a tick folded in, as somebody would who knows the form."""
    text = _text_of(database, last)
    changed = text.replace(before, after)
    assert changed != text
    tamper(database, "UPDATE evidence SET packed = ? WHERE last = ?", pack(changed), last)


def write_as_text(database: Path, last: int) -> None:
    """Keep what a tick folded in as releases before compression did."""
    tamper(
        database,
        "UPDATE evidence SET body = ?, packed = NULL WHERE last = ?",
        _text_of(database, last),
        last,
    )


def _text_of(database: Path, last: int) -> str:
    with sqlite3.connect(database) as connection:
        [(body, packed)] = connection.execute(
            "SELECT body, packed FROM evidence WHERE last = ?", (last,)
        ).fetchall()
    connection.close()
    assert body == ""
    return unpack(body, packed)


def tamper(database: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(database) as connection:
        assert connection.execute(statement, values).rowcount == 1
    connection.close()


def test_every_decision_of_an_untouched_experiment_matches(finished: SqlStore) -> None:
    report = verify(finished, "exp")
    assert report.matches
    assert report.first_mismatch is None
    assert len(report.decisions) == len(finished.decisions("exp")) >= 5
    assert report.verdicts >= 4 * len(report.decisions[1:])
    assert all(checked.is_recomputed for checked in report.decisions)


@pytest.mark.parametrize(
    ("statement", "damage"),
    [
        ("UPDATE evidence SET packed = ? WHERE last = ?", b"no zlib"),
        ("UPDATE evidence SET packed = ? WHERE last = ?", pack("no JSON")),
        ("UPDATE evidence SET body = ?, packed = NULL WHERE last = ?", "no JSON"),
    ],
)
def test_evidence_that_cannot_be_read_is_named_and_nothing_is_said_to_match(
    finished: SqlStore, database: Path, statement: str, damage: object
) -> None:
    last = finished.decisions("exp")[2].decision.evidence_last
    tamper(database, statement, damage, last)
    report = verify(finished, "exp")
    assert not report.matches
    assert "cannot be read" in report.problems[0]
    assert report.first_mismatch is not None
    assert report.first_mismatch.number == finished.decisions("exp")[2].decision.number
    assert not verify_chain(finished, "exp").matches


def test_the_store_in_memory_verifies_like_the_database(
    small_document: dict[str, Any], drive: Drive, outcomes: Outcomes
) -> None:
    store = MemoryStore()
    store.apply(small_document, "ada", 1.0)
    assert promote(store, drive, outcomes) is Phase.PROMOTED, store.decisions("exp")[-1].decision.summary
    assert verify(store, "exp").matches


def test_a_decision_after_late_evidence_of_an_ended_experiment_matches(
    finished: SqlStore, drive: Drive, outcomes: Outcomes
) -> None:
    state = finished.experiment("exp").state
    cells, pairs = outcomes(state.epoch, {"a": 1.0}, agree=0.2)
    drive(finished, 400.0, cells=cells, pairs=pairs)
    finished.request("exp", Verb.UNDO, "", "ada", 401.0)
    assert drive(finished, 402.0).state.phase is Phase.ROLLED_BACK
    assert verify(finished, "exp").matches


def test_a_retry_begins_anew_and_both_lives_match(
    small_document: dict[str, Any], drive: Drive, outcomes: Outcomes
) -> None:
    store = MemoryStore()
    store.apply(small_document, "ada", 1.0)
    promote(store, drive, outcomes, ticks=4)
    assert any(verdict.decided_s is not None for verdict in store.experiment("exp").state.verdicts.values())
    store.request("exp", Verb.ABORT, "", "ada", 110.0)
    drive(store, 111.0)
    cells, pairs = outcomes(store.experiment("exp").state.epoch, {"a": 0.5, "base": 0.5})
    store.request("exp", Verb.RETRY, "", "ada", 112.0)
    drive(store, 113.0, cells=cells, pairs=pairs)
    assert store.experiment("exp").state.totals == {}
    assert promote(store, drive, outcomes, start=120.0) is Phase.PROMOTED
    assert verify(store, "exp").matches


def test_an_abort_before_the_start_and_a_retry_match(
    small_document: dict[str, Any], drive: Drive, outcomes: Outcomes
) -> None:
    store = MemoryStore()
    store.apply(small_document, "ada", 1.0)
    for verb in (Verb.ABORT, Verb.PAUSE, Verb.RETRY):
        store.request("exp", verb, "", "ada", 1.0)
        drive(store, 2.0)
    assert promote(store, drive, outcomes) is Phase.PROMOTED, store.decisions("exp")[-1].decision.summary
    assert verify(store, "exp").matches


def test_removals_and_a_rollback_match(
    small_document: dict[str, Any], drive: Drive, outcomes: Outcomes
) -> None:
    store = MemoryStore()
    store.apply(small_document, "ada", 1.0)
    drive(store, 100.0)
    for turn in range(40):
        state = store.experiment("exp").state
        cells, good = outcomes(state.epoch, state.weights)
        _, bad = outcomes(state.epoch, state.weights, agree=0.3)
        pairs = [
            *[pair for pair in good if pair.variant == "a"],
            *[pair for pair in bad if pair.variant == "b"],
        ]
        drive(store, 101.0 + turn, cells=cells, pairs=pairs if turn < 10 else bad)
    state = store.experiment("exp").state
    assert [removal.variant for removal in state.removed] == ["b"]
    assert verify(store, "exp").matches


def test_earlier_spec_versions_are_checked_by_their_chain_only(
    finished: SqlStore, small_document: dict[str, Any], drive: Drive, outcomes: Outcomes
) -> None:
    before = len(finished.decisions("exp"))
    changed = json.loads(json.dumps(small_document))
    changed["spec"]["delta"] = 0.1
    finished.apply(changed, "ada", 500.0)
    assert promote(finished, drive, outcomes, start=501.0) is Phase.PROMOTED
    report = verify(finished, "exp")
    assert report.matches
    assert [checked.is_recomputed for checked in report.decisions].count(False) == before


@pytest.mark.parametrize("old", ["all", "some", "none"])
def test_evidence_that_an_older_release_wrote_as_text_matches_as_well(
    finished: SqlStore, database: Path, old: str
) -> None:
    before = finished.evidence_log("exp")
    share = {"all": 1, "some": 2, "none": 10**9}[old]
    for number, row in enumerate(before):
        if number % share == 0 and old != "none":
            write_as_text(database, row.last)
    assert finished.evidence_log("exp") == before
    assert verify(finished, "exp").matches
    assert verify_chain(finished, "exp").matches


def test_a_changed_count_that_an_older_release_wrote_is_found(finished: SqlStore, database: Path) -> None:
    victim = finished.evidence_log("exp")[1].last
    write_as_text(database, victim)
    tamper(
        database,
        "UPDATE evidence SET body = replace(body, '\"requests\":', '\"requests\":1') WHERE last = ?",
        victim,
    )
    assert verify_chain(finished, "exp").first_mismatch is not None
    assert not verify(finished, "exp").matches


def test_a_changed_count_is_found_at_the_first_decision_that_rests_on_it(
    finished: SqlStore, database: Path
) -> None:
    victim = finished.evidence_log("exp")[0]
    change_evidence(
        database,
        victim.last,
        '"mirror.top1_agreement":{"0":5,"1":95}',
        '"mirror.top1_agreement":{"0":4,"1":96}',
    )
    report = verify(finished, "exp")
    first = report.first_mismatch
    assert first is not None
    assert first.number == next(
        row.decision.number
        for row in finished.decisions("exp")
        if row.decision.evidence_last >= victim.last and row.decision.verdicts
    )
    assert any("fidelity/a: log_e_pass is " in problem for problem in first.problems)


def test_a_count_changed_after_the_last_decision_is_found_in_the_totals(
    small_document: dict[str, Any], drive: Drive, outcomes: Outcomes, database: Path
) -> None:
    store = open_store(f"sqlite:///{database}")
    store.apply(small_document, "ada", 1.0)
    drive(store, 100.0)
    cells, _ = outcomes(0, {"base": 1.0}, requests=20)
    assert drive(store, 101.0, cells=cells).decision is None
    last = store.evidence_log("exp")[-1].last
    change_evidence(database, last, '"requests":20', '"requests":19')
    report = verify(store, "exp")
    assert report.problems == ("the saved totals are not the sum of the kept evidence",)
    assert not report.matches


def test_a_changed_decision_is_named(finished: SqlStore, database: Path) -> None:
    tamper(database, "UPDATE decision SET body = replace(body, 'ada', 'eve') || ' ' WHERE number = 1")
    assert verify(finished, "exp").matches, "neither the name nor a blank is in what was decided"
    tamper(
        database,
        "UPDATE decision SET body = replace(body, '\"at_s\":100.0', '\"at_s\":90.0') WHERE number = 1",
    )
    report = verify(finished, "exp")
    assert report.first_mismatch is not None
    assert report.first_mismatch.number == 1
    assert "the body was changed" in report.first_mismatch.problems[0]


def test_a_changed_decision_with_a_fitting_hash_breaks_the_next_one(
    finished: SqlStore, database: Path
) -> None:
    rows = finished.decisions("exp")
    tamper(database, "UPDATE decision SET previous_hash = ? WHERE number = 3", rows[0].hash)
    report = verify(finished, "exp")
    assert report.first_mismatch is not None
    assert report.first_mismatch.number == 3


def test_a_changed_verdict_is_found_by_chain_and_by_evidence(finished: SqlStore, database: Path) -> None:
    tamper(
        database,
        'UPDATE decision SET body = replace(body, \'"outcome":"INCONCLUSIVE"\', \'"outcome":"PASS"\') WHERE number = 2',
    )
    report = verify(finished, "exp")
    assert report.first_mismatch is not None
    assert report.first_mismatch.number == 2
    assert any(
        "the verdict is PASS, the evidence gives INCONCLUSIVE" in p for p in report.first_mismatch.problems
    )


def test_a_missing_evidence_row_is_named(finished: SqlStore, database: Path) -> None:
    victim = finished.evidence_log("exp")[0].last
    tamper(database, "DELETE FROM evidence WHERE last = ?", victim)
    report = verify(finished, "exp")
    first = report.first_mismatch
    assert first is not None
    assert first.number == next(
        row.decision.number for row in finished.decisions("exp") if row.decision.evidence_last >= victim
    )
    assert f"rests on evidence up to delta {victim}" in " ".join(first.problems)


def test_a_missing_decision_is_named(finished: SqlStore, database: Path) -> None:
    tamper(database, "DELETE FROM decision WHERE number = 2")
    first = verify(finished, "exp").first_mismatch
    assert first is not None
    assert first.number == 3
    assert any("decision 2 is missing" in problem for problem in first.problems)


def test_a_missing_last_decision_is_found_by_the_states_count(finished: SqlStore, database: Path) -> None:
    count = len(finished.decisions("exp"))
    tamper(database, "DELETE FROM decision WHERE number = ?", count)
    report = verify(finished, "exp")
    assert report.problems == (f"the state counts {count} decisions, {count - 1} are kept",)


def test_an_unknown_experiment_is_not_found() -> None:
    with pytest.raises(NotFound, match="nope"):
        verify(MemoryStore(), "nope")


def rechain(database: Path) -> None:
    """What somebody does who changes a decision and knows how the chain is made."""
    with sqlite3.connect(database) as connection:
        rows = connection.execute(
            "SELECT rowid, body, seal FROM decision ORDER BY spec_version, number"
        ).fetchall()
        previous = GENESIS
        for rowid, body, seal in rows:
            digest = link(previous, decision_text(decision_from(body)), seal)
            connection.execute(
                "UPDATE decision SET previous_hash = ?, hash = ? WHERE rowid = ?", (previous, digest, rowid)
            )
            previous = digest
    connection.close()


def test_weights_that_were_never_decided_are_found_whatever_the_chain_says(
    finished: SqlStore, database: Path
) -> None:
    number = next(
        row.decision.number for row in finished.decisions("exp") if row.decision.weights["a"] == 0.25
    )
    tamper(
        database,
        "UPDATE decision SET body = replace(replace(body, '\"a\":0.25', '\"a\":0.24'), '\"base\":0.5', '\"base\":0.51')"
        " WHERE number = ?",
        number,
    )
    rechain(database)
    assert verify_chain(finished, "exp").matches
    found = verify(finished, "exp").first_mismatch
    assert found is not None
    assert found.number == number
    assert any("its weights are" in problem for problem in found.problems)


def test_a_changed_document_of_an_earlier_spec_version_breaks_the_seal(
    finished: SqlStore, database: Path, small_document: dict[str, Any], drive: Drive, outcomes: Outcomes
) -> None:
    changed = json.loads(json.dumps(small_document))
    changed["spec"]["delta"] = 0.1
    finished.apply(changed, "ada", 500.0)
    promote(finished, drive, outcomes, start=501.0, ticks=3)
    assert verify_chain(finished, "exp").matches
    tamper(database, "UPDATE spec_version SET document = replace(document, '0.8', '0.7') WHERE version = 1")
    found = verify_chain(finished, "exp").first_mismatch
    assert found is not None
    assert (found.spec_version, found.number) == (1, 1)
    assert "its seal is not that of its document and evidence" in found.problems[0]


def test_changed_evidence_of_an_earlier_spec_version_breaks_the_seal(
    finished: SqlStore, database: Path, small_document: dict[str, Any], drive: Drive, outcomes: Outcomes
) -> None:
    changed = json.loads(json.dumps(small_document))
    changed["spec"]["delta"] = 0.1
    victim = finished.evidence_log("exp")[1].last
    finished.apply(changed, "ada", 500.0)
    promote(finished, drive, outcomes, start=501.0, ticks=3)
    change_evidence(database, victim, '"requests":', '"requests":1')
    found = verify_chain(finished, "exp").first_mismatch
    assert found is not None
    assert found.spec_version == 1


BANDIT: dict[str, Any] = {
    "metrics": [
        {"name": "accuracy", "source": "feedback.correct", "role": "objective"},
        {"name": "errors", "source": "error", "role": "guardrail", "max": 0.2},
    ],
    "steps": [
        {"setWeight": 25},
        {"bandit": {"updatePeriod": "3s", "maxDuration": "25s", "minDuration": "20s"}},
    ],
}


@pytest.fixture
def explored(database: Path, small_document: dict[str, Any], drive: Drive, outcomes: Outcomes) -> SqlStore:
    """A bandit's course: weights drawn several times, leaders tested against rivals."""
    store = open_store(f"sqlite:///{database}")
    store.apply({**small_document, "spec": {**small_document["spec"], **BANDIT}}, "ada", 1.0)
    promote(store, drive, outcomes, ticks=15)
    kept = store.experiment("exp")
    assert kept.state.rivals
    assert sum(row.decision.weights != {} for row in store.decisions("exp")) > 3
    return store


def test_drawn_weights_and_rival_tests_are_computed_again(explored: SqlStore) -> None:
    report = verify(explored, "exp")
    assert report.matches, (report.first_mismatch, report.problems)


def test_a_forged_rival_test_is_found(explored: SqlStore, database: Path) -> None:
    kept = explored.experiment("exp")
    key = next(iter(kept.state.rivals))
    forged = replace(
        kept.state, rivals={name: test for name, test in kept.state.rivals.items() if name != key}
    )
    tamper(database, "UPDATE experiment SET state = ?", state_text(forged))
    assert verify(explored, "exp").problems == (
        "the saved tests of leaders against rivals do not follow from the kept evidence",
    )


def test_a_document_taken_on_the_way_is_part_of_what_is_computed_again(
    database: Path, small_document: dict[str, Any], drive: Drive, outcomes: Outcomes
) -> None:
    store = open_store(f"sqlite:///{database}")
    longer = json.loads(json.dumps(small_document))
    longer["spec"]["steps"][2]["analysis"] = {"minDuration": "1h"}
    store.apply(longer, "ada", 1.0)
    promote(store, drive, outcomes, ticks=20)
    assert store.experiment("exp").state.step == 2
    store.apply(small_document, "bob", 130.0)
    assert promote(store, drive, outcomes, start=131.0) is Phase.PROMOTED
    kept = store.experiment("exp")
    assert (kept.spec_version, kept.document) == (2, small_document)
    report = verify(store, "exp")
    assert report.matches, report.first_mismatch
    assert all(checked.is_recomputed for checked in report.decisions)


def test_a_certificate_of_the_store_is_computed_again_without_it(explored: SqlStore) -> None:
    certificate = certificate_from(certificate_text(certificate_of(explored, "exp")))
    assert recompute(certificate) == []
    with pytest.raises(NotFound, match="decision 999 of exp is not kept"):
        certificate_of(explored, "exp", 999)
