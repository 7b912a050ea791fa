from collections.abc import Callable
from dataclasses import replace
from typing import Any

from anabranch.bandit.decision import Change, Verb
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.spec import Algorithm, BanditStep, Mode, PauseStep, PromoteStep, SetWeightStep, Step

Begin = Callable[..., Any]
Reasons = Callable[..., list[str]]

HOLD = PauseStep(duration_s=1e9)
PROMOTE = PromoteStep(weights=(0.5, 1.0), interval_s=10.0, bake_s=20.0)
BANDIT = BanditStep(
    algorithm=Algorithm.UNIFORM,
    max_weight=0.5,
    min_prob=0.05,
    update_period_s=5.0,
    min_duration_s=0.0,
    max_duration_s=300.0,
)


def observed(begin: Begin, *steps: Step, **more: Any) -> Any:
    hand = begin(*steps, started=False, **more)
    hand.experiment = replace(hand.experiment, mode=Mode.OBSERVE)
    hand.tick()
    return hand


def test_a_winner_is_named_and_not_promoted(begin: Begin, reasons: Reasons) -> None:
    hand = observed(
        begin, SetWeightStep(weight=0.5), PauseStep(duration_s=5.0), PROMOTE, metrics="errors", candidates="a"
    )
    result = hand.see(requests={"base": 400, "a": 400}, after=6.0)
    assert reasons(result, Change.PHASE) == [
        "a would be promoted; decisions are recorded only, the baseline is kept"
    ]
    assert (hand.state.phase, result.promoted) == (Phase.INCONCLUSIVE, None)


def test_a_failing_candidate_is_named_and_keeps_what_a_step_gave_it(begin: Begin, reasons: Reasons) -> None:
    hand = observed(begin, SetWeightStep(weight=0.2), HOLD, metrics="errors")
    before = dict(hand.state.weights)
    result = hand.see(requests={"base": 60, "a": 100, "b": 300}, failing=["b"])
    assert reasons(result, Change.REMOVED)[0].startswith("b would be removed: errors")
    assert hand.state.weights == before
    assert hand.state.phase is Phase.PROGRESSING


def test_where_all_fail_it_ends_without_a_rollback(begin: Begin, reasons: Reasons) -> None:
    hand = observed(begin, SetWeightStep(weight=0.2), HOLD, metrics="errors", candidates="a")
    result = hand.see(requests={"base": 60, "a": 400}, failing=["a"])
    assert hand.state.phase is Phase.INCONCLUSIVE
    assert "would be rolled back" in reasons(result, Change.PHASE)[0]


def test_a_bandits_weights_are_proposed_and_not_set(begin: Begin, reasons: Reasons) -> None:
    hand = observed(begin, SetWeightStep(weight=0.1), BANDIT, PROMOTE, metrics="latency errors")
    used = {"base": 0.8, "a": 0.1, "b": 0.1}
    assert hand.state.weights == used
    for _ in range(4):
        hand.see(requests={"base": 12, "a": 3, "b": 3}, after=5.0)
    assert hand.state.weights == used, hand.state
    assert hand.state.proposed["a"] > 0.1


def test_a_persons_promotion_is_refused(begin: Begin, reasons: Reasons) -> None:
    hand = observed(begin, SetWeightStep(weight=0.1), HOLD, PROMOTE, metrics="errors", candidates="a")
    result = hand.tick((Verb.PROMOTE, "a"))
    assert "its mode is observe" in reasons(result, Change.REFUSED)[0]
    assert hand.state.phase is Phase.PROGRESSING


def test_a_dry_run_guardrail_is_judged_and_removes_nobody(begin: Begin, reasons: Reasons) -> None:
    hand = begin(SetWeightStep(weight=0.2), HOLD, metrics="errors fidelity", candidates="a", started=False)
    metrics = tuple(replace(each, dry_run=each.name == "errors") for each in hand.experiment.metrics)
    hand.experiment = replace(hand.experiment, metrics=metrics)
    hand.tick()
    result = hand.see(requests={"base": 60, "a": 400}, failing=["a"])
    assert "fails" in reasons(result, Change.VERDICT)[0]
    assert hand.state.live == ("a",)
    assert hand.state.phase is Phase.PROGRESSING
