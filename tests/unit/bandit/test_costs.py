import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.bandit.costs import cost_per_1k, cost_scale, mean_cost, saving_text, unpriced_text
from anabranch.bandit.evidence import Cell, Evidence
from anabranch.bandit.fold import fold
from anabranch.bandit.judge import judge
from anabranch.bandit.lifecycle import IllegalTransition, Phase
from anabranch.bandit.measures import scale_of
from anabranch.bandit.revising import changes
from anabranch.bandit.scales import LATENCY_SCALE
from anabranch.bandit.spec import COST, Direction, Experiment, Metric, Role, SetWeightStep, Statistic
from anabranch.bandit.state import ExperimentState
from anabranch.bandit.verdicts import Outcome

PRICES = {"base": 2.0, "a": 0.5, "b": 2.0}
WEIGHTS = {"base": 0.4, "a": 0.3, "b": 0.3}
prices = st.floats(1e-6, 1e6)


def experiment(**metric: object) -> Experiment:
    cost = Metric(
        name="cost",
        source=COST,
        statistic=Statistic.P50,
        direction=Direction.MIN,
        hourly_price=PRICES["base"],
        **{"role": Role.OBJECTIVE, **metric},  # type: ignore[arg-type]  # fields by name
    )
    return Experiment(
        name="exp",
        model="m",
        baseline="base",
        candidates=("a", "b"),
        metrics=(cost,),
        steps=(SetWeightStep(weight=0.3),),
        hourly_prices=tuple(PRICES.values()),
    )


def after(of: Experiment, occupied_ms: Mapping[str, float], *, folds: int = 20) -> ExperimentState:
    """Requests of about the same occupied time in every arm, at its price."""
    rng = np.random.default_rng(3)
    state = ExperimentState(phase=Phase.PROGRESSING, live=("a", "b"), weights=WEIGHTS, epoch=1)
    scale = cost_scale(PRICES["base"])
    for number in range(folds):
        cells = []
        for arm, median in occupied_ms.items():
            times = median * np.exp(0.3 * rng.standard_normal(int(200 * WEIGHTS[arm])))
            bins = scale.bins_of(cost_per_1k(times, 1, PRICES[arm])).tolist()
            counts = {index: bins.count(index) for index in set(bins)}
            cells.append(
                Cell(epoch=1, variant=arm, units=len(bins), requests=len(bins), metrics={COST: counts})
            )
        told = Evidence(
            experiment="exp",
            first=number,
            last=number + 1,
            cells=tuple(cells),
            weights={1: WEIGHTS},
            at_s=1.0,
        )
        state = fold(of, state, told)
    return judge(of, state, 1.0)


def test_a_request_costs_its_share_of_the_batchs_time() -> None:
    # A batch of 8 rows takes 36 ms on a GPU at 4 an hour: 4.5 ms each, 1,000 of them 4.5 s, 0.005.
    assert float(cost_per_1k(36.0, 8, 4.0)) == pytest.approx(0.005)
    # Where nobody counts rows, a request had the batch alone.
    assert float(cost_per_1k(36.0, 0, 4.0)) == float(cost_per_1k(36.0, 1, 4.0)) == pytest.approx(0.04)


@given(prices)
def test_the_scale_is_the_one_of_durations_at_the_baselines_price(price: float) -> None:
    scale = cost_scale(price)
    assert scale.gamma == LATENCY_SCALE.gamma
    assert abs(scale.bins - LATENCY_SCALE.bins) <= 1
    for ms in (0.005, 0.02, 14.0, 900.0, 2e5, math.inf):
        index = scale.bin_of(float(cost_per_1k(ms, 1, price)))
        assert abs(index - LATENCY_SCALE.bin_of(ms)) <= 1


def test_a_candidate_on_cheaper_hardware_is_proven_cheaper_although_it_is_slower() -> None:
    state = after(experiment(), {"base": 10.0, "a": 20.0, "b": 10.0})
    cheap, same = state.verdicts["cost/a"], state.verdicts["cost/b"]
    assert cheap.outcome is Outcome.PASS
    assert same.outcome is Outcome.INCONCLUSIVE
    assert cheap.estimate == pytest.approx(20.0 * 0.5 / 3_600, rel=0.05)
    assert cheap.baseline == pytest.approx(10.0 * 2.0 / 3_600, rel=0.05)
    assert "per 1,000" in cheap.reason


@pytest.mark.parametrize(("maximum", "outcome"), [(0.005, Outcome.PASS), (0.002, Outcome.FAIL)])
def test_a_guardrail_limits_what_requests_cost(maximum: float, outcome: Outcome) -> None:
    asked = experiment(role=Role.GUARDRAIL, maximum=maximum)
    # About 10 ms at 0.5 an hour are 0.00139, at 2 an hour 0.0056.
    state = after(asked, {"base": 10.0, "a": 10.0 if outcome is Outcome.PASS else 40.0, "b": 10.0})
    verdict = state.verdicts["cost/a"]
    assert verdict.outcome is outcome, verdict.reason
    assert verdict.limit == f"p50 at most {maximum:g} per 1,000"


def test_a_signal_is_shown_and_never_decided() -> None:
    verdict = after(experiment(role=Role.SIGNAL), {"base": 10.0, "a": 20.0, "b": 10.0}).verdicts["cost/a"]
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.estimate is not None


def test_the_saving_is_of_means_because_these_are_paid() -> None:
    state = after(experiment(), {"base": 10.0, "a": 20.0, "b": 10.0})
    text = saving_text(experiment(), state, "a")
    assert text.startswith("1,000 requests cost 0.002")
    assert "% less than the baseline's 0.005" in text
    assert "% more than" in saving_text(
        experiment(), after(experiment(), {"base": 5.0, "a": 90.0, "b": 5.0}), "a"
    )
    assert saving_text(experiment(), ExperimentState(), "a") == ""


def test_the_mean_counts_what_is_beyond_the_scale_as_its_end() -> None:
    scale = cost_scale(3.6)
    assert mean_cost(scale, {}) is None
    assert mean_cost(scale, {scale.bins - 1: 2}) == scale.borders[-1]


def test_a_missing_price_is_named_with_what_to_do() -> None:
    asked = experiment()
    assert unpriced_text(asked) == ""
    lacking = Experiment(
        name="exp",
        model="m",
        baseline="base",
        candidates=("a", "b"),
        metrics=asked.metrics,
        steps=asked.steps,
        hourly_prices=(2.0, None, None),
    )
    assert "a, b have no price of an hour" in unpriced_text(lacking)
    assert "`anabranch variants price m a NUMBER`" in unpriced_text(lacking)


def test_a_price_that_changes_in_flight_is_refused() -> None:
    before = experiment()
    after_ = Experiment(
        name="exp",
        model="m",
        baseline="base",
        candidates=("a", "b"),
        metrics=before.metrics,
        steps=before.steps,
        hourly_prices=(2.0, 0.1, 2.0),
    )
    with pytest.raises(IllegalTransition, match=r"spec\.hourlyPrices restarts the evidence"):
        changes(before, after_, ExperimentState())


def test_before_prices_are_known_a_document_can_still_be_read() -> None:
    metric = Metric(name="cost", source=COST, role=Role.SIGNAL)
    assert scale_of(metric) is LATENCY_SCALE
