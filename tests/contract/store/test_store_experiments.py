import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from anabranch.bandit.decision import Action, Change, Decision, Verb
from anabranch.bandit.evidence import Cell, Evidence
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.state import ExperimentState
from anabranch.bandit.step import tick
from anabranch.store.chain import GENESIS
from anabranch.store.document import InvalidDocument, parse
from anabranch.store.ledger_port import StoredSpec
from anabranch.store.port import Conflict, NotFound, Revision, Store
from anabranch.store.verify import verify_chain

Write = Callable[..., dict[str, Any]]
NOTHING = Evidence(experiment="exp")


def decide(number: int, *, handled: tuple[int, ...] = (), phase: Phase = Phase.PROGRESSING) -> Decision:
    return Decision(
        number=number,
        at_s=100.0 + number,
        phase=phase,
        step=0,
        epoch=number,
        weights={"base": 0.8, "a": 0.1, "b": 0.1},
        actions=(Action(change=Change.STEP, reason=f"decision {number}"),),
        verdicts=(),
        evidence_last=0,
        handled=handled,
    )


def end(store: Store, name: str = "exp", phase: Phase = Phase.ABORTED) -> None:
    kept = store.experiment(name)
    over = replace(kept.state, phase=phase, epoch=kept.state.epoch + 3)
    store.save(
        name,
        expected=kept.state_version,
        state=over,
        evidence=Evidence(experiment=name),
        decision=None,
    )


def test_a_new_experiment_is_pending_in_its_first_version(store: Store, write_document: Write) -> None:
    kept = store.apply(write_document(), "ada", 5.0)
    assert (kept.name, kept.spec_version, kept.applied_s, kept.first_epoch) == ("exp", 1, 5.0, 0)
    assert kept.state == ExperimentState()
    assert parse(kept.document) == parse(write_document())
    assert len(kept.salt) == 16
    assert store.experiment("exp") == kept
    assert store.experiments() == [kept]


def test_a_remark_on_an_applied_document_is_audited(store: Store, write_document: Write) -> None:
    store.apply(write_document(), "ada", 5.0, remark="gate overridden for a")
    assert [event.detail for event in store.events("exp")] == ["spec version 1; gate overridden for a"]


def test_an_unchanged_document_changes_nothing(store: Store, write_document: Write) -> None:
    first = store.apply(write_document(), "ada", 5.0)
    assert store.apply(write_document(), "bob", 6.0) == first
    assert [event.actor for event in store.events()] == ["ada"]


def test_an_unchanged_document_of_an_ended_experiment_changes_nothing_while_another_is_going_on(
    store: Store, write_document: Write
) -> None:
    store.apply(write_document(), "ada", 5.0)
    end(store)
    store.apply(write_document(name="other"), "ada", 6.0)
    assert store.apply(write_document(), "ada", 7.0) == store.experiment("exp")


def test_a_change_that_restarts_the_evidence_conflicts_while_the_experiment_goes_on(
    store: Store, write_document: Write
) -> None:
    first = store.apply(write_document(), "ada", 5.0)
    changed = write_document()
    changed["spec"]["metrics"][0]["nonInferiorityMargin"] = 0.1
    with pytest.raises(
        Conflict, match=r"exp is Pending: cannot change exp .* spec\.metrics restarts the evidence"
    ):
        store.apply(changed, "ada", 6.0)
    assert store.experiment("exp") == first
    assert store.pending("exp") == ()


def test_a_change_of_what_is_to_come_becomes_a_request_once(store: Store, write_document: Write) -> None:
    first = store.apply(write_document(), "ada", 5.0)
    for at in (6.0, 7.0):
        assert store.apply(write_document(weight=20), "bob", at) == first
    [asked] = store.pending("exp")
    assert (asked.verb, asked.actor) == (Verb.REVISE, "bob")
    assert json.loads(asked.argument) == write_document(weight=20)
    with pytest.raises(Conflict, match="another changed document waits for the next tick"):
        store.apply(write_document(weight=30), "eve", 8.0)
    assert store.pending("exp") == (asked,)


def test_a_revision_is_saved_with_its_decision_and_keeps_the_evidence(
    store: Store, write_document: Write
) -> None:
    kept = store.apply(write_document(), "ada", 5.0)
    folded = Evidence(
        experiment="exp", first=1, last=1, cells=(Cell(epoch=0, variant="a", requests=1),), at_s=6.0
    )
    revision = Revision(document=write_document(weight=20), actor="bob")
    version = store.save(
        "exp",
        expected=kept.state_version,
        state=kept.state,
        evidence=folded,
        decision=replace(decide(1), at_s=6.0, evidence_last=1),
        revision=revision,
    )
    store.save("exp", expected=version, state=kept.state, evidence=NOTHING, decision=decide(2))
    after = store.experiment("exp")
    assert (after.document, after.spec_version, after.salt) == (revision.document, 2, kept.salt)
    assert [(row.spec_version, row.decision.number) for row in store.decisions("exp")] == [(1, 1), (2, 2)]
    assert store.evidence_log("exp") == [folded]
    assert store.ledger.specs("exp") == [
        StoredSpec(version=1, document=write_document(), applied_s=5.0, actor="ada"),
        StoredSpec(version=2, document=write_document(weight=20), applied_s=6.0, actor="bob"),
    ]
    assert verify_chain(store, "exp").matches


def test_a_second_experiment_on_the_model_conflicts_until_the_first_is_over(
    store: Store, write_document: Write
) -> None:
    store.apply(write_document(), "ada", 5.0)
    with pytest.raises(Conflict, match="model m already has experiment exp"):
        store.apply(write_document(name="other"), "ada", 6.0)
    assert [kept.name for kept in store.experiments()] == ["exp"]
    store.apply(write_document(name="elsewhere", model="n"), "ada", 6.0)
    end(store)
    other = store.apply(write_document(name="other"), "ada", 7.0)
    assert len({kept.id for kept in store.experiments()}) == 3
    assert store.experiment("other") == other


def test_after_the_end_a_changed_document_begins_a_new_version_with_a_new_salt_and_later_epochs(
    store: Store, write_document: Write
) -> None:
    first = store.apply(write_document(), "ada", 5.0)
    end(store)
    before = store.experiment("exp")
    with store.ingestion() as ingestion:
        ingestion.add_delta(first.id, [Cell(epoch=0, variant="a", requests=3)], [])
    second = store.apply(write_document(weight=20), "bob", 9.0)
    assert (second.id, second.spec_version, second.applied_s) == (first.id, 2, 9.0)
    assert second.salt != first.salt
    assert second.first_epoch == before.state.epoch + 1
    assert second.state == ExperimentState(epoch=second.first_epoch, cursor=second.first_delta)
    assert second.state_version > before.state_version
    assert store.load_evidence("exp", 0).is_empty


def test_an_invalid_document_is_refused_and_nothing_is_kept(store: Store, write_document: Write) -> None:
    document = write_document()
    document["spec"]["steps"] = []
    with pytest.raises(InvalidDocument, match=r"spec\.steps"):
        store.apply(document, "ada", 5.0)
    assert store.experiments() == []


def test_what_does_not_exist_is_not_found_and_the_known_names_are_told(
    store: Store, write_document: Write
) -> None:
    store.apply(write_document(), "ada", 5.0)
    for read in (store.experiment, store.decisions, store.evidence_log):
        with pytest.raises(NotFound, match="no experiment 'nope'; there are: exp"):
            read("nope")
    with pytest.raises(NotFound, match="nope"):
        store.load_evidence("nope", 0)
    with pytest.raises(NotFound, match="nope"):
        store.request("nope", Verb.ABORT, "", "ada", 1.0)
    assert len(store.events()) == 1


def test_a_save_replaces_the_state_and_counts_the_version(store: Store, write_document: Write) -> None:
    kept = store.apply(write_document(), "ada", 5.0)
    state = tick(parse(kept.document), kept.state, NOTHING, (), 6.0).state
    version = store.save("exp", expected=kept.state_version, state=state, evidence=NOTHING, decision=None)
    after = store.experiment("exp")
    assert (after.state, after.state_version) == (state, version)
    assert version == kept.state_version + 1


def test_a_save_from_an_old_version_conflicts_and_changes_nothing(
    store: Store, write_document: Write
) -> None:
    kept = store.apply(write_document(), "ada", 5.0)
    store.set_baseline("m", "base", 1.0)
    command = store.request("exp", Verb.ABORT, "", "ada", 5.5)
    store.save("exp", expected=kept.state_version, state=kept.state, evidence=NOTHING, decision=None)
    before = store.experiment("exp")
    stale = replace(kept.state, phase=Phase.ABORTED, epoch=77, weights={"base": 1.0})
    evidence = Evidence(experiment="exp", first=1, last=1, cells=(Cell(epoch=77, variant="a", requests=1),))
    with pytest.raises(Conflict, match=f"version {before.state_version}, not {kept.state_version}"):
        store.save(
            "exp",
            expected=kept.state_version,
            state=stale,
            evidence=evidence,
            decision=decide(1, handled=(command.id,)),
            new_baseline=("m", "a"),
        )
    assert store.experiment("exp") == before
    assert store.decisions("exp") == []
    assert store.evidence_log("exp") == []
    assert store.pending("exp") == (command,)
    assert store.baseline("m") == "base"
    with store.ingestion() as ingestion:
        ingestion.add_delta(kept.id, [Cell(epoch=77, variant="a", requests=1)], [])
    assert store.load_evidence("exp", 0).weights == {}


def test_decisions_are_appended_and_chained_over_spec_versions(store: Store, write_document: Write) -> None:
    kept = store.apply(write_document(), "ada", 5.0)
    version = kept.state_version
    for number in (1, 2):
        version = store.save(
            "exp", expected=version, state=kept.state, evidence=NOTHING, decision=decide(number)
        )
    end(store)
    again = store.apply(write_document(weight=20), "ada", 9.0)
    store.save("exp", expected=again.state_version, state=again.state, evidence=NOTHING, decision=decide(1))
    rows = store.decisions("exp")
    assert [(row.spec_version, row.decision.number) for row in rows] == [(1, 1), (1, 2), (2, 1)]
    assert rows[0].previous_hash == GENESIS
    assert verify_chain(store, "exp").matches


def test_a_decision_comes_back_with_the_text_that_was_hashed(store: Store, write_document: Write) -> None:
    kept = store.apply(write_document(), "ada", 5.0)
    whole = replace(decide(1), at_s=100, weights={"base": 1, "a": 0, "b": 0})
    store.save("exp", expected=kept.state_version, state=kept.state, evidence=NOTHING, decision=whole)
    assert verify_chain(store, "exp").matches


def test_the_evidence_log_keeps_what_every_tick_folded_in_of_the_current_version(
    store: Store, write_document: Write
) -> None:
    kept = store.apply(write_document(), "ada", 5.0)
    version = kept.state_version
    folded = [
        Evidence(
            experiment="exp",
            first=last,
            last=last,
            cells=(Cell(epoch=1, variant="a", units=last, requests=last, metrics={"error": {0: last}}),),
            weights={1: {"base": 0.8, "a": 0.1, "b": 0.1}},
        )
        for last in (2, 9, 10, 11)
    ]
    for evidence in (folded[0], NOTHING, *folded[1:]):
        version = store.save("exp", expected=version, state=kept.state, evidence=evidence, decision=None)
    assert store.evidence_log("exp") == folded
    end(store)
    store.apply(write_document(weight=20), "ada", 9.0)
    assert store.evidence_log("exp") == []


def test_commands_wait_in_order_until_a_decision_answers_them(store: Store, write_document: Write) -> None:
    kept = store.apply(write_document(), "ada", 5.0)
    store.apply(write_document(name="other", model="n"), "ada", 5.0)
    pause = store.request("exp", Verb.PAUSE, "", "ada", 6.0)
    promote = store.request("exp", Verb.PROMOTE, "a", "bob", 7.0)
    elsewhere = store.request("other", Verb.ABORT, "", "bob", 7.0)
    assert store.pending("exp") == (pause, promote)
    assert (promote.verb, promote.argument, promote.actor) == (Verb.PROMOTE, "a", "bob")
    version = store.save(
        "exp",
        expected=kept.state_version,
        state=kept.state,
        evidence=NOTHING,
        decision=decide(1, handled=(pause.id,)),
    )
    assert store.pending("exp") == (promote,)
    store.save("exp", expected=version, state=kept.state, evidence=NOTHING, decision=decide(2))
    assert store.pending("exp") == (promote,)
    assert store.pending("other") == (elsewhere,)


def test_the_audit_log_says_who_did_what_when(store: Store, write_document: Write) -> None:
    store.apply(write_document(), "ada", 5.0)
    store.apply(write_document(name="other", model="n"), "bob", 6.0)
    store.request("exp", Verb.PROMOTE, "a", "eve", 7.0)
    assert [(e.at_s, e.actor, e.experiment, e.verb, e.detail) for e in store.events()] == [
        (5.0, "ada", "exp", "apply", "spec version 1"),
        (6.0, "bob", "other", "apply", "spec version 1"),
        (7.0, "eve", "exp", "promote", "a"),
    ]
    assert [event.actor for event in store.events("exp")] == ["ada", "eve"]
    ids = [event.id for event in store.events()]
    assert ids == sorted(set(ids))


def test_a_models_baseline_is_what_was_set_last(store: Store, write_document: Write) -> None:
    assert store.baseline("m") is None
    store.set_baseline("m", "base", 1.0)
    store.set_baseline("n", "other", 1.0)
    store.set_baseline("m", "better", 2.0)
    assert (store.baseline("m"), store.baseline("n")) == ("better", "other")
    kept = store.apply(write_document(), "ada", 5.0)
    store.save(
        "exp",
        expected=kept.state_version,
        state=kept.state,
        evidence=NOTHING,
        decision=None,
        new_baseline=("m", "a"),
    )
    assert store.baseline("m") == "a"


def test_lanes_are_never_given_twice(store: Store) -> None:
    lanes = [store.next_lane() for _ in range(5)]
    assert len(set(lanes)) == 5
    assert min(lanes) > 0


@pytest.mark.parametrize("verb", [Verb.RETRY, Verb.UNDO])
def test_an_ended_experiment_cannot_take_the_traffic_from_one_that_is_going_on(
    store: Store, write_document: Write, verb: Verb
) -> None:
    store.apply(write_document(), "ada", 5.0)
    end(store)
    store.apply(write_document(name="other"), "ada", 6.0)
    with pytest.raises(Conflict, match="model m already has experiment other, which is Pending"):
        store.request("exp", verb, "", "ada", 7.0)
    assert store.pending("exp") == ()
    end(store, "other")
    assert store.request("exp", verb, "", "ada", 8.0) in store.pending("exp")


def test_an_experiment_that_is_to_be_retried_holds_its_model(store: Store, write_document: Write) -> None:
    store.apply(write_document(), "ada", 5.0)
    end(store)
    store.request("exp", Verb.RETRY, "", "ada", 6.0)
    with pytest.raises(Conflict, match="exp, which is about to be retried"):
        store.apply(write_document(name="other"), "ada", 7.0)
    with pytest.raises(Conflict, match="exp is about to be retried"):
        store.apply(write_document(weight=20), "ada", 7.0)


def test_the_overview_says_what_the_single_verbs_say(store: Store, write_document: Write) -> None:
    assert store.overview().experiments == ()
    first = store.apply(write_document(), "ada", 5.0)
    other = store.apply(write_document(name="other", model="n"), "ada", 5.0)
    store.set_baseline("m", "base", 1.0)
    command = store.request("exp", Verb.PAUSE, "", "ada", 6.0)
    for expected in range(3):
        seen = store.overview()
        assert list(seen.experiments) == store.experiments()
        assert seen.pending == {"exp": (command,)}
        assert seen.baselines == {"m": "base"}
        assert [kept.state_version for kept in seen.experiments] == [expected, 0]
        store.save("exp", expected=expected, state=first.state, evidence=NOTHING, decision=None)
    assert not any(seen.has_news(kept) for kept in (first, other))


def test_the_overview_says_whose_outcomes_are_not_folded_in(store: Store, write_document: Write) -> None:
    ids = [store.apply(write_document(name=name, model=name), "ada", 5.0).id for name in ("a", "b")]
    with store.ingestion() as ingestion:
        ingestion.add_delta(ids[1], [Cell(epoch=0, variant="a", requests=1)], [])
    seen = store.overview()
    assert [seen.has_news(kept) for kept in seen.experiments] == [False, True]
    evidence = store.load_evidence("b", 0)
    folded = replace(store.experiment("b").state, cursor=evidence.last)
    store.save("b", expected=0, state=folded, evidence=evidence, decision=None)
    seen = store.overview()
    assert not any(seen.has_news(kept) for kept in seen.experiments)
