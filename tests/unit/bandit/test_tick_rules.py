"""Rules of a tick beside the steps: age, hold-back, futility, exposure, joint harm, rivals, and what is remembered."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from anabranch.bandit import drift
from anabranch.bandit.allocation import allocation_problem
from anabranch.bandit.budget import worst_harm
from anabranch.bandit.decision import Change
from anabranch.bandit.drift import DriftState
from anabranch.bandit.evidence import Cell, Evidence
from anabranch.bandit.futility import why_futile
from anabranch.bandit.judge import joint_harm, log_need_fail
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.recent import recent_totals
from anabranch.bandit.spec import (
    Algorithm,
    AnalysisStep,
    BanditStep,
    Direction,
    Experiment,
    Metric,
    PromoteStep,
    Role,
    SetWeightStep,
    Statistic,
)
from anabranch.bandit.state import ExperimentState, Totals
from anabranch.bandit.step import tick
from anabranch.bandit.verdicts import Outcome, Verdict

Begin = Callable[..., Any]
Reasons = Callable[..., list[str]]

BANDIT = BanditStep(
    algorithm=Algorithm.UNIFORM,
    max_weight=0.5,
    min_prob=0.05,
    update_period_s=5.0,
    min_duration_s=0.0,
    max_duration_s=1e9,
    tolerance=0.1,
)
PROMOTE = PromoteStep(weights=(0.5, 1.0), interval_s=10.0, bake_s=20.0)
ANALYSIS = AnalysisStep(min_duration_s=0.0, max_duration_s=None)


def test_no_promotion_begins_before_the_minimum_age(begin: Begin) -> None:
    hand = begin(SetWeightStep(weight=0.3), ANALYSIS, PROMOTE, metrics="errors", started=False)
    hand.experiment = replace(hand.experiment, min_age_s=100.0)
    hand.tick()
    for _ in range(5):
        hand.see(requests={"base": 200, "a": 150, "b": 150})
    hand.tick(after=80.0)
    assert phase_of(hand) is Phase.PROGRESSING
    assert hand.state.weights["a"] == 0.3
    hand.tick(after=20.0)
    assert phase_of(hand) is Phase.PROMOTING


def test_the_baseline_keeps_the_hold_back_until_the_winner_is_committed(
    begin: Begin, reasons: Reasons
) -> None:
    hand = begin(SetWeightStep(weight=0.3), ANALYSIS, replace(PROMOTE, hold_back=0.05), metrics="errors")
    for _ in range(9):
        hand.see(requests={"base": 40, "a": 20, "b": 20})
    assert hand.state.weights == {"base": 0.5, "a": 0.5, "b": 0.0}
    result = hand.tick(after=10.0)
    assert hand.state.weights == pytest.approx({"base": 0.05, "a": 0.95, "b": 0.0})
    assert reasons(result, Change.STEP) == ["a goes to 95%"]
    hand.tick(after=20.0)
    assert phase_of(hand) is Phase.PROMOTED
    assert hand.state.weights["a"] == 1.0


def phase_of(hand: Any) -> Phase:
    """Read anew: a tick has changed it."""
    phase: Phase = hand.state.phase
    return phase


def beneficial(begin: Begin, benefit: float) -> Any:
    analysis = replace(ANALYSIS, min_duration_s=1e6)
    hand = begin(SetWeightStep(weight=0.3), analysis, PROMOTE, metrics="latency errors", started=False)
    latency, errors = hand.experiment.metrics
    metrics = (replace(latency, planned_benefit=benefit), errors)
    hand.experiment = replace(hand.experiment, metrics=metrics)
    hand.tick()
    return hand


def test_candidates_that_cannot_reach_the_planned_benefit_are_dropped_and_the_baseline_is_kept(
    begin: Begin, reasons: Reasons
) -> None:
    # The candidates' median is 63 % below the baseline's; 90 % are asked for.
    hand = beneficial(begin, 0.9)
    gone: list[str] = []
    for _ in range(20):
        result = hand.see(requests=hand.traffic(300))
        gone += reasons(result, Change.REMOVED)
        if not hand.state.live:
            break
    assert [reason.split(" (")[0] for reason in gone] == [
        f"{name} is removed: latency does not gain 90.0%" for name in ("a", "b")
    ]
    assert "no candidate is worth the change, base is kept" in result.decision.summary
    hand.tick()
    assert phase_of(hand) is Phase.INCONCLUSIVE
    assert hand.state.weights["base"] == 1.0


def test_candidates_that_reach_the_planned_benefit_are_not_dropped(begin: Begin) -> None:
    hand = beneficial(begin, 0.5)
    for _ in range(20):
        hand.see(requests=hand.traffic(100))
    assert hand.state.live == ("a", "b")


def test_nobody_is_dropped_as_futile_before_both_arms_are_known_to_stand_still() -> None:
    latency = Metric(
        name="latency",
        source="latency_ms",
        role=Role.OBJECTIVE,
        statistic=Statistic.P50,
        direction=Direction.MIN,
        planned_benefit=0.2,
    )
    asked = plain(latency)
    counts = {"latency_ms": {890: 200, 900: 200, 910: 200}}
    state = ExperimentState(totals={arm: Totals(split=counts) for arm in asked.arms})
    assert why_futile(asked, state, "a") is None
    still = moving = DriftState()
    for number in range(8):
        still = drift.advance(still, counts["latency_ms"])
        moving = drift.advance(moving, {900 + 20 * (number % 2): 600})
    quiet = {"latency_ms/a": still, "latency_ms/base": still}
    assert (why_futile(asked, replace(state, drift=quiet), "a") or "").startswith(
        "latency does not gain 20.0% (evidence "
    )
    assert why_futile(asked, replace(state, drift=quiet | {"latency_ms/base": moving}), "a") is None


def test_a_candidate_that_may_have_spent_its_exposure_budget_gets_no_traffic(
    begin: Begin, reasons: Reasons
) -> None:
    hand = begin(SetWeightStep(weight=0.1), ANALYSIS, metrics="errors", started=False)
    hand.experiment = replace(hand.experiment, exposure_budget=15.0)
    hand.tick()
    hand.see(requests={"base": 80, "a": 10, "b": 10})
    assert hand.state.weights["a"] == 0.1
    # 60 requests of which nothing is known to be fine: at worst all of them were bad.
    cells = (Cell(epoch=hand.state.epoch, variant="a", requests=60),)
    result = hand.tick(
        evidence=Evidence(
            experiment="exp", first=2, last=2, cells=cells, weights={hand.state.epoch: hand.state.weights}
        )
    )
    assert hand.state.weights == pytest.approx({"base": 0.9, "a": 0.0, "b": 0.1})
    assert "a may have done as much harm as is allowed" in reasons(result, Change.WEIGHTS)[0]
    # Late outcomes show that it did not: it is served again.
    cells = (Cell(epoch=hand.state.epoch - 1, variant="a", metrics={"error": {0: 60}}),)
    hand.tick(
        evidence=Evidence(
            experiment="exp", first=3, last=3, cells=cells, weights={hand.state.epoch: hand.state.weights}
        )
    )
    assert hand.state.weights["a"] == 0.1


def test_harm_is_bounded_by_the_guardrail_that_may_be_worst_and_ends_when_it_holds() -> None:
    errors = Metric(name="errors", source="error", role=Role.GUARDRAIL, direction=Direction.MIN, maximum=0.1)
    accuracy = Metric(
        name="accuracy", source="feedback.correct", role=Role.GUARDRAIL, non_inferiority_margin=0.02
    )
    asked = plain(errors, accuracy)
    state = seen(asked, {"a": {"error": {0: 90, 1: 10}}}, requests=100)
    verdicts = {
        "errors/a": verdict("errors", low=0.05, high=0.3),
        "accuracy/a": verdict("accuracy", low=-0.12, high=0.05),
    }
    assert worst_harm(asked, replace(state, verdicts=verdicts), "a") == pytest.approx(100 * 0.2)
    verdicts["errors/a"] = replace(verdicts["errors/a"], outcome=Outcome.PASS)
    assert worst_harm(asked, replace(state, verdicts=verdicts), "a") == pytest.approx(100 * 0.1)
    assert worst_harm(asked, replace(state, verdicts={}), "a") == 0.0


def verdict(
    metric: str, *, low: float | None = None, high: float | None = None, log_e_fail: float = 0.0
) -> Verdict:
    return Verdict(
        metric=metric,
        variant="a",
        outcome=Outcome.INCONCLUSIVE,
        low=low,
        high=high,
        log_e_fail=log_e_fail,
    )


def plain(*metrics: Metric, steps: tuple[Any, ...] = (SetWeightStep(weight=0.2),)) -> Experiment:
    return Experiment(
        name="exp", model="m", baseline="base", candidates=("a", "b"), metrics=metrics, steps=steps
    )


def seen(
    asked: Experiment,
    outcomes: Mapping[str, Mapping[str, dict[int, int]]],
    *,
    requests: int = 0,
    state: ExperimentState | None = None,
    now: float = 1.0,
) -> ExperimentState:
    """The state after a tick in which every arm was seen with these outcomes."""
    if state is None:
        state = tick(asked, ExperimentState(), Evidence(experiment="exp"), (), 0.0).state
    last = state.cursor + 1
    cells = tuple(
        Cell(epoch=state.epoch, variant=arm, requests=requests, metrics=metrics)
        for arm, metrics in outcomes.items()
    )
    evidence = Evidence(
        experiment="exp", first=last, last=last, cells=cells, weights={state.epoch: state.weights}
    )
    return tick(asked, state, evidence, (), now).state


def test_harm_spread_over_guardrails_counts_as_their_average() -> None:
    metrics = [
        Metric(name=name, source="error", role=Role.GUARDRAIL, direction=Direction.MIN, maximum=0.1)
        for name in ("one", "two", "three")
    ]
    asked = plain(*metrics)
    need = math.log(2 / 0.01)

    def state(*evidence: float) -> ExperimentState:
        return ExperimentState(
            verdicts={
                f"{metric.name}/a": verdict(metric.name, log_e_fail=value)
                for metric, value in zip(metrics, evidence, strict=True)
            }
        )

    spread = state(need + 0.01, need + 0.01, need + 0.01)
    assert joint_harm(asked, spread, "a") is not None
    assert all(v.log_e_fail < log_need_fail(asked) for v in spread.verdicts.values())
    # What one guardrail proves alone, with the error split, the average proves too.
    assert joint_harm(asked, state(log_need_fail(asked) + 1e-9, -50.0, -50.0), "a") is not None
    assert joint_harm(asked, state(need, need, -50.0), "a") is None


SCORE = Metric(name="score", source="feedback.correct", role=Role.OBJECTIVE)
SOUND = Metric(name="errors", source="error", role=Role.GUARDRAIL, direction=Direction.MIN, maximum=0.2)


def bandit_run(scores: Mapping[str, int], ticks: int, *, tolerance: float = 0.1) -> ExperimentState:
    """Every arm is seen 100 times a tick, with so many right answers."""
    asked = plain(
        SCORE, SOUND, steps=(SetWeightStep(weight=0.3), replace(BANDIT, tolerance=tolerance), PROMOTE)
    )
    state = tick(asked, ExperimentState(), Evidence(experiment="exp"), (), 0.0).state
    outcomes = {
        arm: {"feedback.correct": {0: 100 - good, 1: good}, "error": {0: 100}} for arm, good in scores.items()
    }
    for number in range(1, ticks + 1):
        state = seen(asked, outcomes, state=state, now=float(number))
        if state.phase is not Phase.PROGRESSING:
            break
    return state


def test_a_bandit_on_accuracy_ends_when_the_leader_is_proven_against_every_rival() -> None:
    state = bandit_run({"base": 80, "a": 92, "b": 90}, 60)
    assert state.phase is Phase.PROMOTING
    assert state.winner == "a"
    assert set(state.rivals) == {"a>b"}


def test_a_bandit_on_accuracy_goes_on_while_a_rival_may_be_better_by_the_tolerance() -> None:
    state = bandit_run({"base": 80, "a": 92, "b": 90}, 8, tolerance=0.01)
    assert state.phase is Phase.PROGRESSING
    assert state.verdicts["score/a"].outcome is Outcome.PASS


def test_a_leader_that_is_overtaken_keeps_its_test_and_the_new_one_begins_its_own() -> None:
    asked = plain(SCORE, SOUND, steps=(SetWeightStep(weight=0.3), BANDIT, PROMOTE))
    state = tick(asked, ExperimentState(), Evidence(experiment="exp"), (), 0.0).state

    def outcomes(good_a: int, good_b: int) -> dict[str, dict[str, dict[int, int]]]:
        good = {"base": 80, "a": good_a, "b": good_b}
        return {arm: {"feedback.correct": {0: 100 - n, 1: n}} for arm, n in good.items()}

    for number, (a, b) in enumerate([(90, 85), (90, 85), (60, 95), (80, 90)], 1):
        state = seen(asked, outcomes(a, b), state=state, now=float(number))
    assert set(state.rivals) == {"a>b", "b>a"}
    assert state.rivals["a>b"].count > state.rivals["b>a"].count


def test_what_the_allocation_remembers_is_the_last_one_to_two_memories() -> None:
    asked = plain(SCORE, SOUND, steps=(SetWeightStep(weight=0.3), replace(BANDIT, memory_s=10.0), PROMOTE))
    state = tick(asked, ExperimentState(), Evidence(experiment="exp"), (), 0.0).state
    right = {arm: {"feedback.correct": {1: 1}} for arm in asked.arms}
    wrong = {arm: {"feedback.correct": {0: 1}} for arm in asked.arms}
    for number in range(1, 10):
        state = seen(asked, right, state=state, now=float(number))
    assert recent_totals(state, "a").split == state.totals["a"].split
    for number in range(10, 20):
        state = seen(asked, wrong, state=state, now=float(number))
    assert recent_totals(state, "a").split["feedback.correct"] == {0: 10, 1: 9}
    for number in range(20, 22):
        state = seen(asked, wrong, state=state, now=float(number))
    assert recent_totals(state, "a").split["feedback.correct"] == {0: 12}
    assert state.totals["a"].split["feedback.correct"] == {0: 12, 1: 9}
    problem = allocation_problem(asked, state, BANDIT)
    assert problem.baseline.objective == {0: 12}


def test_without_a_bandit_nothing_is_remembered_twice() -> None:
    asked = plain(SCORE)
    state = seen(asked, {"a": {"feedback.correct": {1: 3}}})
    assert state.recent is None
    assert recent_totals(state, "a") == state.totals["a"]


def test_a_latency_bandit_asks_for_the_quantile_and_runs_no_rival_tests() -> None:
    latency = Metric(
        name="latency",
        source="latency_ms",
        role=Role.OBJECTIVE,
        statistic=Statistic.P50,
        direction=Direction.MIN,
    )
    asked = plain(latency, steps=(SetWeightStep(weight=0.3), BANDIT, PROMOTE))
    state = seen(asked, {arm: {"latency_ms": {900: 100}} for arm in asked.arms})
    assert state.rivals == {}
