"""Sample ratio mismatch: do the units arrive in the arms as the weights say, while the weights change?

A variant that loses units (crashes before logging, a cache, a redirect) makes every comparison biased. The test mixes
over tilts of each arm's odds, d: under a tilt an arm with weight w receives the share w e^d / (1 - w + w e^d). The
likelihood ratio against the weights is multiplied over epochs, so changing weights, ramps and bandits are no problem;
the average over tilts and arms is an e-process.

Count randomisation units at their first assignment, not requests.

Source:
    Lindon, Malek: Anytime-valid inference for multinomial count data (NeurIPS 2022, arXiv 2011.03567), with odds tilts
    in place of the Dirichlet so that weights may change.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anabranch.bandit.scales import FloatArray

ALERT_LOG_E = math.log(1 / 0.01)
BLOCK_LOG_E = math.log(1 / 0.001)

_TILTS: FloatArray = np.linspace(-0.5, 0.5, 40)
_LOG_PRIOR: FloatArray = -0.5 * (_TILTS / 0.12) ** 2 - math.log(
    float(np.exp(-0.5 * (_TILTS / 0.12) ** 2).sum())
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitCell:
    """Units first assigned in one epoch.

    Args:
        weights: the epoch's weights by arm, summing to 1.
        units: newly assigned units by arm; arms left out had none.
    """

    weights: Mapping[str, float]
    units: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SrmState:
    """Where the test stands: by arm and tilt the log likelihood ratio against the weights."""

    log_ratios: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SrmTest:
    """An e-process against "units arrive as the weights say".

    Args:
        arms: names of all arms of the experiment, two or more.
    """

    arms: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse fewer than two arms and names given twice."""
        if len(self.arms) < 2 or len(set(self.arms)) != len(self.arms):
            raise ValueError(f"arms {list(self.arms)} must be two or more different names")

    def start(self) -> SrmState:
        """The state before any units: log_e is 0."""
        return SrmState(log_ratios=((0.0,) * _TILTS.size,) * len(self.arms))

    def advance(self, state: SrmState, segment: Sequence[UnitCell]) -> SrmState:
        """The state after more units; order and grouping of the cells do not matter.

        Units in an arm of weight 0, or outside an arm of weight 1, are proof of a mismatch: the evidence is then
        infinite.

        Raises:
            ValueError: when weights do not sum to 1 or an arm is unknown.
        """
        ratios = np.array(state.log_ratios)
        for cell in segment:
            self._check(cell)
            total = sum(cell.units.values())
            for row, arm in enumerate(self.arms):
                ratios[row] += _log_ratio(cell.weights.get(arm, 0.0), cell.units.get(arm, 0), total)
        return SrmState(log_ratios=tuple(tuple(row) for row in ratios.tolist()))

    def log_e(self, state: SrmState) -> float:
        """Log evidence of a mismatch: alert at ALERT_LOG_E, block a promotion at BLOCK_LOG_E."""
        terms = np.array(state.log_ratios) + _LOG_PRIOR
        top = float(terms.max())
        if math.isinf(top):
            return top
        return top + math.log(float(np.exp(terms - top).sum()) / len(self.arms))

    def _check(self, cell: UnitCell) -> None:
        unknown = sorted((set(cell.units) | set(cell.weights)) - set(self.arms))
        if unknown:
            raise ValueError(f"arms {unknown} are not in the test, which knows {list(self.arms)}")
        total = sum(cell.weights.values())
        if abs(total - 1.0) > 1e-6 or min(cell.weights.values()) < 0.0:
            raise ValueError(
                f"weights {dict(cell.weights)} sum to {total:g}, must be at least 0 and sum to 1"
            )
        if min(cell.units.values(), default=0) < 0:
            raise ValueError(f"units {dict(cell.units)} must not be negative")


def _log_ratio(weight: float, inside: int, total: int) -> FloatArray:
    if weight <= 0.0 or weight >= 1.0:
        expected = 0 if weight <= 0.0 else total
        return np.full(_TILTS.size, 0.0 if inside == expected else math.inf)
    normaliser = np.log1p(weight * np.expm1(_TILTS))
    ratio: FloatArray = inside * _TILTS - total * normaliser
    return ratio
