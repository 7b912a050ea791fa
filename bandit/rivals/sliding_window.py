"""Sliding-window Thompson sampling for Bernoulli arms: posteriors of the last so many epochs only.

Source:
    Trovò, Paladino, Restelli, Gatti: Sliding-window Thompson sampling for non-stationary settings (JAIR 2020).
"""

from __future__ import annotations

from collections import deque

import numpy as np

from anabranch.bandit.scales import FloatArray, IntArray

_DRAWS = 64


class SlidingWindow:
    """The policy in many runs at once.

    Args:
        runs: how many.
        floors: least weight of every arm, shape (arms,).
        window: epochs that are remembered.
    """

    def __init__(self, runs: int, floors: FloatArray, window: int) -> None:
        """Begin without data."""
        self._floors = floors
        self._kept: deque[tuple[IntArray, IntArray]] = deque(maxlen=window)
        self._runs = runs

    def weights(self, rng: np.random.Generator) -> FloatArray:
        """The next epoch's weights: probabilities of being the best above the floors, shape (runs, arms)."""
        arms = self._floors.size
        good, bad = np.ones((self._runs, arms)), np.ones((self._runs, arms))
        for hits, size in self._kept:
            good += hits
            bad += size - hits
        best = rng.beta(good, bad, size=(_DRAWS, self._runs, arms)).argmax(axis=2)
        share = np.stack([(best == arm).mean(axis=0) for arm in range(arms)], axis=1)
        result: FloatArray = self._floors + (1.0 - self._floors.sum()) * share
        return result

    def learn(self, good: IntArray, seen: IntArray) -> None:
        """One epoch's outcomes, shape (runs, arms) each; the oldest epoch is forgotten."""
        self._kept.append((good, seen))
