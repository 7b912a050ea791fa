"""Keep the split: the weights of the epoch before, over the arms that are still alive."""

import numpy as np

from anabranch.bandit.policies.uniform import uniform_shares
from anabranch.bandit.thompson import AllocationProblem


def fixed_shares(problem: AllocationProblem, rng: np.random.Generator) -> dict[str, float]:
    """The previous weights, scaled to the live arms; equal shares when there are none."""
    kept = {arm.name: problem.previous.get(arm.name, 0.0) for arm in problem.arms}
    total = sum(kept.values())
    return (
        {name: weight / total for name, weight in kept.items()}
        if total > 0.0
        else uniform_shares(problem, rng)
    )
