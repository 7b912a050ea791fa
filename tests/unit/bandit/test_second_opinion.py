from collections.abc import Mapping

import pytest

from anabranch.bandit import drift
from anabranch.bandit.drift import DriftState
from anabranch.bandit.second_opinion import interval_by_counts, log_e_by_counts
from anabranch.bandit.spec import Direction, Experiment, Metric, Role, SetWeightStep
from anabranch.bandit.state import ExperimentState, Totals

ACCURACY = Metric(
    name="accuracy", source="feedback.correct", role=Role.GUARDRAIL, non_inferiority_margin=0.05
)
ERRORS = Metric(
    name="errors", source="error", role=Role.GUARDRAIL, direction=Direction.MIN, non_inferiority_margin=0.05
)
LIMITED = Metric(name="limit", source="error", role=Role.GUARDRAIL, direction=Direction.MIN, maximum=0.2)
EXPERIMENT = Experiment(
    name="exp",
    model="m",
    baseline="base",
    candidates=("a",),
    metrics=(ACCURACY, ERRORS, LIMITED),
    steps=(SetWeightStep(weight=0.5),),
)


def state(
    source: str, a: Mapping[int, int], base: Mapping[int, int], *, moves: bool = False
) -> ExperimentState:
    watched = {}
    for arm, counts in (("a", a), ("base", base)):
        watch = DriftState()
        for number in range(20):
            extra = 300 if moves and number > 12 else 0
            watch = drift.advance(watch, {0: counts[0] // 20 + extra, 1: counts[1] // 20})
        watched[f"{source}/{arm}"] = watch
    totals = {arm: Totals(split={source: counts}) for arm, counts in (("a", a), ("base", base))}
    return ExperimentState(totals=totals, drift=watched)


def test_it_speaks_of_the_same_claim_in_the_metrics_unit() -> None:
    seen = state("feedback.correct", {0: 400, 1: 3_600}, {0: 400, 1: 3_600})
    assert (log_e_by_counts(EXPERIMENT, seen, ACCURACY, "a") or 0.0) > 3.0
    low, high = interval_by_counts(EXPERIMENT, seen, ACCURACY, "a") or (0.0, 0.0)
    assert -0.05 < low < 0.0 < high < 0.05


def test_where_lower_is_better_the_difference_keeps_its_sign() -> None:
    seen = state("error", {0: 3_200, 1: 800}, {0: 3_800, 1: 200})
    assert (log_e_by_counts(EXPERIMENT, seen, ERRORS, "a") or 0.0) < 0.0
    low, high = interval_by_counts(EXPERIMENT, seen, ERRORS, "a") or (0.0, 0.0)
    assert (low + high) / 2 == pytest.approx(0.15, abs=0.01)


def test_it_is_silent_while_an_arm_moves_and_where_nothing_is_compared() -> None:
    counts = {0: 400, 1: 3_600}
    moving = state("feedback.correct", counts, counts, moves=True)
    for ask in (log_e_by_counts, interval_by_counts):
        assert ask(EXPERIMENT, moving, ACCURACY, "a") is None
        assert ask(EXPERIMENT, ExperimentState(), ACCURACY, "a") is None
        assert ask(EXPERIMENT, state("error", counts, counts), LIMITED, "a") is None
