"""Many runs of a test at once: the betting tests of this package with one row per replication.

A simulation needs thousands of runs of the same test. The classes here advance all of them together and agree with
`ContrastTest`, `PairedTest` and `MeanTest` to rounding, which a test asserts; the designs themselves, with their
scales, margins and plans, are the production objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anabranch.bandit import wealth
from anabranch.bandit.betting import DEFAULT_MEAN, ContrastTest, MeanTest, Side
from anabranch.bandit.paired import PairedTest
from anabranch.bandit.scales import FloatArray, IntArray

_FRACTIONS = np.array(wealth.FRACTIONS)
_PRIOR_PAIRS = 50.0
_MAX_STEPS = 60


class _Sums:
    """Count, sum and sum of squares of the outcomes of every run."""

    def __init__(self, runs: int) -> None:
        self.count = np.zeros(runs)
        self.total = np.zeros(runs)
        self.squares = np.zeros(runs)

    def add(self, values: FloatArray, counts: npt.NDArray[np.generic]) -> None:
        """Add outcomes: values of shape (k,), counts of shape (runs, k)."""
        numbers = counts.astype(np.float64)
        self.count += numbers.sum(axis=1)
        self.total += numbers @ values
        self.squares += numbers @ (values * values)


def _spread(count: FloatArray, total: FloatArray, squares: FloatArray) -> FloatArray:
    """`ArmMoments.spread` of every run."""
    size = np.maximum(count, 1.0)
    mean = total / size
    bernoulli = mean * (1.0 - mean)
    known = (count > 0.0) & (bernoulli > 0.0)
    ratio = np.maximum(squares / size - mean * mean, 0.0) / np.where(known, bernoulli, 1.0)
    pulled = np.clip((ratio * count + 2.0) / (count + 2.0), 1e-3, 1.0)
    return np.where(known, pulled, 1.0)


def many_growth_optimal(gains: FloatArray, shares: FloatArray, worst: FloatArray) -> FloatArray:
    """`wealth.growth_optimal` of every run.

    Args:
        gains: of the planned outcomes, shape (runs, k).
        shares: their probabilities, shape (runs, k).
        worst: largest loss per unit of stake, shape (runs,).
    """
    low = wealth.MAX_LOSS / worst * wealth.FRACTIONS[-1]
    high = wealth.MAX_PLANNED_LOSS / worst
    at_low = (shares * gains / (1.0 + low[:, None] * gains)).sum(axis=1) <= 0.0
    at_high = (shares * gains / (1.0 + high[:, None] * gains)).sum(axis=1) >= 0.0
    stake = np.where(at_low, low, np.where(at_high, high, low))
    open_ = np.flatnonzero(~(at_low | at_high))
    low, high = low.copy(), high.copy()
    for _ in range(_MAX_STEPS):
        if not open_.size:
            break
        now = stake[open_]
        ratio = gains[open_] / (1.0 + now[:, None] * gains[open_])
        slope = (shares[open_] * ratio).sum(axis=1)
        curvature = (shares[open_] * ratio * ratio).sum(axis=1)
        rising = slope > 0.0
        low[open_] = np.where(rising, now, low[open_])
        high[open_] = np.where(rising, high[open_], now)
        proposal = now + slope / curvature
        outside = ~((low[open_] < proposal) & (proposal < high[open_]))
        proposal = np.where(outside, 0.5 * (low[open_] + high[open_]), proposal)
        stake[open_] = proposal
        open_ = open_[np.abs(proposal - now) > 1e-10 * now]
    return stake


def _stakes(planned: FloatArray, worst: FloatArray) -> FloatArray:
    """`wealth.stakes` of every run, shape (runs, gamblers)."""
    first = np.minimum(planned, wealth.MAX_PLANNED_LOSS / worst)
    rest = (wealth.MAX_LOSS / worst)[:, None] * _FRACTIONS
    return np.concatenate((first[:, None], rest), axis=1)


def _log_e(log_capital: FloatArray, log_wealth: FloatArray) -> FloatArray:
    terms = log_capital + log_wealth
    top = terms.max(axis=1)
    result: FloatArray = top + np.log(np.exp(terms - top[:, None]).sum(axis=1))
    return result


def _two_point(mean: FloatArray, spread: FloatArray) -> tuple[tuple[FloatArray, FloatArray], ...]:
    width = np.sqrt(spread)
    return ((mean + width * (1.0 - mean), mean), (mean - width * mean, 1.0 - mean))


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyCells:
    """One epoch's outcomes inside a segment, of every run.

    Attributes:
        pi_v: The variant's propensity, shape (runs,).
        pi_c: The baseline's propensity, shape (runs,).
        counts_v: The variant's outcomes by value, shape (runs, k).
        counts_c: The baseline's outcomes by value, shape (runs, k).
        others: Outcomes of other arms, shape (runs,).
    """

    pi_v: FloatArray
    pi_c: FloatArray
    counts_v: IntArray
    counts_c: IntArray
    others: IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class _Terms:
    """Gains of the distinct outcomes of a cell and the stakes on them."""

    phi: FloatArray
    gains: FloatArray
    bets: FloatArray


class ManyContrasts:
    """A ContrastTest in many runs.

    Args:
        test: the design.
        runs: how many.
        values: the distinct outcomes, rescaled to [0, 1], shape (k,); None for a binary metric.
    """

    def __init__(self, test: ContrastTest, runs: int, values: FloatArray | None = None) -> None:
        """Begin all runs without data."""
        self.test = test
        self.values = np.array([0.0, 1.0]) if values is None else values
        self.log_wealth = np.zeros((runs, wealth.GAMBLERS))
        self.variant = _Sums(runs)
        self.baseline = _Sums(runs)
        self.count = np.zeros(runs)
        self.total = np.zeros(runs)
        self.variance = np.zeros(runs)
        self._log_capital = wealth.log_capital(test.capital)
        self._width = test.scale.high - test.scale.low
        self._margin = test.margin / self._width
        # The design's own reading of its claim and plan, so that the two can never disagree.
        self._sign = test._sign
        self._effect = test._unit_effect

    def advance(self, segment: list[ManyCells]) -> None:
        """One more segment of every run."""
        m1, m0, spread = self._predict()
        with np.errstate(invalid="ignore", divide="ignore"):
            centre = np.where(self.count > 0.0, self.total / self.count, 0.0)
        for cell in segment:
            terms = self._terms(cell, m1, m0, spread)
            counts = np.concatenate((cell.counts_v, cell.counts_c, cell.others[:, None]), axis=1).astype(
                np.float64
            )
            growth = np.log1p(terms.bets[:, :, None] * terms.gains[:, None, :])
            self.log_wealth += (growth * counts[:, None, :]).sum(axis=2)
            self.variant.add(self.values, cell.counts_v)
            self.baseline.add(self.values, cell.counts_c)
            self.count += counts.sum(axis=1)
            self.total += (terms.phi * counts).sum(axis=1)
            self.variance += ((terms.phi - centre[:, None]) ** 2 * counts).sum(axis=1)

    def peaks(self, pi_v: FloatArray, pi_c: FloatArray, outcomes: npt.NDArray[np.intp]) -> FloatArray:
        """The highest log evidence at any single request of the next segment; changes nothing.

        Args:
            pi_v: the variant's propensity, shape (runs,).
            pi_c: the baseline's propensity, shape (runs,).
            outcomes: of the requests in order, shape (runs, requests): the number of the value for the variant, k plus
                the number for the baseline, 2 k for other arms.
        """
        runs, k = outcomes.shape[0], self.values.size
        nothing = np.zeros((runs, k), dtype=np.int64)
        cell = ManyCells(
            pi_v=pi_v, pi_c=pi_c, counts_v=nothing, counts_c=nothing, others=np.zeros(runs, dtype=np.int64)
        )
        terms = self._terms(cell, *self._predict())
        factors = 1.0 + terms.gains[:, :, None] * terms.bets[:, None, :]
        paths = np.take_along_axis(factors, outcomes[:, :, None], axis=1)
        np.cumprod(paths, axis=1, out=paths)
        start = self._log_capital + self.log_wealth
        top = start.max(axis=1)
        mixed = np.einsum("rtg,rg->rt", paths, np.exp(start - top[:, None]))
        peak: FloatArray = top + np.log(mixed.max(axis=1))
        return peak

    def log_e(self) -> FloatArray:
        """Log evidence of every run, shape (runs,)."""
        return _log_e(self._log_capital, self.log_wealth)

    def estimates(self) -> FloatArray:
        """The AIPW estimates, in the metric's unit, shape (runs,)."""
        return self.total / self.count * self._width

    def _predict(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        test = self.test
        known = test.planned_mean is not None
        prior = (
            DEFAULT_MEAN if test.planned_mean is None else (test.planned_mean - test.scale.low) / self._width
        )
        size = 20.0 if known else 2.0
        m0 = _inside((prior * size + self.baseline.total) / (size + self.baseline.count))
        m1 = _inside((m0 * 20.0 + self.variant.total) / (20.0 + self.variant.count))
        spread = _spread(
            self.baseline.count + self.variant.count,
            self.baseline.total + self.variant.total,
            self.baseline.squares + self.variant.squares,
        )
        return m1, m0, spread

    def _terms(self, cell: ManyCells, m1: FloatArray, m0: FloatArray, spread: FloatArray) -> _Terms:
        gap, sign, margin = m1 - m0, self._sign, self._margin
        of_v = gap[:, None] + (self.values - m1[:, None]) / cell.pi_v[:, None]
        of_c = gap[:, None] - (self.values - m0[:, None]) / cell.pi_c[:, None]
        phi = np.concatenate((of_v, of_c, gap[:, None]), axis=1)
        ends = np.array([0.0, 1.0])
        extremes = np.concatenate(
            (
                gap[:, None] + (ends - m1[:, None]) / cell.pi_v[:, None],
                gap[:, None] - (ends - m0[:, None]) / cell.pi_c[:, None],
            ),
            axis=1,
        )
        worst = (-sign * (extremes + margin)).max(axis=1)
        planned = np.clip(m0 + self._effect, 1e-6, 1.0 - 1e-6)
        gains, shares = [], []
        for value, share in _two_point(planned, spread):
            gains.append(sign * (gap + (value - m1) / cell.pi_v + margin))
            shares.append(share * cell.pi_v)
        for value, share in _two_point(m0, spread):
            gains.append(sign * (gap - (value - m0) / cell.pi_c + margin))
            shares.append(share * cell.pi_c)
        gains.append(sign * (gap + margin))
        shares.append(np.maximum(1.0 - cell.pi_v - cell.pi_c, 0.0))
        best = many_growth_optimal(np.stack(gains, axis=1), np.stack(shares, axis=1), worst)
        return _Terms(phi=phi, gains=sign * (phi + margin), bets=_stakes(best, worst))


class ManyPairs:
    """A PairedTest on binary outcomes in many runs."""

    def __init__(self, test: PairedTest, runs: int) -> None:
        """Begin all runs without data."""
        self.test = test
        self.log_wealth = np.zeros((runs, wealth.GAMBLERS))
        self.seen = _Sums(runs)
        self._differences = np.linspace(-1.0, 1.0, test.scale.bins)
        self._log_capital = wealth.log_capital(test.capital)
        self._sign, self._effect, self._margin = test._sign, test._effect, test._margin

    def advance(self, counts: IntArray) -> None:
        """One more segment of every run: counts of the differences, shape (runs, bins)."""
        sign, margin = self._sign, self._margin
        discordance = (_PRIOR_PAIRS * self.test.planned_discordance + self.seen.squares) / (
            _PRIOR_PAIRS + self.seen.count
        )
        discordance = np.clip(discordance, max(abs(self._effect), 1e-6), 1.0)
        shape = (discordance.size, 3)
        gains = np.broadcast_to(sign * (margin + np.array([-1.0, 0.0, 1.0])), shape)
        shares = np.stack(
            ((discordance - self._effect) / 2.0, 1.0 - discordance, (discordance + self._effect) / 2.0),
            axis=1,
        )
        worst = np.full(discordance.size, 1.0 - sign * margin)
        bets = _stakes(many_growth_optimal(gains, shares, worst), worst)
        growth = np.log1p(bets[:, :, None] * (sign * (self._differences + margin))[None, None, :])
        self.log_wealth += (growth * counts[:, None, :]).sum(axis=2)
        self.seen.add(self._differences, counts)

    def log_e(self) -> FloatArray:
        """Log evidence of every run, shape (runs,)."""
        return _log_e(self._log_capital, self.log_wealth)


class ManyMeans:
    """A MeanTest on a binary metric in many runs."""

    def __init__(self, test: MeanTest, runs: int) -> None:
        """Begin all runs without data."""
        self.test = test
        self.log_wealth = np.zeros((runs, wealth.GAMBLERS))
        self.seen = _Sums(runs)
        self._log_capital = wealth.log_capital(test.capital)

    def advance(self, counts: IntArray) -> None:
        """One more segment of every run: failures and successes, shape (runs, 2)."""
        sign, threshold = self.test._sign, self.test._unit_threshold
        worst_case = threshold if self.test.side is Side.ABOVE else 1.0 - threshold
        runs = counts.shape[0]
        mean = np.full(runs, float(np.clip(self.test._unit_planned, 1e-6, 1.0 - 1e-6)))
        points = _two_point(mean, _spread(self.seen.count, self.seen.total, self.seen.squares))
        gains = np.stack([sign * (value - threshold) for value, _ in points], axis=1)
        shares = np.stack([share for _, share in points], axis=1)
        worst = np.full(runs, worst_case)
        bets = _stakes(many_growth_optimal(gains, shares, worst), worst)
        values = np.array([0.0, 1.0])
        growth = np.log1p(bets[:, :, None] * (sign * (values - threshold))[None, None, :])
        self.log_wealth += (growth * counts[:, None, :]).sum(axis=2)
        self.seen.add(values, counts)

    def log_e(self) -> FloatArray:
        """Log evidence of every run, shape (runs,)."""
        return _log_e(self._log_capital, self.log_wealth)


def _inside(mean: FloatArray) -> FloatArray:
    return np.clip(mean, 1e-6, 1.0 - 1e-6)
