"""Posterior draws for allocation: who might be the best arm that keeps the constraints?

Bayesian draws decide where traffic goes, never what is promoted: a posterior probability above 95 % is not an error
guarantee. Each draw gives every arm a score (higher is better, whatever the objective) and a slack of its constraints;
an arm is feasible where its slack is at least 0, and the baseline always is.

Source:
    Bayesian bootstrap on buckets: Rubin (Annals of Statistics 1981). Constraints by posterior draws: Yang, Gao, Gao:
    best feasible arm identification by Thompson sampling (arXiv 2501.03877).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import special

from anabranch.bandit.scales import LATENCY_SCALE, FloatArray, Histogram, LogScale, Scale, checked
from anabranch.bandit.spec import Direction
from anabranch.bandit.weights import DEFAULT_LIMITS, Limits

BoolArray = npt.NDArray[np.bool_]

DRAWS = 2048
# Pseudo-observations that a posterior starts from, shaped like all arms pooled: an arm without data looks like the
# others, and ten outcomes outweigh it.
PRIOR_SIZE = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What the best arm is best at.

    Args:
        scale: of the metric.
        tau: a quantile in (0, 1), or None for the mean.
        direction: which way is better.
    """

    scale: Scale = LATENCY_SCALE
    tau: float | None = 0.95
    direction: Direction = Direction.MIN

    def __post_init__(self) -> None:
        """Refuse a quantile outside (0, 1) and a mean of values that may be infinite."""
        if self.tau is None and isinstance(self.scale, LogScale):
            raise ValueError("the mean of a latency with timeouts is not finite: choose a quantile, tau=0.95")
        if self.tau is not None and not 0.0 < self.tau < 1.0:
            raise ValueError(f"quantile {self.tau} must be strictly between 0 and 1: p95 is 0.95")


P95_LATENCY: Final = Objective()


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A rate that a candidate must keep: against the baseline, or absolutely.

    Args:
        name: of the rate.
        margin: the candidate's rate must be at least the baseline's minus this; None when absolute.
        minimum: the candidate's rate must be at least this; None when relative.
    """

    name: str
    margin: float | None = None
    minimum: float | None = None

    def __post_init__(self) -> None:
        """Refuse a constraint that is neither or both."""
        if (self.margin is None) == (self.minimum is None):
            raise ValueError(
                f"constraint {self.name} needs either a margin or a minimum, not both and not none"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Successes in trials, higher is better. Fractions occur when old outcomes are discounted."""

    successes: float
    trials: float

    def __post_init__(self) -> None:
        """Refuse more successes than trials."""
        if not 0.0 <= self.successes <= self.trials:
            raise ValueError(f"{self.successes} successes in {self.trials} trials: must lie in [0, trials]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmOutcomes:
    """What is known of one arm.

    Args:
        name: of the variant.
        objective: histogram of the objective's metric.
        rates: by constraint name; missing ones are unknown.
        differences: by constraint name the paired outcomes against the baseline, (lost, tied, won) counts.
    """

    name: str
    objective: Histogram
    rates: Mapping[str, Rate] = field(default_factory=dict)
    differences: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationProblem:
    """All that an allocation policy may look at.

    Args:
        baseline: the arm that is always feasible.
        candidates: one or more live candidates.
        objective: what to be best at.
        constraints: what a candidate must keep.
        limits: of the weights.
        previous: weights of the epoch before; empty when there was none.
    """

    baseline: ArmOutcomes
    candidates: tuple[ArmOutcomes, ...]
    objective: Objective = P95_LATENCY
    constraints: tuple[Constraint, ...] = ()
    limits: Limits = DEFAULT_LIMITS
    previous: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse names given twice and problems without a candidate."""
        names = [arm.name for arm in self.arms]
        if not self.candidates or len(set(names)) != len(names):
            raise ValueError(
                f"arms {names} must be a baseline and one or more candidates with different names"
            )

    @property
    def arms(self) -> tuple[ArmOutcomes, ...]:
        """The baseline, then the candidates by name: the order of draws, so that the caller's order never matters."""
        return (self.baseline, *sorted(self.candidates, key=lambda arm: arm.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Joint posterior draws.

    Attributes:
        names: of the arms; the baseline is first.
        scores: shape (draws, arms), higher is better, finite.
        slack: shape (draws, arms), feasible where at least 0; +inf for the baseline.
        best: shape (draws,): index of the best feasible arm of each draw.
    """

    names: tuple[str, ...]
    scores: FloatArray
    slack: FloatArray
    best: npt.NDArray[np.int64]

    @property
    def feasible(self) -> BoolArray:
        """Which arms keep all constraints in which draw."""
        result: BoolArray = self.slack >= 0.0
        return result


def posterior_draws(problem: AllocationProblem, rng: np.random.Generator, *, draws: int = DRAWS) -> Draws:
    """Joint posterior draws of all arms' objective and constraints.

    Args:
        problem: what is known.
        rng: source of randomness; equal states give equal draws whatever the order of the candidates.
        draws: how many.
    """
    arms = problem.arms
    scores = _score_draws(problem, rng, draws)
    slack = np.full((draws, len(arms)), np.inf)
    for constraint in sorted(problem.constraints, key=lambda item: item.name):
        slack[:, 1:] = np.minimum(slack[:, 1:], _slack_draws(constraint, arms, rng, draws))
    # Equal scores (the same bucket) are ordered by chance, not by name.
    ranks = np.unique(scores, return_inverse=True)[1].reshape(scores.shape) + rng.random(scores.shape)
    best = np.where(slack >= 0.0, ranks, -1.0).argmax(axis=1).astype(np.int64)
    return Draws(names=tuple(arm.name for arm in arms), scores=scores, slack=slack, best=best)


def probability_best(
    problem: AllocationProblem, rng: np.random.Generator, *, draws: int = DRAWS
) -> dict[str, float]:
    """By arm the posterior probability of being the best feasible one. For display: it has no error guarantee."""
    sample = posterior_draws(problem, rng, draws=draws)
    shares = np.bincount(sample.best, minlength=len(sample.names)) / sample.best.size
    return dict(zip(sample.names, shares.tolist(), strict=True))


def _score_draws(problem: AllocationProblem, rng: np.random.Generator, draws: int) -> FloatArray:
    objective, arms = problem.objective, problem.arms
    support = sorted(
        {index for arm in arms for index, n in checked(objective.scale, arm.objective).items() if n}
    )
    if not support:
        return np.zeros((draws, len(arms)))
    if objective.direction is Direction.MIN:
        support.reverse()
    counts = np.array([[arm.objective.get(index, 0) for index in support] for arm in arms], dtype=np.float64)
    prior = PRIOR_SIZE * counts.sum(axis=0) / counts.sum()
    sign = -1.0 if objective.direction is Direction.MIN else 1.0
    if objective.tau is None:
        values = sign * np.array([objective.scale.value_of(index) for index in support])
        gammas = [rng.standard_gamma(row + prior, size=(draws, len(support))) for row in counts]
        return np.stack([(gamma @ values) / gamma.sum(axis=1) for gamma in gammas], axis=1)
    # In score space the tau-quantile of a metric to be minimised is the (1 - tau)-quantile.
    level = 1.0 - objective.tau if objective.direction is Direction.MIN else objective.tau
    return np.stack([_quantile_draws(row + prior, level, rng.random(draws)) for row in counts], axis=1)


def _quantile_draws(shapes: FloatArray, level: float, u: FloatArray) -> FloatArray:
    """Positions on the support: inverse of the posterior distribution of the level-quantile under a Dirichlet."""
    below = np.cumsum(shapes)[:-1]
    total = float(shapes.sum())
    # Far from the level the probability is 0 or 1 to more digits than a draw has.
    far = 9.0 * math.sqrt(level * (1.0 - level) / total) + 30.0 / total
    at_least = (below > level * total).astype(np.float64)
    near = np.abs(below / total - level) <= far
    at_least[near] = special.betaincc(below[near], total - below[near], level)
    return np.searchsorted(np.maximum.accumulate(at_least), u, side="left").astype(np.float64)


def _slack_draws(
    constraint: Constraint, arms: tuple[ArmOutcomes, ...], rng: np.random.Generator, draws: int
) -> FloatArray:
    """Slack of the candidates, shape (draws, candidates)."""
    rates = [arm.rates.get(constraint.name, Rate(successes=0.0, trials=0.0)) for arm in arms]
    pooled = (sum(rate.successes for rate in rates) + 1.0) / (sum(rate.trials for rate in rates) + 2.0)
    split = np.stack(
        [
            rng.beta(
                PRIOR_SIZE * pooled + rate.successes,
                PRIOR_SIZE * (1.0 - pooled) + rate.trials - rate.successes,
                size=draws,
            )
            for rate in rates
        ],
        axis=1,
    )
    if constraint.minimum is not None:
        return split[:, 1:] - constraint.minimum
    assert constraint.margin is not None
    differences = split[:, 1:] - split[:, :1]
    for column, arm in enumerate(arms[1:]):
        pairs = arm.differences.get(constraint.name)
        if pairs is not None:
            differences[:, column] = _joined(differences[:, column], _paired_draws(pairs, rng, draws))
    return differences + constraint.margin


def _paired_draws(pairs: tuple[int, int, int], rng: np.random.Generator, draws: int) -> FloatArray:
    shapes = np.array(pairs, dtype=np.float64) + PRIOR_SIZE * np.array([0.1, 0.8, 0.1])
    shares = rng.dirichlet(shapes, size=draws)
    return shares[:, 2] - shares[:, 0]


def _joined(first: FloatArray, second: FloatArray) -> FloatArray:
    """Draws of one quantity given two independent sources: weighted by precision, exact for normal posteriors."""
    weight = first.var() ** -1 / (first.var() ** -1 + second.var() ** -1)
    joined: FloatArray = weight * first + (1.0 - weight) * second
    return joined
