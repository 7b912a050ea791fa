"""Counts of two arms of a binary metric in many runs: what every published two-arm rule is a function of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anabranch.bandit.scales import FloatArray

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoArms:
    """Cumulative successes and trials, all of shape (runs,)."""

    good_v: FloatArray
    seen_v: FloatArray
    good_c: FloatArray
    seen_c: FloatArray

    @property
    def difference(self) -> FloatArray:
        """Pooled mean of the variant minus that of the baseline; 0 without data."""
        result: FloatArray = self.good_v / np.maximum(self.seen_v, 1.0) - self.good_c / np.maximum(
            self.seen_c, 1.0
        )
        return result

    @property
    def squared_error(self) -> FloatArray:
        """Plug-in variance of the difference: 0 while no arm has seen both outcomes."""
        p_v = self.good_v / np.maximum(self.seen_v, 1.0)
        p_c = self.good_c / np.maximum(self.seen_c, 1.0)
        result: FloatArray = p_v * (1.0 - p_v) / np.maximum(self.seen_v, 1.0) + p_c * (
            1.0 - p_c
        ) / np.maximum(self.seen_c, 1.0)
        return result

    def enough(self, least: int) -> BoolArray:
        """Whether both arms have the rule's minimum sample."""
        result: BoolArray = (self.seen_v >= least) & (self.seen_c >= least)
        return result
