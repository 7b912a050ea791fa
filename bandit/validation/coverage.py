"""V6: intervals of an arm hold at all looks while Thompson sampling chooses how many outcomes it gets."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from scipy import special

from anabranch.bandit.betting import Claim, ContrastTest, EpochCell
from anabranch.bandit.evidence import add_histograms
from anabranch.bandit.policies.registry import Algorithm, allocate
from anabranch.bandit.quantiles import quantile_interval
from anabranch.bandit.scales import BINARY, LATENCY_SCALE
from anabranch.bandit.sequences import contrast_interval, mean_interval, proportion_interval
from anabranch.bandit.thompson import AllocationProblem, ArmOutcomes, Constraint, Rate
from anabranch.bandit.validation.checks import Cell, Check, Trial, rate_check
from anabranch.bandit.validation.latencies import histogram
from anabranch.bandit.weights import Limits

ALPHA = 0.05
EPOCHS, EPOCH = 15, 200
LOOKS = {1, 2, 3, 5, 8, 11, 15}
# Median latency in ms and accuracy; the middle arm is watched.
ARMS = {"base": (10.0, 0.95), "watched": (9.5, 0.95), "other": (10.5, 0.94)}
SIGMA = 0.6
LEAST_WEIGHT = 0.05
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def _missed(algorithm: Algorithm, rng: np.random.Generator) -> set[str]:
    """Which intervals of the watched arm ever miss the truth in one run."""
    good, seen = dict.fromkeys(ARMS, 0), dict.fromkeys(ARMS, 0)
    latency: dict[str, dict[int, int]] = {name: {} for name in ARMS}
    test = ContrastTest(claim=Claim.SUPERIORITY)
    state, weights = test.start(), dict.fromkeys(ARMS, 1.0 / len(ARMS))
    out: set[str] = set()
    for epoch in range(1, EPOCHS + 1):
        size = dict(zip(weights, rng.multinomial(EPOCH, list(weights.values())).tolist(), strict=True))
        new: dict[str, dict[int, int]] = {}
        for name, (median, accuracy) in ARMS.items():
            hits = int(rng.binomial(size[name], accuracy))
            new[name] = {0: size[name] - hits, 1: hits}
            values = median * np.exp(SIGMA * rng.standard_normal(size[name]))
            latency[name] = add_histograms([latency[name], histogram(values)])
            good[name], seen[name] = good[name] + hits, seen[name] + size[name]
        cell = EpochCell(
            pi_v=weights["watched"],
            pi_c=weights["base"],
            counts_v=new["watched"],
            counts_c=new["base"],
            others=size["other"],
        )
        state = test.advance(state, [cell])
        if epoch in LOOKS:
            out |= _outside(good["watched"], seen["watched"], latency["watched"])
            low, high = contrast_interval(
                test, state, alpha=ALPHA, least_weight=LEAST_WEIGHT, planned_requests=3e3
            )
            if not low <= ARMS["watched"][1] - ARMS["base"][1] <= high:
                out.add("difference of means")
        arms = [
            ArmOutcomes(
                name=name,
                objective=latency[name],
                rates={"accuracy": Rate(successes=good[name], trials=seen[name])},
            )
            for name in ARMS
        ]
        problem = AllocationProblem(
            baseline=arms[0],
            candidates=tuple(arms[1:]),
            constraints=(Constraint(name="accuracy", margin=0.02),),
            limits=Limits(
                min_prob=LEAST_WEIGHT, baseline_floor=LEAST_WEIGHT, max_weight=0.9, max_change=20.0
            ),
            previous=weights,
        )
        weights = allocate(problem, rng, algorithm=algorithm)
    return out


def _outside(good: int, seen: int, latency: dict[int, int]) -> set[str]:
    median, accuracy = ARMS["watched"]
    intervals = {
        "proportion": (proportion_interval(good, seen, alpha=ALPHA, planned_count=1_000.0), accuracy),
        "mean": (mean_interval(BINARY, {0: seen - good, 1: good}, alpha=ALPHA), accuracy),
    }
    for name, tau in QUANTILES.items():
        interval = quantile_interval(LATENCY_SCALE, latency, tau, alpha=ALPHA, planned_count=1_000.0)
        intervals[name] = (interval, median * math.exp(SIGMA * float(special.ndtri(tau))))
    return {name for name, ((low, high), truth) in intervals.items() if not low <= truth <= high}


def _coverage(algorithm: Algorithm, trial: Trial) -> tuple[Check, ...]:
    names = ("proportion", "mean", *QUANTILES, "difference of means")
    missed = dict.fromkeys(names, 0)
    for _ in range(trial.runs):
        for name in _missed(algorithm, trial.rng):
            missed[name] += 1
    return tuple(
        rate_check("V6", f"ever missed, {name}, weights by {algorithm}", events, trial.runs, ALPHA)
        for name, events in missed.items()
    )


CELLS = tuple(
    Cell(row="V6", name=str(algorithm), run=partial(_coverage, algorithm), long=800, short=40)
    for algorithm in (Algorithm.THOMPSON, Algorithm.PLAIN_THOMPSON)
)
