"""A canary judged by thresholds on interval averages: so many failed measurements and it is rolled back.

Source:
    The analysis of Argo Rollouts and Flagger: a success condition on each interval's average, and failureLimit, the
    number of failed measurements that is tolerated. A canary that survives `count` measurements is promoted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anabranch.bandit.rivals.two_arms import BoolArray
from anabranch.bandit.scales import FloatArray


@dataclass(slots=True)
class Thresholds:
    """The analysis in many runs.

    Attributes:
        least: The success rate that each interval must reach.
        failure_limit: Failed measurements that are tolerated.
        failed: Failed measurements so far, shape (runs,).
    """

    least: float
    failure_limit: int
    failed: npt.NDArray[np.int64]

    @classmethod
    def start(cls, runs: int, *, least: float, failure_limit: int = 3) -> Thresholds:
        """Begin all runs."""
        return cls(least=least, failure_limit=failure_limit, failed=np.zeros(runs, dtype=np.int64))

    def measure(self, good: FloatArray, seen: FloatArray) -> None:
        """One more interval of every run; an interval without requests is no measurement."""
        self.failed += (seen > 0) & (good < self.least * seen)

    @property
    def rolled_back(self) -> BoolArray:
        """Which runs have more failures than are tolerated."""
        result: BoolArray = self.failed > self.failure_limit
        return result
