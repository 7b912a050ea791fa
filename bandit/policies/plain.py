"""Plain Thompson sampling: each arm's share is its probability of being the best feasible one.

It earns well and learns slowly: it starves the arms that a decision must be made against. Prefer `top_two`.

Source:
    Thompson (Biometrika 1933).
"""

import numpy as np

from anabranch.bandit.thompson import AllocationProblem, probability_best


def plain_shares(problem: AllocationProblem, rng: np.random.Generator) -> dict[str, float]:
    """The posterior probability of being the best feasible arm."""
    return probability_best(problem, rng)
