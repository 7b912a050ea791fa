"""All allocation policies by the name that a spec gives them, and the one way to call them.

A policy wishes shares; limits are applied here, so that no policy can forget a floor.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np

from anabranch.bandit.policies.fixed import fixed_shares
from anabranch.bandit.policies.plain import plain_shares
from anabranch.bandit.policies.top_two import top_two_shares
from anabranch.bandit.policies.uniform import uniform_shares
from anabranch.bandit.spec import Algorithm
from anabranch.bandit.thompson import AllocationProblem
from anabranch.bandit.weights import limited_weights

Policy: TypeAlias = Callable[[AllocationProblem, np.random.Generator], dict[str, float]]


POLICIES: Final[Mapping[Algorithm, Policy]] = MappingProxyType(
    {
        Algorithm.THOMPSON: top_two_shares,
        Algorithm.PLAIN_THOMPSON: plain_shares,
        Algorithm.UNIFORM: uniform_shares,
        Algorithm.FIXED: fixed_shares,
    }
)


def allocate(
    problem: AllocationProblem, rng: np.random.Generator, *, algorithm: Algorithm = Algorithm.THOMPSON
) -> dict[str, float]:
    """The weights of the next epoch.

    Args:
        problem: what is known, and the limits.
        rng: source of randomness; derive its seed from the experiment and the decision's version.
        algorithm: which policy.

    Returns:
        Weight by arm, baseline first, summing to 1, within the limits.
    """
    return limited_weights(
        POLICIES[algorithm](problem, rng),
        baseline=problem.baseline.name,
        limits=problem.limits,
        previous=problem.previous,
    )


__all__ = ["POLICIES", "Algorithm", "Policy", "allocate"]
