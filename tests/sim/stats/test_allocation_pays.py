"""What a policy's traffic is worth: the information it gathers towards the decision, without the noise of a race's end."""

import numpy as np

from anabranch.bandit.bounds import contrast_rate
from anabranch.bandit.evidence import add_histograms
from anabranch.bandit.policies.registry import allocate
from anabranch.bandit.scales import LATENCY_SCALE, FloatArray
from anabranch.bandit.spec import Algorithm
from anabranch.bandit.thompson import AllocationProblem, ArmOutcomes, Constraint, Objective, Rate
from anabranch.bandit.weights import Limits

# Accuracy and median latency; with a margin of two points int8 is too inaccurate, by one point, and fp16 is the best.
TRUTH = {"fp32": (0.95, 10.0), "fp16": (0.949, 7.4), "int8": (0.92, 5.0), "mixed": (0.948, 8.2)}
MARGIN = 0.02


def histogram(values: FloatArray) -> dict[int, int]:
    bins, counts = np.unique(LATENCY_SCALE.bins_of(values), return_counts=True)
    return dict(zip(bins.tolist(), counts.tolist(), strict=True))


def information(algorithm: Algorithm, seed: int, *, epochs: int = 20, epoch: int = 3000) -> float:
    """Nats per request against the cheapest world with another winner, after some epochs of a policy's traffic."""
    rng = np.random.default_rng([15, seed])
    weights = {"fp32": 0.85, "fp16": 0.05, "int8": 0.05, "mixed": 0.05}
    latencies: dict[str, dict[int, int]] = {name: {} for name in TRUTH}
    good, seen = dict.fromkeys(TRUTH, 0), dict.fromkeys(TRUTH, 0)
    for number in range(epochs):
        size = dict(zip(weights, rng.multinomial(epoch, list(weights.values())).tolist(), strict=True))
        for name, (accuracy, median) in TRUTH.items():
            values = median * np.exp(rng.normal(0.0, 0.5, size[name]))
            latencies[name] = add_histograms([latencies[name], histogram(values)])
            good[name] += int(rng.binomial(size[name], accuracy))
            seen[name] += size[name]
        arms = [
            ArmOutcomes(
                name=name,
                objective=latencies[name],
                rates={"accuracy": Rate(successes=good[name], trials=seen[name])},
            )
            for name in TRUTH
        ]
        problem = AllocationProblem(
            baseline=arms[0],
            candidates=tuple(arms[1:]),
            objective=Objective(tau=0.5),
            constraints=(Constraint(name="accuracy", margin=MARGIN),),
            limits=Limits(max_weight=0.8),
            previous=weights,
        )
        weights = allocate(problem, np.random.default_rng([seed, number]), algorithm=algorithm)
    total = sum(seen.values())
    # The winner might be infeasible after all, or int8 feasible; that mixed is slower is known much sooner.
    return min(
        contrast_rate(
            p_v=TRUTH[name][0],
            p_c=TRUTH["fp32"][0],
            margin=MARGIN,
            pi_v=seen[name] / total,
            pi_c=seen["fp32"] / total,
        )
        for name in ("fp16", "int8")
    )


def test_top_two_gathers_more_than_equal_shares_and_plain_thompson_far_less() -> None:
    top_two, uniform, plain = (
        float(np.mean([information(algorithm, seed) for seed in range(3)]))
        for algorithm in (Algorithm.THOMPSON, Algorithm.UNIFORM, Algorithm.PLAIN_THOMPSON)
    )
    assert top_two > 1.2 * uniform
    assert plain < 0.6 * uniform
