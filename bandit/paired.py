"""Paired tests on mirrored requests, and their union with the split into one test.

A mirrored request is answered by the variant and by the baseline, so its outcome is a difference d = y_v - y_c on the
same input. Most differences are 0, which makes a paired test several times cheaper than a split of the same size, and
whatever drifts does so for both.

Source:
    Betting as in `wealth`; for binary outcomes this is an anytime-valid McNemar test.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from anabranch.bandit import wealth
from anabranch.bandit.betting import Claim, ContrastState
from anabranch.bandit.moments import NO_MOMENTS, ArmMoments
from anabranch.bandit.scales import FloatArray, GridScale, Histogram, unit_arrays

# Differences of two binary outcomes: bins 0, 1, 2 are -1, 0, +1.
BINARY_DIFFERENCES: Final = GridScale(low=-1.0, high=1.0, bins=3)

_PRIOR_PAIRS = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedState:
    """Where a PairedTest stands: one log wealth per gambler, and the sums of the differences (in units of the width)."""

    log_wealth: tuple[float, ...] = wealth.START
    seen: ArmMoments = NO_MOMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """An e-process on the mean difference variant - baseline over mirrored requests.

    Valid for the pointwise null, under any drift: the difference of each pair has, given the past, a mean on the
    null's side.

    Args:
        claim: what large evidence says.
        scale: of the differences, symmetric around 0.
        margin: tolerated deficit, in the metric's unit, at least 0; 0 for SUPERIORITY.
        planned_effect: the mean difference that the test is tuned for, in the metric's unit; None: as in ContrastTest.
        planned_discordance: a guess of the mean squared difference, as a share of the squared largest one; for
            binary outcomes the share of pairs that differ. Used until there is data.
        plan_capital: share of the capital on the plan, in (0, 1). None: most of it where the plan was given or follows
            from the claim, little where the size of an effect is anybody's guess.
    """

    claim: Claim
    scale: GridScale = BINARY_DIFFERENCES
    margin: float = 0.0
    planned_effect: float | None = None
    planned_discordance: float = 0.05
    plan_capital: float | None = None

    def __post_init__(self) -> None:
        """Refuse a scale that is not one of differences and a plan that contradicts the claim."""
        if self.scale.low != -self.scale.high or self.scale.bins % 2 == 0:
            raise ValueError(
                f"differences lie on a scale symmetric around 0 with an odd number of bins, not on "
                f"[{self.scale.low}, {self.scale.high}] with {self.scale.bins}: mirror the low end"
            )
        if not 0.0 <= self.margin < self.scale.high:
            raise ValueError(f"margin {self.margin} must be at least 0 and below {self.scale.high}")
        if self.claim is Claim.SUPERIORITY and self.margin != 0.0:
            raise ValueError(
                f"margin {self.margin} given with a superiority claim: leave it 0 or claim non-inferiority"
            )
        if not 0.0 < self.planned_discordance <= 1.0:
            raise ValueError(f"planned discordance {self.planned_discordance} must be above 0 and at most 1")
        if not self._sign * (self._effect + self._margin) > 0.0:
            raise ValueError(
                f"planned effect {self.planned_effect} with margin {self.margin} makes the claim "
                f"{self.claim} false: plan an effect for which the claim holds"
            )
        wealth.log_capital(self.capital)

    @property
    def _margin(self) -> float:
        return self.margin / self.scale.high

    @property
    def _sign(self) -> float:
        return -1.0 if self.claim is Claim.HARM else 1.0

    @property
    def _effect(self) -> float:
        if self.planned_effect is not None:
            return self.planned_effect / self.scale.high
        match self.claim:
            case Claim.NON_INFERIORITY:
                return 0.0
            case Claim.SUPERIORITY:
                return 0.02
            case Claim.HARM:
                return -2.0 * self._margin if self._margin else -0.02

    @property
    def capital(self) -> float:
        """The share of the capital on the plan, as given or by default."""
        if self.plan_capital is not None:
            return self.plan_capital
        guessed = self.planned_effect is None and self.claim is not Claim.NON_INFERIORITY
        return wealth.GUESS_CAPITAL if guessed else wealth.PLAN_CAPITAL

    def start(self) -> PairedState:
        """The state before any data: log_e is 0."""
        return PairedState()

    def advance(self, state: PairedState, segment: Histogram) -> PairedState:
        """The state after one more segment of differences.

        Args:
            state: the state after all earlier segments.
            segment: counts of the differences on the test's scale.

        Raises:
            ValueError: when a bin is not on the scale.
        """
        units, counts = unit_arrays(self.scale, segment)
        differences = 2.0 * units - 1.0
        growth = wealth.log_growth(self._stakes(state), self._sign * (differences + self._margin), counts)
        return PairedState(
            log_wealth=tuple((np.asarray(state.log_wealth) + growth).tolist()),
            seen=state.seen.plus(differences, counts),
        )

    def log_e(self, state: PairedState) -> float:
        """Log evidence for the claim; the claim is decided at error alpha when it reaches ln(1/alpha)."""
        return wealth.log_mixture(wealth.log_capital(self.capital), state.log_wealth)

    def estimate(self, state: PairedState) -> float | None:
        """The mean difference variant - baseline, in the metric's unit; None without data."""
        return state.seen.total / state.seen.count * self.scale.high if state.seen.count else None

    def _stakes(self, state: PairedState) -> FloatArray:
        discordance = (_PRIOR_PAIRS * self.planned_discordance + state.seen.squares) / (
            _PRIOR_PAIRS + state.seen.count
        )
        discordance = min(max(discordance, abs(self._effect), 1e-6), 1.0)
        sign, margin = self._sign, self._margin
        planned = [
            (sign * (margin - 1.0), (discordance - self._effect) / 2.0),
            (sign * margin, 1.0 - discordance),
            (sign * (margin + 1.0), (discordance + self._effect) / 2.0),
        ]
        worst = 1.0 - sign * margin
        return wealth.stakes(wealth.growth_optimal(planned, worst), worst)


def combined_log_e(
    states: Sequence[ContrastState | PairedState], *, plan_capital: float = wealth.PLAN_CAPITAL
) -> float:
    """Log evidence of several tests of the same claim, on disjoint requests, as one test.

    Gambler j of the union carries its wealth from every test, so the factors of all requests multiply inside one
    mixture: nothing is lost to splitting the error. All tests must make the same claim about the same metric with
    the same margin, and a request may feed one of them only: a mirrored request that has a paired outcome is left
    out of the split.

    Args:
        states: of the tests, in any order.
        plan_capital: share of the capital on the plan, fixed before the data: `capital` of one of the tests.

    Raises:
        ValueError: when there are no states, or states of different mixtures.
    """
    sizes = {len(state.log_wealth) for state in states}
    if sizes != {wealth.GAMBLERS}:
        raise ValueError(
            f"states with {sorted(sizes)} gamblers given, all need {wealth.GAMBLERS}: combine fresh states"
        )
    total = np.sum([state.log_wealth for state in states], axis=0)
    return wealth.log_mixture(wealth.log_capital(plan_capital), total)
