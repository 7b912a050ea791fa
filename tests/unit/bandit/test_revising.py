from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from anabranch.bandit.decision import Change, Command, Verb
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.hooks import Gate, GateKind
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.spec import AnalysisStep, Experiment, Mode, PauseStep, PromoteStep, SetWeightStep
from anabranch.bandit.step import Tick, tick

Begin = Callable[..., Any]

STEPS = (
    SetWeightStep(weight=0.2),
    PauseStep(duration_s=100.0),
    AnalysisStep(min_duration_s=0.0, max_duration_s=None),
    PromoteStep(weights=(0.5, 1.0), interval_s=10.0, bake_s=20.0),
)


def revised(hand: Any, after: Experiment) -> Tick:
    """A tick that is asked to go on with another document."""
    hand.now += 1.0
    asked = Command(id=1, verb=Verb.REVISE, actor="ada", revision=after)
    result = tick(hand.experiment, hand.state, Evidence(experiment="exp"), (asked,), hand.now)
    hand.state = result.state
    if result.revised is not None:
        hand.experiment = result.revised
    return result


def started(begin: Begin) -> Any:
    return begin(*STEPS, metrics="errors", candidates="a")


def step(index: int, **change: Any) -> Callable[[Experiment], Experiment]:
    def apply(before: Experiment) -> Experiment:
        steps = list(before.steps)
        steps[index] = replace(steps[index], **change)
        return replace(before, steps=tuple(steps))

    return apply


SOUND: dict[str, Callable[[Experiment], Experiment]] = {
    "the current step's duration": step(1, duration_s=5.0),
    "a later step": step(3, bake_s=7.0),
    "another step": lambda before: replace(
        before, steps=(*before.steps[:2], SetWeightStep(weight=0.3), *before.steps[2:])
    ),
    "a gate": lambda before: replace(before, gates=(Gate(name="g", kind=GateKind.CONFIRM_PROMOTION),)),
    "the mode": lambda before: replace(before, mode=Mode.OBSERVE),
    "the age": lambda before: replace(before, min_age_s=60.0),
}
UNSOUND: dict[str, tuple[Callable[[Experiment], Experiment], str]] = {
    "a step that is over": (step(0, weight=0.5), "spec.steps[0] is over"),
    "the current step's kind": (
        lambda before: replace(before, steps=(before.steps[0], SetWeightStep(weight=0.1), *before.steps[2:])),
        "spec.steps[1] is the current one",
    ),
    "the error": (lambda before: replace(before, delta=0.2), "spec.delta restarts the evidence"),
    "the candidates": (
        lambda before: replace(before, candidates=("a", "b")),
        "spec.candidates restarts the evidence",
    ),
    "a metric": (
        lambda before: replace(before, metrics=(replace(before.metrics[0], maximum=0.3),)),
        "spec.metrics restarts the evidence",
    ),
}


@pytest.mark.parametrize("what", SOUND)
def test_what_is_still_to_come_changes_in_flight_and_keeps_the_evidence(begin: Begin, what: str) -> None:
    hand = started(begin)
    hand.see(requests={"base": 80, "a": 20})
    before = hand.state
    after = SOUND[what](hand.experiment)
    result = revised(hand, after)
    assert result.revised == after
    assert hand.state.totals == before.totals
    assert hand.state.tests == before.tests
    assert result.decision is not None
    assert result.decision.actions[0].change is Change.REVISED


def test_a_shorter_pause_is_over_at_once(begin: Begin) -> None:
    hand = started(begin)
    hand.tick(after=50.0)
    assert hand.state.step == 1
    revised(hand, SOUND["the current step's duration"](hand.experiment))
    assert hand.state.step == 2


@pytest.mark.parametrize("what", UNSOUND)
def test_what_would_restart_the_evidence_is_refused_with_the_reason(begin: Begin, what: str) -> None:
    hand = started(begin)
    change, reason = UNSOUND[what]
    before = hand.experiment
    result = revised(hand, change(before))
    assert result.revised is None
    assert hand.experiment is before
    assert result.decision is not None
    assert reason in result.decision.summary


def test_a_ramp_keeps_what_it_has_reached(begin: Begin) -> None:
    hand = started(begin)
    hand.tick((Verb.PROMOTE, "a"))
    assert hand.state.phase is Phase.PROMOTING
    result = revised(hand, step(3, weights=(0.4, 1.0))(hand.experiment))
    assert result.revised is None
    result = revised(hand, step(3, weights=(0.5, 0.75, 1.0))(hand.experiment))
    assert result.revised is not None


def test_what_is_over_is_not_revised(begin: Begin) -> None:
    hand = started(begin)
    hand.tick(Verb.ABORT)
    assert revised(hand, SOUND["the age"](hand.experiment)).revised is None
