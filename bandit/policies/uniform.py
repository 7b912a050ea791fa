"""Equal shares: the strongest simple design, and what two arms need anyway."""

import numpy as np

from anabranch.bandit.thompson import AllocationProblem


def uniform_shares(problem: AllocationProblem, _rng: np.random.Generator) -> dict[str, float]:
    """The same share for the baseline and every candidate."""
    return {arm.name: 1.0 / len(problem.arms) for arm in problem.arms}
