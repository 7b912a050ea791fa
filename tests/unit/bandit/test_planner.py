import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from anabranch.bandit.first_passage import needed_nats
from anabranch.bandit.information import Assumptions
from anabranch.bandit.planner import plan
from anabranch.bandit.spec import (
    Algorithm,
    AnalysisStep,
    BanditStep,
    Direction,
    Experiment,
    Metric,
    MirrorStep,
    PauseStep,
    PromoteStep,
    Role,
    SetWeightStep,
    Statistic,
    Step,
)

ACCURACY = Metric(
    name="accuracy", source="feedback.correct", role=Role.GUARDRAIL, non_inferiority_margin=0.01
)
ERRORS = Metric(name="errors", source="error", role=Role.GUARDRAIL, direction=Direction.MIN, maximum=0.02)
FIDELITY = Metric(name="fidelity", source="mirror.top1_agreement", role=Role.GUARDRAIL, minimum=0.95)
LATENCY = Metric(
    name="latency",
    source="latency_ms",
    role=Role.OBJECTIVE,
    statistic=Statistic.P95,
    direction=Direction.MIN,
)
SCORE = Metric(
    name="score", source="feedback.score", role=Role.GUARDRAIL, non_inferiority_margin=0.1, high=5.0
)
SIGNAL = Metric(name="seen", source="error", role=Role.SIGNAL)
ANALYSIS = AnalysisStep(min_duration_s=0.0, max_duration_s=None)
PROMOTE = PromoteStep(weights=(0.75, 1.0), interval_s=60.0, bake_s=600.0)
ASSUMED = Assumptions(requests_per_s=100.0, accuracy=0.95, discordance=0.02)


def experiment(*steps: Step, metrics: tuple[Metric, ...] = (ACCURACY,), candidates: str = "a") -> Experiment:
    return Experiment(
        name="exp",
        model="m",
        baseline="base",
        candidates=tuple(candidates.split()),
        metrics=metrics,
        steps=steps,
    )


@given(evidence=st.floats(1.0, 12.0), overhead=st.floats(0.0, 3.0), level=st.floats(0.05, 0.95))
def test_needed_information_is_the_quantile_of_a_first_passage(
    evidence: float, overhead: float, level: float
) -> None:
    """By the closed form of the first passage of Brownian motion with drift 1 and variance 2 per nat."""
    t = needed_nats(evidence, overhead, level)
    b = evidence + overhead
    passed = stats.norm.cdf((t - b) / math.sqrt(2 * t)) + math.exp(b) * stats.norm.cdf(
        -(t + b) / math.sqrt(2 * t)
    )
    assert passed == pytest.approx(level, abs=1e-6)


def test_the_known_case_takes_the_known_number_of_requests() -> None:
    found = plan(experiment(SetWeightStep(weight=0.5), ANALYSIS), ASSUMED).claims[0]
    # The lower bound is 11,431 requests; half of the runs of a well-tuned test end a little before its mean.
    assert 8_500 < found.requests[0] < 12_000
    assert found.after_s[0] == pytest.approx(found.requests[0] / 100.0)
    assert found.after_s[0] < found.after_s[1]


def test_twice_the_traffic_takes_half_the_time() -> None:
    asked = experiment(SetWeightStep(weight=0.1), ANALYSIS, metrics=(ACCURACY, ERRORS, LATENCY, SCORE))
    slow = plan(asked, ASSUMED)
    fast = plan(asked, replace(ASSUMED, requests_per_s=200.0))
    for one, two in zip(slow.claims, fast.claims, strict=True):
        assert one.after_s[0] == pytest.approx(2.0 * two.after_s[0])


def test_mirrored_pairs_are_several_times_cheaper_than_the_split() -> None:
    mirror = MirrorStep(fraction=1.0, until_decided=("accuracy",), max_duration_s=1e6)
    paired = plan(experiment(mirror, SetWeightStep(weight=0.5), ANALYSIS), ASSUMED)
    split = plan(experiment(SetWeightStep(weight=0.5), ANALYSIS), ASSUMED)
    assert paired.claims[0].requests[0] < split.claims[0].requests[0] / 4.0
    assert paired.steps[0].ends_s == paired.claims[0].after_s


def test_a_mirror_that_ran_out_of_time_goes_on_beside_the_next_steps() -> None:
    mirror = MirrorStep(fraction=0.5, until_decided=("accuracy",), max_duration_s=10.0)
    found = plan(experiment(mirror, SetWeightStep(weight=0.05), ANALYSIS), ASSUMED)
    alone = plan(experiment(SetWeightStep(weight=0.05), ANALYSIS), ASSUMED)
    assert found.steps[0].ends_s == (10.0, 10.0)
    assert found.claims[0].after_s[0] < alone.claims[0].after_s[0] / 4.0


def test_more_candidates_need_more_evidence_and_share_the_traffic() -> None:
    bandit = BanditStep(
        algorithm=Algorithm.THOMPSON,
        max_weight=0.5,
        min_prob=0.02,
        update_period_s=60.0,
        min_duration_s=0.0,
        max_duration_s=1e9,
    )
    metrics = (LATENCY, ACCURACY)
    one = plan(experiment(bandit, metrics=metrics), ASSUMED)
    four = plan(experiment(bandit, metrics=metrics, candidates="a b c d"), ASSUMED)
    assert four.claims[0].after_s[0] > 2.0 * one.claims[0].after_s[0]


def test_steps_follow_each_other_and_the_promotion_takes_its_own_time() -> None:
    found = plan(
        experiment(SetWeightStep(weight=0.2), PauseStep(duration_s=30.0), ANALYSIS, PROMOTE), ASSUMED
    )
    assert [step.kind for step in found.steps] == ["setWeight", "pause", "analysis", "promote"]
    ends = [step.ends_s[0] for step in found.steps]
    assert ends[:2] == [0.0, 30.0]
    assert ends[2] == pytest.approx(found.claims[0].after_s[0])
    assert ends[3] == pytest.approx(ends[2] + 60.0 + 600.0)


def test_time_waited_in_a_pause_is_not_lost() -> None:
    paused = plan(experiment(SetWeightStep(weight=0.2), PauseStep(duration_s=30.0), ANALYSIS), ASSUMED)
    straight = plan(experiment(SetWeightStep(weight=0.2), ANALYSIS), ASSUMED)
    assert paused.claims[0].after_s == pytest.approx(straight.claims[0].after_s)


def test_a_claim_waits_for_its_first_label_windows_from_when_its_traffic_begins() -> None:
    slow = replace(ACCURACY, label_window_s=600.0)
    at_once = plan(experiment(SetWeightStep(weight=0.5), ANALYSIS), ASSUMED).claims[0]
    later = plan(experiment(SetWeightStep(weight=0.5), ANALYSIS, metrics=(slow,)), ASSUMED).claims[0]
    assert later.after_s == pytest.approx([after + 600.0 for after in at_once.after_s])
    # A pause before there is traffic is no part of it, one beside it is.
    early, beside = PauseStep(duration_s=400.0), PauseStep(duration_s=200.0)
    paused = plan(
        experiment(early, SetWeightStep(weight=0.5), beside, ANALYSIS, metrics=(slow,)), ASSUMED
    ).claims[0]
    assert paused.after_s == pytest.approx([after + 400.0 for after in later.after_s])


def test_what_is_false_under_the_assumptions_never_passes() -> None:
    found = plan(
        experiment(SetWeightStep(weight=0.2), ANALYSIS, metrics=(ERRORS,)),
        replace(ASSUMED, error_rate=0.03),
    )
    assert found.claims[0].after_s == (math.inf, math.inf)
    assert found.steps[-1].ends_s == (math.inf, math.inf)
    assert found.is_decided == (False, False)


def test_an_analysis_that_is_too_short_for_one_run_in_ten_says_so() -> None:
    half, most = plan(experiment(SetWeightStep(weight=0.5), ANALYSIS), ASSUMED).claims[0].after_s
    tight = replace(ANALYSIS, max_duration_s=0.5 * (half + most))
    found = plan(experiment(SetWeightStep(weight=0.5), tight), ASSUMED)
    assert found.is_decided == (True, False)
    assert found.claims[0].after_s[1] == math.inf


def test_a_signal_is_not_planned() -> None:
    found = plan(experiment(SetWeightStep(weight=0.5), ANALYSIS, metrics=(ACCURACY, SIGNAL)), ASSUMED)
    assert [claim.metric for claim in found.claims] == ["accuracy"]


def test_impossible_assumptions_are_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Assumptions(requests_per_s=0.0)
    with pytest.raises(ValueError, match="accuracy"):
        Assumptions(requests_per_s=1.0, accuracy=1.2)
    with pytest.raises(ValueError, match="speedup"):
        Assumptions(requests_per_s=1.0, speedup=1.0)
