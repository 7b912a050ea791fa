"""The contract of every allocation policy: the suite finds them by itself."""

import importlib
import pkgutil
from dataclasses import replace

import numpy as np
import pytest

from anabranch.bandit import policies
from anabranch.bandit.policies.registry import POLICIES, allocate
from anabranch.bandit.scales import BINARY, LATENCY_SCALE, GridScale, flipped
from anabranch.bandit.spec import Algorithm, Direction
from anabranch.bandit.thompson import (
    AllocationProblem,
    ArmOutcomes,
    Constraint,
    Objective,
    Rate,
    posterior_draws,
    probability_best,
)
from anabranch.bandit.weights import Limits

EVERY = pytest.mark.parametrize("algorithm", list(Algorithm))
WIDE = Limits(min_prob=0.001, baseline_floor=0.001, max_weight=1.0)


def latencies(median: float, count: int) -> dict[int, int]:
    rng = np.random.default_rng(count)
    bins, counts = np.unique(
        LATENCY_SCALE.bins_of(median * np.exp(rng.normal(0.0, 0.5, count))), return_counts=True
    )
    return dict(zip(bins.tolist(), counts.tolist(), strict=True))


def arm(name: str, median: float, accuracy: float, count: int = 400) -> ArmOutcomes:
    rates = {"accuracy": Rate(successes=round(accuracy * count), trials=count)} if count else {}
    return ArmOutcomes(name=name, objective=latencies(median, count) if count else {}, rates=rates)


PROBLEM = AllocationProblem(
    baseline=arm("fp32", 10.0, 0.95, 3000),
    candidates=(arm("fp16", 7.4, 0.95), arm("int8", 5.0, 0.91), arm("mixed", 8.2, 0.95)),
    constraints=(Constraint(name="accuracy", margin=0.01),),
)


def weights(problem: AllocationProblem, algorithm: Algorithm, seed: int = 7) -> dict[str, float]:
    return allocate(problem, np.random.default_rng(seed), algorithm=algorithm)


def test_every_policy_module_is_registered_under_one_name() -> None:
    modules = {info.name for info in pkgutil.iter_modules(policies.__path__)} - {"registry"}
    found = {policy.__module__.rpartition(".")[2] for policy in POLICIES.values()}
    assert found == modules
    assert set(POLICIES) == set(Algorithm)
    for name in modules:
        assert importlib.import_module(f"anabranch.bandit.policies.{name}").__doc__


@EVERY
def test_weights_sum_to_one_over_all_arms_within_the_limits(algorithm: Algorithm) -> None:
    found = weights(PROBLEM, algorithm)
    assert list(found) == ["fp32", "fp16", "int8", "mixed"]
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-12)
    assert found["fp32"] >= 0.10
    assert all(0.02 <= found[name] <= 0.5 for name in ("fp16", "int8", "mixed"))


@EVERY
def test_no_candidate_more_than_doubles_or_halves_in_an_epoch(algorithm: Algorithm) -> None:
    previous = {"fp32": 0.7, "fp16": 0.05, "int8": 0.2, "mixed": 0.05}
    found = weights(replace(PROBLEM, previous=previous), algorithm)
    for name in ("fp16", "int8", "mixed"):
        assert 0.5 * previous[name] - 1e-12 <= found[name] <= 2.0 * previous[name] + 1e-12


@EVERY
def test_equal_seeds_give_equal_weights(algorithm: Algorithm) -> None:
    assert weights(PROBLEM, algorithm) == weights(PROBLEM, algorithm)


@EVERY
def test_the_order_of_the_candidates_does_not_matter(algorithm: Algorithm) -> None:
    shuffled = replace(
        PROBLEM, candidates=(PROBLEM.candidates[2], PROBLEM.candidates[0], PROBLEM.candidates[1])
    )
    assert weights(shuffled, algorithm) == weights(PROBLEM, algorithm)


@EVERY
def test_renaming_candidates_moves_their_weights_up_to_the_draws(algorithm: Algorithm) -> None:
    names = {"fp16": "a", "int8": "z", "mixed": "m"}
    renamed = replace(
        PROBLEM, candidates=tuple(replace(one, name=names[one.name]) for one in PROBLEM.candidates)
    )
    found, straight = weights(renamed, algorithm), weights(PROBLEM, algorithm)
    for old, new in names.items():
        assert found[new] == pytest.approx(straight[old], abs=0.06)


@EVERY
@pytest.mark.parametrize("tau", [None, 0.25])
def test_minimising_the_negated_metric_is_maximising_the_metric(
    algorithm: Algorithm, tau: float | None
) -> None:
    scale = GridScale(low=0.0, high=1.0, bins=21)
    rng = np.random.default_rng(11)

    def graded(name: str, shift: int) -> ArmOutcomes:
        bins, counts = np.unique(rng.integers(shift, 15 + shift, 200), return_counts=True)
        return ArmOutcomes(name=name, objective=dict(zip(bins.tolist(), counts.tolist(), strict=True)))

    arms = [graded("base", 2), graded("good", 4), graded("bad", 1), graded("middling", 3)]

    def problem(direction: Direction, tau_: float | None, members: list[ArmOutcomes]) -> AllocationProblem:
        objective = Objective(scale=scale, tau=tau_, direction=direction)
        return AllocationProblem(
            baseline=members[0], candidates=tuple(members[1:]), objective=objective, limits=WIDE
        )

    mirrored = [replace(one, objective=flipped(scale, one.objective)) for one in arms]
    up = weights(problem(Direction.MAX, tau, arms), algorithm)
    down = weights(problem(Direction.MIN, None if tau is None else 1.0 - tau, mirrored), algorithm)
    assert up == pytest.approx(down, abs=1e-9)
    if algorithm in (Algorithm.THOMPSON, Algorithm.PLAIN_THOMPSON):
        assert max(up, key=lambda name: up[name]) == "good"


@EVERY
def test_two_arms_and_no_data_are_no_special_case(algorithm: Algorithm) -> None:
    problem = AllocationProblem(
        baseline=arm("fp32", 1.0, 0.9, 0), candidates=(arm("fp16", 1.0, 0.9, 0),), limits=WIDE
    )
    assert weights(problem, algorithm) == pytest.approx({"fp32": 0.5, "fp16": 0.5}, abs=0.05)


@EVERY
def test_an_arm_that_always_times_out_gets_finite_weights(algorithm: Algorithm) -> None:
    dead = ArmOutcomes(name="dead", objective={LATENCY_SCALE.bins - 1: 300})
    found = weights(replace(PROBLEM, candidates=(*PROBLEM.candidates, dead)), algorithm)
    assert sum(found.values()) == pytest.approx(1.0)
    if algorithm in (Algorithm.THOMPSON, Algorithm.PLAIN_THOMPSON):
        assert found["dead"] == pytest.approx(0.02)


def test_top_two_leaves_less_to_the_leader_than_plain_thompson() -> None:
    problem = replace(PROBLEM, limits=WIDE)
    assert weights(problem, Algorithm.THOMPSON)["fp16"] < weights(problem, Algorithm.PLAIN_THOMPSON)["fp16"]


def test_a_settled_race_keeps_testing_the_nearest_rival() -> None:
    problem = AllocationProblem(
        baseline=arm("fp32", 10.0, 0.95, 5000),
        candidates=(arm("fp16", 5.0, 0.95, 5000), arm("near", 5.8, 0.95, 5000), arm("far", 9.0, 0.95, 5000)),
        objective=Objective(tau=0.5),
        limits=WIDE,
    )
    found = weights(problem, Algorithm.THOMPSON)
    assert found["fp16"] == pytest.approx(0.5, abs=0.01)
    assert found["near"] == pytest.approx(0.5, abs=0.01)


def test_doubt_about_feasibility_sends_traffic_to_the_baseline() -> None:
    doubtful = AllocationProblem(
        baseline=arm("fp32", 10.0, 0.95, 200),
        candidates=(arm("int8", 5.0, 0.94, 200),),
        constraints=(Constraint(name="accuracy", margin=0.01),),
        limits=WIDE,
    )
    certain = replace(doubtful, constraints=())
    assert weights(doubtful, Algorithm.THOMPSON)["fp32"] > 0.3
    assert weights(certain, Algorithm.PLAIN_THOMPSON)["fp32"] < 0.01


def test_an_infeasible_arm_is_not_the_best_however_fast() -> None:
    chances = probability_best(
        replace(PROBLEM, candidates=(arm("fp16", 7.4, 0.95, 3000), arm("int8", 5.0, 0.85, 3000))),
        np.random.default_rng(1),
    )
    assert chances["int8"] < 0.01
    assert chances["fp16"] > 0.5
    assert sum(chances.values()) == pytest.approx(1.0)


def test_an_absolute_minimum_is_a_constraint_too() -> None:
    problem = replace(PROBLEM, constraints=(Constraint(name="accuracy", minimum=0.93),))
    chances = probability_best(problem, np.random.default_rng(1))
    assert chances["int8"] < 0.15


def test_paired_outcomes_sharpen_a_constraint() -> None:
    vague = arm("fp16", 7.4, 0.94, 100)
    sharp = replace(vague, differences={"accuracy": (2, 4996, 2)})
    chances = [
        probability_best(replace(PROBLEM, candidates=(one,)), np.random.default_rng(1))["fp16"]
        for one in (vague, sharp)
    ]
    assert chances[0] < 0.8
    assert chances[1] > 0.9


def test_draws_of_a_quantile_are_centred_on_the_estimate() -> None:
    draws = posterior_draws(replace(PROBLEM, constraints=()), np.random.default_rng(2))
    assert draws.scores.shape == (2048, 4)
    assert (np.median(draws.scores, axis=0).argsort() == [0, 3, 1, 2]).all()


def test_a_binary_objective_counts_successes() -> None:
    problem = AllocationProblem(
        baseline=ArmOutcomes(name="base", objective={0: 30, 1: 70}),
        candidates=(ArmOutcomes(name="better", objective={0: 10, 1: 90}),),
        objective=Objective(scale=BINARY, tau=None, direction=Direction.MAX),
    )
    assert probability_best(problem, np.random.default_rng(1))["better"] > 0.99


def test_problems_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="different names"):
        replace(PROBLEM, candidates=(PROBLEM.baseline,))
    with pytest.raises(ValueError, match="choose a quantile"):
        Objective(tau=None)
    with pytest.raises(ValueError, match="strictly between"):
        Objective(tau=1.0)
    with pytest.raises(ValueError, match="either a margin or a minimum"):
        Constraint(name="accuracy")
    with pytest.raises(ValueError, match="must lie in"):
        Rate(successes=3.0, trials=2.0)
