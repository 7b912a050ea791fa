"""Off-policy evaluation: what another split of the traffic would have earned, from logged propensities.

Three estimates of the mean reward under target probabilities, each with an interval that holds at every look:

- IPS weighs each reward r by w = target / logged propensity. Its interval needs no bound on the weights: lower
  evidence bets on w r, which is at least 0, and upper evidence on w (1 - r).
- SNIPS divides by the sum of the weights. It bets on w (r - mean), which varies less when rewards are far from 0.
- DR adds what a model predicts: expected + w (r - predicted). A good model leaves little to weigh; a bad one costs width
  and never validity, as long as it was made without the rewards it is used on.

All three assume that the reward's mean under the target is the same throughout. They read counts, so that replicas and
epochs merge, and rewards on [0, 1].

Source:
    Horvitz, Thompson (JASA 1952); Swaminathan, Joachims (NeurIPS 2015) for SNIPS; Dudík, Langford, Li (ICML 2011) for DR;
    Waudby-Smith et al. (arXiv 2210.10768) for betting on importance-weighted rewards and on their reflection.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anabranch.bandit.fixed_stakes import lowest_kept
from anabranch.bandit.scales import BoundedScale, FloatArray, Histogram, unit_arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRewards:
    """Rewards of routed requests, as rows that may stand for several equal ones.

    Args:
        ratios: target probability of the arm that served over its logged propensity, at least 0, shape (n,).
        rewards: in [0, 1], shape (n,).
        counts: how often each row occurred, at least 0, shape (n,).
        largest: a bound of all ratios that could have occurred, fixed by the logged weights and not by the draws.
        predicted: a model's reward of the arm that served, in [0, 1], shape (n,); 0 without a model.
        expected: the model's mean reward under the target, in [0, 1], shape (n,); 0 without a model.
    """

    ratios: FloatArray
    rewards: FloatArray
    counts: FloatArray
    largest: float
    predicted: FloatArray
    expected: FloatArray

    def __post_init__(self) -> None:
        """Refuse rows of different lengths, rewards off [0, 1] and a bound below a ratio."""
        lengths = {
            array.shape for array in (self.ratios, self.rewards, self.counts, self.predicted, self.expected)
        }
        if len(lengths) != 1:
            raise ValueError(f"rows have shapes {sorted(lengths)}: give one value per row everywhere")
        for name in ("rewards", "predicted", "expected"):
            values: FloatArray = getattr(self, name)
            if values.size and not (values.min() >= 0.0 and values.max() <= 1.0):
                raise ValueError(f"{name} must lie in [0, 1]: rescale them by the metric's range")
        if self.ratios.size and not (
            self.ratios.min() >= 0.0 and self.ratios.max() <= self.largest * (1 + 1e-9)
        ):
            raise ValueError(
                f"ratios reach {self.ratios.max():g}, must be at least 0 and at most largest={self.largest:g}: "
                "give the largest target / propensity of any arm"
            )
        if self.counts.size and self.counts.min() < 0.0:
            raise ValueError("counts must be at least 0")

    @property
    def total(self) -> float:
        """How many requests the rows stand for."""
        return float(self.counts.sum())

    @property
    def effective_count(self) -> float:
        """Kish's effective number of requests: how many of the target's own would tell as much."""
        squares = float((self.ratios**2) @ self.counts)
        return float(self.ratios @ self.counts) ** 2 / squares if squares > 0.0 else 0.0

    def reflected(self) -> "LoggedRewards":
        """The same rows with reward 1 - r: an upper limit is a lower limit of these."""
        return LoggedRewards(
            ratios=self.ratios,
            rewards=1.0 - self.rewards,
            counts=self.counts,
            largest=self.largest,
            predicted=1.0 - self.predicted,
            expected=1.0 - self.expected,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyValue:
    """An estimate of the mean reward under the target, and its interval; None without a usable row."""

    value: float | None
    low: float
    high: float


def logged_records(
    target: npt.ArrayLike,
    propensity: npt.ArrayLike,
    served: npt.ArrayLike,
    rewards: npt.ArrayLike,
    *,
    predicted: npt.ArrayLike | None = None,
    largest: float | None = None,
) -> LoggedRewards:
    """Rows from single records.

    Args:
        target: target probability of every arm, shape (n, arms), rows summing to 1.
        propensity: logged probability of every arm, shape (n, arms); positive wherever the target is.
        served: number of the arm that served, shape (n,).
        rewards: in [0, 1], shape (n,).
        predicted: a model's reward of every arm, in [0, 1], shape (n, arms).
        largest: a bound of all ratios, from the design: the target's largest share over the smallest weight that the
            router may use. None: the largest of these records, right where weights never followed the rewards.

    Raises:
        ValueError: when the target asks for an arm that the log could not have.
    """
    wanted, logged = np.asarray(target, dtype=np.float64), np.asarray(propensity, dtype=np.float64)
    arm = np.asarray(served, dtype=np.int64)
    if ((wanted > 0.0) & (logged <= 0.0)).any():
        raise ValueError(
            "the target gives weight to an arm whose logged propensity is 0: nothing is known of it there, leave it out"
        )
    ratios = np.divide(wanted, logged, out=np.zeros_like(wanted), where=logged > 0.0)
    rows = np.arange(arm.size)
    model = np.zeros_like(wanted) if predicted is None else np.asarray(predicted, dtype=np.float64)
    return LoggedRewards(
        ratios=ratios[rows, arm],
        rewards=np.asarray(rewards, dtype=np.float64),
        counts=np.ones(arm.size),
        largest=max(float(ratios.max(initial=0.0)), 1.0) if largest is None else largest,
        predicted=model[rows, arm],
        expected=np.clip((wanted * model).sum(axis=1), 0.0, 1.0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedEpoch:
    """One epoch's outcomes of all arms.

    Args:
        weights: logged propensity by arm.
        counts: histogram of outcomes by arm.
    """

    weights: Mapping[str, float]
    counts: Mapping[str, Histogram]


def logged_epochs(
    scale: BoundedScale,
    epochs: Sequence[LoggedEpoch],
    target: Mapping[str, float],
    *,
    predicted: Mapping[str, float] | None = None,
) -> LoggedRewards:
    """Rows from counts per epoch and arm, for a target that gives every request the same shares.

    Args:
        scale: of the metric; rewards are rescaled to [0, 1].
        epochs: what was logged; epochs that lack an arm of the target are refused.
        target: wanted share by arm, summing to 1.
        predicted: a guess of each arm's mean on [0, 1], made without these outcomes.

    Raises:
        ValueError: when shares do not sum to 1, or an epoch gave no traffic to a wanted arm.
    """
    if abs(sum(target.values()) - 1.0) > 1e-6 or min(target.values()) < 0.0:
        raise ValueError(f"target {dict(target)} must be shares of at least 0 that sum to 1")
    model = predicted or {}
    expected = sum(share * model.get(arm, 0.0) for arm, share in target.items())
    parts: list[tuple[float, float, FloatArray, FloatArray]] = []
    largest = 0.0
    for epoch in epochs:
        for arm, share in target.items():
            if share > 0.0 and epoch.weights.get(arm, 0.0) <= 0.0:
                raise ValueError(f"{arm} had no traffic in an epoch: leave out epochs without a wanted arm")
        largest = max([largest, *(s / epoch.weights[a] for a, s in target.items() if s > 0.0)])
        for arm, histogram in epoch.counts.items():
            values, counts = unit_arrays(scale, histogram)
            share = target.get(arm, 0.0)
            ratio = share / epoch.weights[arm] if share > 0.0 else 0.0
            parts.append((ratio, model.get(arm, 0.0), values, counts))
    sizes = [values.size for _, _, values, _ in parts]
    return LoggedRewards(
        ratios=np.repeat([ratio for ratio, *_ in parts], sizes).astype(np.float64),
        rewards=np.concatenate([values for _, _, values, _ in parts] or [np.zeros(0)]),
        counts=np.concatenate([counts for *_, counts in parts] or [np.zeros(0)]),
        largest=largest,
        predicted=np.repeat([guess for _, guess, *_ in parts], sizes).astype(np.float64),
        expected=np.full(sum(sizes), expected),
    )


def ips(log: LoggedRewards, *, alpha: float) -> PolicyValue:
    """The inverse propensity estimate: the mean of w r. Unbiased; may leave [0, 1]; the interval does not."""

    def lower(rows: LoggedRewards) -> float:
        values = rows.ratios * rows.rewards
        mean = float(values @ rows.counts) / rows.total
        limit = math.log(2.0 / alpha)
        return min(lowest_kept(lambda m: values / m - 1.0, rows.counts, centre=mean, limit=limit), 1.0)

    if not log.total:
        return PolicyValue(value=None, low=0.0, high=1.0)
    value = float((log.ratios * log.rewards) @ log.counts) / log.total
    return PolicyValue(value=value, low=lower(log), high=1.0 - lower(log.reflected()))


def snips(log: LoggedRewards, *, alpha: float) -> PolicyValue:
    """The self-normalised estimate: the sum of w r over the sum of w. Never leaves [0, 1]; biased by order 1/n."""
    weight = float(log.ratios @ log.counts)
    if not weight > 0.0:
        return PolicyValue(value=None, low=0.0, high=1.0)

    def lower(rows: LoggedRewards) -> float:
        mean = float((rows.ratios * rows.rewards) @ rows.counts) / weight
        shares = rows.ratios / rows.largest
        limit = math.log(2.0 / alpha)
        return lowest_kept(lambda m: shares * (rows.rewards / m - 1.0), rows.counts, centre=mean, limit=limit)

    value = float((log.ratios * log.rewards) @ log.counts) / weight
    return PolicyValue(value=value, low=lower(log), high=1.0 - lower(log.reflected()))


def doubly_robust(log: LoggedRewards, *, alpha: float) -> PolicyValue:
    """The doubly robust estimate: the mean of expected + w (r - predicted). Without a model prefer `ips`."""

    def lower(rows: LoggedRewards) -> float:
        values = rows.expected + rows.ratios * (rows.rewards - rows.predicted)
        mean = float(values @ rows.counts) / rows.total
        # No value is below -largest: what is predicted is at most 1.
        limit = math.log(2.0 / alpha)
        return min(
            lowest_kept(lambda m: (values - m) / (m + rows.largest), rows.counts, centre=mean, limit=limit),
            1.0,
        )

    if not log.total:
        return PolicyValue(value=None, low=0.0, high=1.0)
    value = float((log.expected + log.ratios * (log.rewards - log.predicted)) @ log.counts) / log.total
    return PolicyValue(value=value, low=lower(log), high=1.0 - lower(log.reflected()))
