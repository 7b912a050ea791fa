"""Tests by betting of a difference between two arms of a split (ContrastTest) and of one mean (MeanTest).

`ContrastTest` is what promotes and rolls back. It bets on the AIPW pseudo-outcome of each request,

    phi = m1 - m0 + 1{variant} (y - m1) / pi_v - 1{baseline} (y - m0) / pi_c,

whose conditional mean is the difference of the arms at that moment, whatever drifts, because only the router's coin is
assumed to be random and its propensities pi are logged. m1 and m0 are predictions from earlier segments: they cost
validity nothing and cut the variance.

Both tests are designs: immutable, with `start()`, `advance(state, segment)` and `log_e(state)`. States are plain numbers
in tuples, so that a decision can store them and anyone can recompute them from the stored counts.

Source:
    Waudby-Smith, Ramdas (JRSS B 2024) for betting; Waudby-Smith et al.: Anytime-valid off-policy inference for
    contextual bandits (2022, arXiv 2210.10768) for pseudo-outcomes with logged propensities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from anabranch.bandit import wealth
from anabranch.bandit.moments import NO_MOMENTS, ArmMoments
from anabranch.bandit.scales import BINARY, BoundedScale, FloatArray, Histogram, unit_arrays

# Without a plan: accuracies, success rates and shares within a limit are mostly near 1.
DEFAULT_MEAN = 0.9


class Claim(StrEnum):
    """What large evidence says about the variant against the baseline (higher is better)."""

    NON_INFERIORITY = "non-inferiority"  # refutes: variant <= baseline - margin
    SUPERIORITY = "superiority"  # refutes: variant <= baseline
    HARM = "harm"  # refutes: variant >= baseline - margin


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochCell:
    """One epoch's outcomes inside a segment.

    Args:
        pi_v: the variant's logged propensity, in (0, 1).
        pi_c: the baseline's logged propensity, in (0, 1); pi_v + pi_c <= 1.
        counts_v: the variant's outcomes.
        counts_c: the baseline's outcomes.
        others: how many outcomes belong to other arms, at least 0.
    """

    pi_v: float
    pi_c: float
    counts_v: Histogram
    counts_c: Histogram
    others: int = 0

    def __post_init__(self) -> None:
        """Refuse propensities that no router can have used."""
        if not (0.0 < self.pi_v < 1.0 and 0.0 < self.pi_c < 1.0 and self.pi_v + self.pi_c <= 1.0 + 1e-9):
            raise ValueError(
                f"propensities pi_v={self.pi_v}, pi_c={self.pi_c} must be positive with a sum of at most 1: "
                "leave out epochs in which one of the two arms had no traffic"
            )
        if self.others < 0:
            raise ValueError(f"others is {self.others}: a count is never negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastState:
    """Where a ContrastTest stands.

    Attributes:
        log_wealth: one number per gambler.
        variant: sums of the variant's outcomes.
        baseline: sums of the baseline's outcomes.
        count: requests of all arms.
        total: sum of the pseudo-outcomes, on the scale rescaled to [0, 1].
        variance: sum of squared deviations of the pseudo-outcomes from the estimate before their segment.
    """

    log_wealth: tuple[float, ...] = wealth.START
    variant: ArmMoments = NO_MOMENTS
    baseline: ArmMoments = NO_MOMENTS
    count: int = 0
    total: float = 0.0
    variance: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastTest:
    """An e-process on the difference variant - baseline of a bounded metric in a split with known propensities.

    Valid for the pointwise null (the inequality holds at every moment), under drift, ramps and adaptive weights. A
    segment must hold outcomes that no earlier segment held, of requests whose weights were fixed before; cut segments
    by the time of assignment where the arms' outcomes arrive with different delays.

    Args:
        claim: what large evidence says.
        scale: of the metric; higher is better (use `scales.flipped` at the edge for the others).
        margin: tolerated deficit, in the metric's unit, at least 0; 0 for SUPERIORITY.
        planned_effect: the difference variant - baseline that the test is tuned for, in the metric's unit. Must make
            the claim true. Wrong plans cost time, never validity. None: 0 for NON_INFERIORITY; twice the margin's
            deficit for HARM.
        planned_mean: a guess of the baseline's mean, in the metric's unit; used until there is data. None: 0.9 of
            the scale, held loosely.
        plan_capital: share of the capital on the plan, in (0, 1). None: most of it where the plan was given or follows
            from the claim, little where the size of an effect is anybody's guess.
    """

    claim: Claim
    scale: BoundedScale = BINARY
    margin: float = 0.0
    planned_effect: float | None = None
    planned_mean: float | None = None
    plan_capital: float | None = None

    def __post_init__(self) -> None:
        """Refuse a margin or a plan that contradicts the claim."""
        width = self.scale.high - self.scale.low
        if not 0.0 <= self.margin < width:
            raise ValueError(f"margin {self.margin} must be at least 0 and below the scale's width {width}")
        if self.claim is Claim.SUPERIORITY and self.margin != 0.0:
            raise ValueError(
                f"margin {self.margin} given with a superiority claim: leave it 0 or claim non-inferiority"
            )
        if not self._edge > 0.0:
            raise ValueError(
                f"planned effect {self.planned_effect} with margin {self.margin} makes the claim "
                f"{self.claim} false: plan an effect for which the claim holds"
            )
        if self.planned_mean is not None and not self.scale.low <= self.planned_mean <= self.scale.high:
            raise ValueError(
                f"planned mean {self.planned_mean} is outside [{self.scale.low}, {self.scale.high}]"
            )
        wealth.log_capital(self.capital)

    @property
    def _width(self) -> float:
        return self.scale.high - self.scale.low

    @property
    def _unit_margin(self) -> float:
        return self.margin / self._width

    @property
    def _sign(self) -> float:
        return -1.0 if self.claim is Claim.HARM else 1.0

    @property
    def _unit_effect(self) -> float:
        if self.planned_effect is not None:
            return self.planned_effect / self._width
        match self.claim:
            case Claim.NON_INFERIORITY:
                return 0.0
            case Claim.SUPERIORITY:
                return 0.02
            case Claim.HARM:
                return -2.0 * self._unit_margin if self._unit_margin else -0.02

    @property
    def _edge(self) -> float:
        return self._sign * (self._unit_effect + self._unit_margin)

    @property
    def capital(self) -> float:
        """The share of the capital on the plan, as given or by default."""
        if self.plan_capital is not None:
            return self.plan_capital
        guessed = self.planned_effect is None and self.claim is not Claim.NON_INFERIORITY
        return wealth.GUESS_CAPITAL if guessed else wealth.PLAN_CAPITAL

    def start(self) -> ContrastState:
        """The state before any data: log_e is 0."""
        return ContrastState()

    def advance(self, state: ContrastState, segment: Sequence[EpochCell]) -> ContrastState:
        """The state after one more segment.

        To look inside a segment that still grows, advance the last committed state by all of it so far, again and
        again; commit one of them to let predictions and stakes learn from it.

        Args:
            state: the state after all earlier segments.
            segment: one cell per epoch (several cells of one epoch count as their sum).

        Raises:
            ValueError: when a bin is not on the scale.
        """
        prediction = self._predict(state)
        centre = state.total / state.count if state.count else 0.0
        log_wealth = np.array(state.log_wealth)
        variant, baseline = state.variant, state.baseline
        count, total, variance = state.count, state.total, state.variance
        for cell in segment:
            values_v, counts_v = unit_arrays(self.scale, cell.counts_v)
            values_c, counts_c = unit_arrays(self.scale, cell.counts_c)
            phi = np.concatenate(
                (
                    prediction.of_variant(values_v, cell),
                    prediction.of_baseline(values_c, cell),
                    (prediction.gap,),
                )
            )
            counts = np.concatenate((counts_v, counts_c, (float(cell.others),)))
            bets = self._stakes(prediction, cell)
            log_wealth = log_wealth + wealth.log_growth(bets, self._sign * (phi + self._unit_margin), counts)
            variant, baseline = variant.plus(values_v, counts_v), baseline.plus(values_c, counts_c)
            count += int(counts.sum())
            total += float(phi @ counts)
            variance += float((phi - centre) ** 2 @ counts)
        return ContrastState(
            log_wealth=tuple(log_wealth.tolist()),
            variant=variant,
            baseline=baseline,
            count=count,
            total=total,
            variance=variance,
        )

    def log_e(self, state: ContrastState) -> float:
        """Log evidence for the claim; the claim is decided at error alpha when it reaches ln(1/alpha)."""
        return wealth.log_mixture(wealth.log_capital(self.capital), state.log_wealth)

    def estimate(self, state: ContrastState) -> float | None:
        """The AIPW mean of variant - baseline over all requests, in the metric's unit; None without data."""
        return state.total / state.count * self._width if state.count else None

    def _predict(self, state: ContrastState) -> "_Prediction":
        prior = (
            DEFAULT_MEAN if self.planned_mean is None else (self.planned_mean - self.scale.low) / self._width
        )
        prior_count = 2.0 if self.planned_mean is None else 20.0
        m0 = _inside((prior * prior_count + state.baseline.total) / (prior_count + state.baseline.count))
        # The variant's mean is pulled towards the baseline's: a canary sees few requests.
        m1 = _inside((m0 * 20.0 + state.variant.total) / (20.0 + state.variant.count))
        both = state.baseline.joined(state.variant)
        return _Prediction(m1=m1, m0=m0, spread=both.spread)

    def _stakes(self, prediction: "_Prediction", cell: EpochCell) -> FloatArray:
        margin, sign = self._unit_margin, self._sign
        ends = np.array([0.0, 1.0])
        extremes = np.concatenate((prediction.of_variant(ends, cell), prediction.of_baseline(ends, cell)))
        worst = float((-sign * (extremes + margin)).max())
        m0 = prediction.m0
        m1 = min(max(m0 + self._unit_effect, 1e-6), 1.0 - 1e-6)
        planned: list[tuple[float, float]] = []
        for value, probability in wealth.two_point(m1, prediction.spread):
            phi = prediction.gap + (value - prediction.m1) / cell.pi_v
            planned.append((sign * (phi + margin), probability * cell.pi_v))
        for value, probability in wealth.two_point(m0, prediction.spread):
            phi = prediction.gap - (value - prediction.m0) / cell.pi_c
            planned.append((sign * (phi + margin), probability * cell.pi_c))
        planned.append((sign * (prediction.gap + margin), max(1.0 - cell.pi_v - cell.pi_c, 0.0)))
        return wealth.stakes(wealth.growth_optimal(planned, worst), worst)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prediction:
    """Predicted means of the two arms and the relative variance of an outcome, all from earlier segments."""

    m1: float
    m0: float
    spread: float

    @property
    def gap(self) -> float:
        return self.m1 - self.m0

    def of_variant(self, values: FloatArray, cell: EpochCell) -> FloatArray:
        """Pseudo-outcomes of the variant's outcomes."""
        return self.gap + (values - self.m1) / cell.pi_v

    def of_baseline(self, values: FloatArray, cell: EpochCell) -> FloatArray:
        """Pseudo-outcomes of the baseline's outcomes."""
        return self.gap - (values - self.m0) / cell.pi_c


class Side(StrEnum):
    """On which side of the threshold large evidence places the mean."""

    ABOVE = "above"  # refutes: mean <= threshold
    BELOW = "below"  # refutes: mean >= threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanState:
    """Where a one-sample test stands: one log wealth per gambler, and the sums of the rescaled values."""

    log_wealth: tuple[float, ...] = wealth.START
    seen: ArmMoments = NO_MOMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanTest:
    """An e-process on the mean of one bounded metric against a threshold.

    Valid when each value's conditional mean given the past is on the null's side: no independence or constant mean is
    needed.

    Args:
        side: where large evidence places the mean.
        threshold: in the metric's unit, strictly inside the scale.
        scale: of the metric.
        planned: the mean that the test is tuned for, on the claim's side; None: half-way to the scale's upper end for
            ABOVE; for BELOW as far below the threshold as the upper end is above it, at most half-way down.
        plan_capital: share of the capital on the plan, in (0, 1); None: most of it on a given plan, little on the
            default one.
    """

    side: Side
    threshold: float
    scale: BoundedScale = BINARY
    planned: float | None = None
    plan_capital: float | None = None

    def __post_init__(self) -> None:
        """Refuse a threshold at the scale's ends and a plan on the wrong side."""
        if not self.scale.low < self.threshold < self.scale.high:
            raise ValueError(
                f"threshold {self.threshold} must be strictly between {self.scale.low} and {self.scale.high}: "
                "at the ends one of the claims can never be refuted"
            )
        planned = self._unit_planned
        if not 0.0 <= planned <= 1.0 or self._sign * (planned - self._unit_threshold) <= 0.0:
            raise ValueError(
                f"planned mean {self.planned} is not {self.side} the threshold {self.threshold} on the scale: "
                "plan a mean for which the claim holds"
            )
        wealth.log_capital(self.capital)

    @property
    def _width(self) -> float:
        return self.scale.high - self.scale.low

    @property
    def _sign(self) -> float:
        return 1.0 if self.side is Side.ABOVE else -1.0

    @property
    def _unit_threshold(self) -> float:
        return (self.threshold - self.scale.low) / self._width

    @property
    def _unit_planned(self) -> float:
        if self.planned is not None:
            return (self.planned - self.scale.low) / self._width
        q = self._unit_threshold
        return q + (1.0 - q) / 2.0 if self.side is Side.ABOVE else max(q - (1.0 - q), q / 2.0)

    @property
    def capital(self) -> float:
        """The share of the capital on the plan, as given or by default."""
        if self.plan_capital is not None:
            return self.plan_capital
        return wealth.GUESS_CAPITAL if self.planned is None else wealth.PLAN_CAPITAL

    def start(self) -> MeanState:
        """The state before any data: log_e is 0."""
        return MeanState()

    def advance(self, state: MeanState, segment: Histogram) -> MeanState:
        """The state after one more segment of values.

        Raises:
            ValueError: when a bin is not on the scale.
        """
        values, counts = unit_arrays(self.scale, segment)
        sign, threshold = self._sign, self._unit_threshold
        worst = threshold if self.side is Side.ABOVE else 1.0 - threshold
        mean = _inside(self._unit_planned)
        planned = [(sign * (v - threshold), p) for v, p in wealth.two_point(mean, state.seen.spread)]
        bets = wealth.stakes(wealth.growth_optimal(planned, worst), worst)
        growth = wealth.log_growth(bets, sign * (values - threshold), counts)
        return MeanState(
            log_wealth=tuple((np.asarray(state.log_wealth) + growth).tolist()),
            seen=state.seen.plus(values, counts),
        )

    def log_e(self, state: MeanState) -> float:
        """Log evidence that the mean is on the claimed side of the threshold."""
        return wealth.log_mixture(wealth.log_capital(self.capital), state.log_wealth)

    def estimate(self, state: MeanState) -> float | None:
        """The mean of the values, in the metric's unit; None without data."""
        if not state.seen.count:
            return None
        return self.scale.low + self._width * state.seen.total / state.seen.count


def _inside(mean: float) -> float:
    return min(max(mean, 1e-6), 1.0 - 1e-6)
