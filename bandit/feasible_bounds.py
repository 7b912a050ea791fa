"""How soon can the best variant that keeps a guardrail be known? The constrained lower bound and its best split.

A rule that is wrong with probability delta at most must rule out every world in which another arm is the right answer:
the leader breaks the guardrail, or a rival is at least as good as the leader and keeps it. Each such world costs
information in proportion to the traffic of the arms in which it differs; the best split makes the cheapest world as
dear as possible.

The guardrail is non-inferiority of a rate against the baseline, the objective a mean with normal noise (the logarithm of
a latency, say).

Source:
    Garivier, Kaufmann (COLT 2016), theorem 1, with the alternatives of best feasible arm identification (Yang, Gao, Gao,
    arXiv 2501.03877).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anabranch.bandit.bounds import bernoulli_kl
from anabranch.bandit.scales import FloatArray

_LEAST_SHARE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class FeasibleArm:
    """What is true of one arm.

    Args:
        rate: of the guardrail, higher is better, in (0, 1).
        cost: mean of the objective, lower is better: for a latency its mean logarithm.
    """

    rate: float
    cost: float

    def __post_init__(self) -> None:
        """Refuse rates without room on both sides."""
        if not 0.0 < self.rate < 1.0:
            raise ValueError(f"rate {self.rate} must be strictly between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeasibleBound:
    """The best split and what it takes.

    Attributes:
        leader: Number of the best feasible arm; 0 is the baseline.
        shares: Best share of every arm, shape (arms,).
        time: T*: at least T* ln(1 / delta) requests are needed on average.
    """

    leader: int
    shares: FloatArray
    time: float


def best_feasible_arm(arms: Sequence[FeasibleArm], *, margin: float) -> int:
    """The number of the arm with the least cost among those that keep the guardrail; the baseline (0) always does."""
    feasible = [n for n, arm in enumerate(arms) if n == 0 or arm.rate > arms[0].rate - margin]
    return min(feasible, key=lambda n: arms[n].cost)


def best_feasible_shares(arms: Sequence[FeasibleArm], *, margin: float, spread: float) -> FeasibleBound:
    """The split that identifies the best feasible arm soonest.

    Args:
        arms: the baseline first; two or more, with a unique best feasible one and no rate exactly at the margin.
        margin: tolerated deficit of the rate against the baseline's, in (0, 1).
        spread: standard deviation of one outcome of the objective, above 0, the same for all arms.

    Raises:
        ValueError: when two arms cannot be told apart, so that no number of requests is enough.
    """
    if len(arms) < 2 or not (0.0 < margin < 1.0 and spread > 0.0):
        raise ValueError(
            f"{len(arms)} arms, margin {margin}, spread {spread}: need two arms, a margin in (0, 1), a positive spread"
        )
    leader = best_feasible_arm(arms, margin=margin)
    worlds = _Worlds(arms=tuple(arms), leader=leader, margin=margin, spread=spread)
    count = len(arms)
    start = np.full(count, 1.0 / count)
    if worlds.costs(start).min() <= 1e-15:
        raise ValueError(
            "two arms are equal in what decides between them: no number of requests can tell them apart"
        )

    # Half of what SciPy takes to load: who only shows what was decided seldom comes here.
    from scipy import optimize

    # Variables are the shares and the cheapest world's cost, scaled so that all are of the order of 1.
    scale = float(worlds.costs(start).min())
    found = optimize.minimize(
        lambda z: -z[-1],
        np.append(start, 1.0),
        jac=lambda _z: np.append(np.zeros(count), -1.0),
        bounds=[(_LEAST_SHARE, 1.0)] * count + [(0.0, None)],
        constraints=[
            {
                "type": "eq",
                "fun": lambda z: z[:-1].sum() - 1.0,
                "jac": lambda _z: np.append(np.ones(count), 0.0),
            },
            {
                "type": "ineq",
                "fun": lambda z: worlds.costs(z[:-1]) / scale - z[-1],
                "jac": lambda z: np.column_stack((worlds.slopes(z[:-1]) / scale, -np.ones(worlds.count))),
            },
        ],
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    shares = np.maximum(found.x[:-1], _LEAST_SHARE)
    shares = shares / shares.sum()
    return FeasibleBound(leader=leader, shares=shares, time=1.0 / float(worlds.costs(shares).min()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worlds:
    """The worlds in which another arm would be right: one per rival, and one in which the leader is infeasible."""

    arms: tuple[FeasibleArm, ...]
    leader: int
    margin: float
    spread: float

    @property
    def rivals(self) -> list[int]:
        return [n for n in range(len(self.arms)) if n != self.leader]

    @property
    def count(self) -> int:
        return len(self.rivals) + (self.leader != 0)

    def costs(self, shares: FloatArray) -> FloatArray:
        """Nats per request that each world costs, shape (worlds,)."""
        return np.array([cost for cost, _ in self._all(shares)])

    def slopes(self, shares: FloatArray) -> FloatArray:
        """The costs' derivatives by share, shape (worlds, arms): by the envelope theorem those of the inner minimum."""
        return np.stack([slope for _, slope in self._all(shares)])

    def _all(self, shares: FloatArray) -> list[tuple[float, FloatArray]]:
        worlds = [self._rival(n, shares) for n in self.rivals]
        if self.leader != 0:
            worlds.append(self._crossing(self.leader, shares))
        return worlds

    def _rival(self, rival: int, shares: FloatArray) -> tuple[float, FloatArray]:
        cost, slope = 0.0, np.zeros(len(self.arms))
        gap = self.arms[rival].cost - self.arms[self.leader].cost
        if gap > 0.0:
            a, b = float(shares[self.leader]), float(shares[rival])
            nats = gap * gap / (2.0 * self.spread**2)
            cost += a * b / (a + b) * nats
            slope[self.leader] += (b / (a + b)) ** 2 * nats
            slope[rival] += (a / (a + b)) ** 2 * nats
        if rival != 0 and self.arms[rival].rate < self.arms[0].rate - self.margin:
            crossing, steep = self._crossing(rival, shares)
            cost, slope = cost + crossing, slope + steep
        return cost, slope

    def _crossing(self, arm: int, shares: FloatArray) -> tuple[float, FloatArray]:
        """The arm's rate and the baseline's moved to exactly the margin apart, as cheaply as possible."""
        p, p0, m = self.arms[arm].rate, self.arms[0].rate, self.margin
        w, w0 = float(shares[arm]), float(shares[0])
        low, high = sorted((p + m, p0))
        for _ in range(60):
            q = 0.5 * (low + high)
            r = q - m
            pull = w * (r - p) / (r * (1.0 - r)) if 0.0 < r < 1.0 else (math.inf if r >= 1.0 else -math.inf)
            if pull + w0 * (q - p0) / (q * (1.0 - q)) < 0.0:
                low = q
            else:
                high = q
        q = 0.5 * (low + high)
        slope = np.zeros(len(self.arms))
        slope[arm], slope[0] = bernoulli_kl(p, q - m), bernoulli_kl(p0, q)
        return w * float(slope[arm]) + w0 * float(slope[0]), slope
