"""What the closed loop does in worlds that are known: right often enough, wrong rarely enough, by exact bounds."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy import stats

from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.simulate import Arm, World, run
from anabranch.bandit.spec import (
    Algorithm,
    AnalysisStep,
    BanditStep,
    Direction,
    Experiment,
    Metric,
    MirrorStep,
    PromoteStep,
    Role,
    SetWeightStep,
    Statistic,
    Unlabelled,
)
from anabranch.bandit.state import ExperimentState

ERRORS = Metric(
    name="errors", source="error", role=Role.GUARDRAIL, direction=Direction.MIN, non_inferiority_margin=0.02
)
ACCURACY = Metric(
    name="accuracy", source="feedback.correct", role=Role.GUARDRAIL, non_inferiority_margin=0.05
)
LATENCY = Metric(
    name="latency",
    source="latency_ms",
    role=Role.OBJECTIVE,
    statistic=Statistic.P50,
    direction=Direction.MIN,
)
PROMOTE = PromoteStep(weights=(1.0,), interval_s=1.0, bake_s=1.0)


def canary(*metrics: Metric, weight: float, candidates: tuple[str, ...] = ("a",)) -> Experiment:
    bandit = BanditStep(
        algorithm=Algorithm.UNIFORM,
        max_weight=0.5,
        min_prob=0.05,
        update_period_s=10.0,
        min_duration_s=0.0,
        max_duration_s=60.0,
    )
    analysis = AnalysisStep(min_duration_s=0.0, max_duration_s=None)
    middle = bandit if any(metric.role is Role.OBJECTIVE for metric in metrics) else analysis
    return Experiment(
        name="exp",
        model="m",
        baseline="base",
        candidates=candidates,
        metrics=metrics,
        steps=(SetWeightStep(weight=weight), middle, PROMOTE),
    )


def end(
    experiment: Experiment, world: World, seed: int, *, ticks: int, interval_s: float = 1.0
) -> ExperimentState:
    """The last state of a run; every state on the way keeps the weights a partition."""
    state = ExperimentState()
    for result in run(experiment, world, np.random.default_rng(seed), max_ticks=ticks, interval_s=interval_s):
        state = result.state
        assert abs(sum(state.weights.values()) - 1.0) < 1e-9
        assert state.phase is not Phase.PROMOTED or state.weights[state.winner or ""] == 1.0
    return state


def plausible(events: int, runs: int, *, at_least: float = 0.0, at_most: float = 1.0) -> bool:
    """Whether a count agrees with a probability between two limits, by two-sided 99 % Clopper-Pearson bounds."""
    low = float(stats.beta.ppf(0.005, events, runs - events + 1)) if events else 0.0
    high = float(stats.beta.ppf(0.995, events + 1, runs - events)) if events < runs else 1.0
    return low <= at_most and high >= at_least


def test_the_demo_promotes_an_int8_variant_and_removes_the_one_that_kl_calibration_broke(
    demo: Experiment, demo_arms: Mapping[str, Arm]
) -> None:
    world = World(arms=lambda _: demo_arms, requests_per_s=300.0)
    seeds = range(5)
    ends = [end(demo, world, seed, ticks=150, interval_s=2.0) for seed in seeds]
    assert [state.phase for state in ends] == [Phase.PROMOTED] * len(seeds)
    assert {state.winner for state in ends} <= {"onnx-int8-dynamic", "onnx-int8-static"}
    removed = [{removal.variant for removal in state.removed} for state in ends]
    assert all("onnx-int8-static-kl" in gone for gone in removed)
    sound = sum(bool(gone & {"onnx-int8-dynamic", "onnx-mixed", "onnx-int8-static"}) for gone in removed)
    assert plausible(sound, len(seeds), at_most=demo.rollback_delta)


def test_equal_candidates_are_not_promoted_for_being_better() -> None:
    experiment = canary(LATENCY, ERRORS, weight=0.2, candidates=("a", "b"))
    arms = {name: Arm(median_ms=10.0, error_rate=0.01) for name in experiment.arms}
    runs = 30
    ends = [
        end(experiment, World(arms=lambda _: arms, requests_per_s=200.0), seed, ticks=20, interval_s=5.0)
        for seed in range(runs)
    ]
    promoted = sum(state.phase is Phase.PROMOTED for state in ends)
    assert plausible(promoted, runs, at_most=experiment.delta)
    for state in ends:
        if state.phase is not Phase.PROMOTED:
            assert state.weights["base"] == 1.0


def test_a_harmful_candidate_at_a_canary_of_five_percent_is_rolled_back() -> None:
    experiment = canary(ERRORS, weight=0.05)
    arms = {"base": Arm(median_ms=10.0, error_rate=0.01), "a": Arm(median_ms=10.0, error_rate=0.15)}
    world = World(arms=lambda _: arms, requests_per_s=200.0)
    ends = [end(experiment, world, seed, ticks=300) for seed in range(10)]
    assert [state.phase for state in ends] == [Phase.ROLLED_BACK] * 10
    exposed = [state.totals["a"].requests for state in ends]
    assert 10 < np.median(exposed) < 3_000


def test_a_drift_of_the_baseline_during_a_ramp_fools_nobody() -> None:
    ramp = tuple(
        step
        for weight in (0.05, 0.1, 0.25, 0.5)
        for step in (SetWeightStep(weight=weight), AnalysisStep(min_duration_s=40.0, max_duration_s=None))
    )
    experiment = replace(canary(ACCURACY, weight=0.05), steps=(*ramp, PROMOTE))

    def arms(at_s: float) -> Mapping[str, Arm]:
        # Everything gets harder half-way: pooled over the ramp, the candidate would look much worse.
        accuracy = 0.95 if at_s < 100.0 else 0.85
        return {name: Arm(median_ms=10.0, accuracy=accuracy) for name in ("base", "a")}

    runs = 20
    ends = [
        end(experiment, World(arms=arms, requests_per_s=150.0), seed, ticks=120, interval_s=5.0)
        for seed in range(runs)
    ]
    lost = sum(state.phase is Phase.ROLLED_BACK for state in ends)
    assert plausible(lost, runs, at_most=experiment.rollback_delta)
    promoted = sum(state.phase is Phase.PROMOTED for state in ends)
    assert plausible(promoted, runs, at_least=0.9)


def test_a_worse_candidate_is_not_promoted_because_times_get_better() -> None:
    experiment = canary(ACCURACY, weight=0.2)

    def arms(at_s: float) -> Mapping[str, Arm]:
        accuracy = min(0.95, 0.80 + at_s / 1_000.0)
        return {
            "base": Arm(median_ms=10.0, accuracy=accuracy),
            "a": Arm(median_ms=10.0, accuracy=accuracy - 0.06),
        }

    runs = 20
    ends = [
        end(experiment, World(arms=arms, requests_per_s=100.0), seed, ticks=60, interval_s=5.0)
        for seed in range(runs)
    ]
    promoted = sum(state.phase is Phase.PROMOTED for state in ends)
    assert plausible(promoted, runs, at_most=experiment.delta)


def test_without_traffic_the_experiment_holds_for_ever() -> None:
    experiment = canary(ERRORS, weight=0.05)
    arms = {name: Arm(median_ms=10.0) for name in experiment.arms}
    results = list(
        run(
            experiment,
            World(arms=lambda _: arms, requests_per_s=0.0),
            np.random.default_rng(1),
            interval_s=86_400.0,
            max_ticks=1_000,
        )
    )
    assert len(results) == 1_000
    assert results[-1].state.phase is Phase.PROGRESSING
    assert sum(result.decision is not None for result in results) == 1


def test_labels_of_a_window_count_when_it_has_closed_and_decide_as_they_would_without_it() -> None:
    slow = replace(ACCURACY, label_window_s=20.0, unlabelled=Unlabelled.LEFT_OUT)
    world = World(
        arms=lambda _: {"base": Arm(median_ms=5.0), "a": Arm(median_ms=5.0, agreement=0.9)}, label_share=0.8
    )
    mirrored = MirrorStep(fraction=0.2, until_decided=("accuracy",), max_duration_s=300.0)
    experiment = canary(slow, weight=0.5)
    experiment = replace(experiment, steps=(mirrored, *experiment.steps))
    ticks = list(run(experiment, world, np.random.default_rng(5)))
    for number, each in enumerate(ticks[:20]):
        assert all("feedback.correct" not in total.metrics for total in each.state.totals.values()), number
    last = ticks[-1].state
    assert last.phase is Phase.PROMOTED
    window = last.totals["base"].windows["feedback.correct"]
    labelled = sum(last.totals["base"].metrics["feedback.correct"].values())
    assert window.opened >= labelled + window.unlabelled > 0
    assert stats.binomtest(labelled, labelled + window.unlabelled, 0.8).pvalue > 1e-6
    pairs = last.totals["a"].paired_windows["feedback.correct"]
    assert 0 < pairs.unlabelled < 0.05 * pairs.opened, "what agrees needs no label"
