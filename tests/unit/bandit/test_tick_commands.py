from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from anabranch.bandit.decision import Change, Verb
from anabranch.bandit.lifecycle import TRANSITIONS, Event, Phase
from anabranch.bandit.spec import AnalysisStep, PauseStep, PromoteStep, SetWeightStep
from anabranch.bandit.state import ExperimentState

Begin = Callable[..., Any]
Reasons = Callable[..., list[str]]

EVENT_OF = {
    Verb.PROMOTE: Event.WIN,
    Verb.PAUSE: Event.PAUSE,
    Verb.RESUME: Event.RESUME,
    Verb.ABORT: Event.ABORT,
    Verb.RETRY: Event.RETRY,
    Verb.UNDO: Event.UNDO,
}
# What opens gates and revises documents has tests of its own: it needs a gate, or a document.
HOLD = PauseStep(duration_s=1e9)
PROMOTE = PromoteStep(weights=(0.5, 1.0), interval_s=10.0, bake_s=20.0)
SOON = AnalysisStep(min_duration_s=0.0, max_duration_s=5.0)


def bring(begin: Begin, phase: Phase) -> Any:
    """An experiment in a phase, by the ways that lead there."""
    hand = begin(
        SetWeightStep(weight=0.2), SOON if phase is Phase.INCONCLUSIVE else HOLD, PROMOTE, metrics="errors"
    )
    hand.tick()
    match phase:
        case Phase.PAUSED:
            hand.tick(Verb.PAUSE)
        case Phase.INCONCLUSIVE:
            hand.tick(after=5.0)
        case Phase.PROMOTING:
            hand.tick((Verb.PROMOTE, "a"))
        case Phase.PROMOTED:
            hand.tick((Verb.PROMOTE, "a"))
            hand.tick(after=10.0)
            hand.tick(after=20.0)
        case Phase.ROLLED_BACK:
            hand.tick((Verb.PROMOTE, "a"))
            hand.tick(Verb.UNDO)
        case Phase.ABORTED:
            hand.tick(Verb.ABORT)
        case _:
            pass
    assert hand.state.phase is phase
    return hand


STARTED = [phase for phase in Phase if phase is not Phase.PENDING]


@pytest.mark.parametrize("verb", EVENT_OF)
@pytest.mark.parametrize("phase", STARTED)
def test_every_request_in_every_phase_follows_the_table_or_is_refused(
    begin: Begin, reasons: Reasons, phase: Phase, verb: Verb
) -> None:
    hand = bring(begin, phase)
    before = hand.state
    result = hand.tick(verb)
    if (phase, EVENT_OF[verb]) in TRANSITIONS:
        assert reasons(result, Change.REFUSED) == []
        # A retry starts again in the same tick.
        expected = Phase.PROGRESSING if verb is Verb.RETRY else TRANSITIONS[phase, EVENT_OF[verb]]
        assert hand.state.phase is expected
    else:
        [refusal] = reasons(result, Change.REFUSED)
        assert refusal.startswith(f"{verb} by ada refused: ")
        assert hand.state == replace(before, decisions=before.decisions + 1)


@pytest.mark.parametrize("verb", [verb for verb in EVENT_OF if verb is not Verb.ABORT])
def test_what_is_asked_before_the_start_is_refused_and_the_experiment_starts(
    begin: Begin, reasons: Reasons, verb: Verb
) -> None:
    hand = begin(HOLD, started=False)
    result = hand.tick(verb)
    assert len(reasons(result, Change.REFUSED)) == 1
    assert hand.state.phase is Phase.PROGRESSING


def test_an_experiment_aborted_before_its_start_never_gets_traffic(begin: Begin) -> None:
    hand = begin(SetWeightStep(weight=0.2), HOLD, started=False)
    hand.tick(Verb.ABORT)
    hand.tick(after=1e6)
    assert hand.state.phase is Phase.ABORTED
    assert hand.state.weights == {"base": 1.0, "a": 0.0, "b": 0.0}


def test_requests_are_answered_in_order_in_one_decision(begin: Begin, reasons: Reasons) -> None:
    hand = begin(SetWeightStep(weight=0.2), HOLD)
    result = hand.tick(Verb.PAUSE, Verb.PAUSE, Verb.RESUME, Verb.ABORT)
    assert result.decision.handled == (1, 2, 3, 4)
    assert len(reasons(result, Change.REFUSED)) == 1
    assert hand.state.phase is Phase.ABORTED


def test_a_person_may_promote_a_named_candidate_whatever_the_verdicts(begin: Begin) -> None:
    hand = begin(SetWeightStep(weight=0.2), HOLD, PROMOTE)
    hand.tick((Verb.PROMOTE, "b"))
    assert (hand.state.phase, hand.state.winner) == (Phase.PROMOTING, "b")
    assert hand.state.weights == {"base": 0.5, "a": 0.0, "b": 0.5}


@pytest.mark.parametrize("phase", [Phase.PROGRESSING, Phase.PAUSED, Phase.INCONCLUSIVE, Phase.PROMOTING])
def test_a_promotion_in_full_gives_all_traffic_at_once_and_can_be_undone(begin: Begin, phase: Phase) -> None:
    hand = bring(begin, phase)
    result = hand.tick((Verb.PROMOTE_FULL, "a"))
    assert (hand.state.phase, result.promoted) == (Phase.PROMOTED, "a")
    assert hand.state.weights == {"base": 0.0, "a": 1.0, "b": 0.0}
    undone = hand.tick(Verb.UNDO)
    assert (hand.state.phase, undone.reverted) == (Phase.ROLLED_BACK, True)
    assert hand.state.weights["base"] == 1.0


@pytest.mark.parametrize("phase", [Phase.PROMOTED, Phase.ROLLED_BACK, Phase.ABORTED])
def test_what_is_over_is_not_promoted_in_full(begin: Begin, reasons: Reasons, phase: Phase) -> None:
    hand = bring(begin, phase)
    result = hand.tick((Verb.PROMOTE_FULL, "a"))
    assert len(reasons(result, Change.REFUSED)) == 1
    assert (hand.state.phase, result.promoted) == (phase, None)


def test_another_candidate_than_the_one_being_promoted_is_refused_in_full(
    begin: Begin, reasons: Reasons
) -> None:
    hand = bring(begin, Phase.PROMOTING)
    result = hand.tick((Verb.PROMOTE_FULL, "b"))
    assert "a is being promoted: undo that first" in reasons(result, Change.REFUSED)[0]


def test_a_candidate_that_fails_in_that_tick_is_not_promoted_in_full(begin: Begin, reasons: Reasons) -> None:
    hand = begin(SetWeightStep(weight=0.2), HOLD, PROMOTE, metrics="errors", candidates="a")
    result = hand.see(requests={"base": 40, "a": 300}, failing=["a"], verbs=[Verb.PROMOTE_FULL])
    assert "a has failed: errors" in reasons(result, Change.REFUSED)[0]
    assert hand.state.phase is Phase.ROLLED_BACK


@pytest.mark.parametrize("name", ["base", "nobody"])
def test_only_a_live_candidate_can_be_promoted(begin: Begin, reasons: Reasons, name: str) -> None:
    hand = begin(SetWeightStep(weight=0.2), HOLD, PROMOTE)
    result = hand.tick((Verb.PROMOTE, name))
    assert "live are a, b" in reasons(result, Change.REFUSED)[0]
    assert hand.state.phase is Phase.PROGRESSING


def test_a_candidate_that_fails_in_the_tick_of_its_promotion_is_rolled_back(
    begin: Begin, reasons: Reasons
) -> None:
    hand = begin(SetWeightStep(weight=0.2), HOLD, PROMOTE, metrics="errors", candidates="a")
    result = hand.see(requests={"base": 40, "a": 300}, failing=["a"], verbs=[Verb.PROMOTE])
    assert hand.state.phase is Phase.ROLLED_BACK
    assert len(reasons(result, Change.PHASE)) == 2


def test_an_undo_after_the_promotion_says_that_the_baseline_serves_again(begin: Begin) -> None:
    hand = bring(begin, Phase.PROMOTED)
    result = hand.tick(Verb.UNDO)
    assert result.reverted
    assert hand.state.weights == {"base": 1.0, "a": 0.0, "b": 0.0}


def test_an_undo_during_the_promotion_reverts_nothing_that_was_committed(begin: Begin) -> None:
    hand = bring(begin, Phase.PROMOTING)
    assert hand.tick(Verb.UNDO).reverted is False


def test_a_retry_forgets_the_evidence_but_never_an_epoch_a_decision_or_a_delta(
    begin: Begin, reasons: Reasons
) -> None:
    hand = begin(SetWeightStep(weight=0.2), HOLD, metrics="errors")
    hand.see(requests={"base": 60, "a": 100, "b": 100}, failing=["a"])
    hand.tick(Verb.ABORT)
    before = hand.state
    result = hand.tick(Verb.RETRY)
    assert reasons(result, Change.RESTARTED) == ["started again by ada"]
    assert hand.state.live == ("a", "b")
    assert (hand.state.verdicts, hand.state.totals, hand.state.removed, hand.state.tests) == ({}, {}, (), {})
    assert hand.state.epoch > before.epoch
    assert hand.state.cursor == before.cursor
    assert hand.state.decisions == before.decisions + 1
    assert hand.state.weights["a"] == 0.2


def test_a_fresh_state_differs_from_a_started_one_in_what_the_start_sets(begin: Begin) -> None:
    hand = begin(HOLD)
    assert (
        replace(
            hand.state,
            phase=Phase.PENDING,
            live=(),
            weights={},
            started_s=0.0,
            step_started_s=0.0,
            epoch_started_s=0.0,
            decisions=0,
        )
        == ExperimentState()
    )
