"""Top-two Thompson sampling with constraints: half to who seems best, half to whoever might disprove it.

Each draw names a leader. Its challenger is the best arm of another draw that names a different one. Half of the share
goes to the leader. The other half goes where the doubt is: to the challenger when the objective separates them; when
feasibility does, half of that half goes to the baseline, which every feasibility contrast needs.

Source:
    Russo: Simple Bayesian algorithms for best-arm identification (Operations Research 2020), section 4 (top-two
    Thompson sampling); Shang et al. (AISTATS 2020), section 3 (T3C, the fallback by transportation cost); Yang, Gao,
    Gao (arXiv 2501.03877) for feasibility.
"""

import numpy as np

from anabranch.bandit.scales import FloatArray, IntArray
from anabranch.bandit.thompson import AllocationProblem, BoolArray, Draws, posterior_draws

LEADER_SHARE = 0.5


def top_two_shares(problem: AllocationProblem, rng: np.random.Generator) -> dict[str, float]:
    """Shares of leaders and challengers over joint posterior draws."""
    sample = posterior_draws(problem, rng)
    share = np.zeros(len(sample.names))
    for leader in np.unique(sample.best).tolist():
        own = np.flatnonzero(sample.best == leader)
        share[leader] += LEADER_SHARE * own.size
        rivals = np.flatnonzero(sample.best != leader)
        if rivals.size:
            share += _challenge(sample, leader, own, rng.choice(rivals, size=own.size))
        else:
            share += own.size * _nearest_challenge(sample, leader)
    share /= sample.best.size
    return dict(zip(sample.names, share.tolist(), strict=True))


def _challenge(sample: Draws, leader: int, own: IntArray, other: IntArray) -> FloatArray:
    """Sum of the challenge shares of paired draws: `own` names the leader, `other` somebody else."""
    rival = sample.best[other]
    leader_in_doubt: BoolArray = ~sample.feasible[other, leader] & (
        sample.scores[other, leader] >= sample.scores[other, rival]
    )
    rival_in_doubt: BoolArray = (
        ~leader_in_doubt
        & ~sample.feasible[own, rival]
        & (sample.scores[own, rival] > sample.scores[own, leader])
    )
    doubted = np.where(leader_in_doubt, leader, rival)
    contrast = leader_in_doubt | rival_in_doubt
    part = (1.0 - LEADER_SHARE) * np.where(contrast, 0.5, 1.0)
    share = np.asarray(np.bincount(doubted, weights=part, minlength=len(sample.names)), dtype=np.float64)
    share[0] += (1.0 - LEADER_SHARE) * 0.5 * contrast.sum()
    return share


def _nearest_challenge(sample: Draws, leader: int) -> FloatArray:
    """The challenge share of one draw when all draws agree: to the alternative that is cheapest to believe.

    An alternative costs the squared distance, in posterior standard deviations, of everything that would have to be
    different: the score of a slower rival, the slack of an infeasible rival, or the leader's own slack.
    """
    costs = np.full(len(sample.names), np.inf)
    in_doubt = np.zeros(len(sample.names), dtype=bool)
    for rival in range(len(sample.names)):
        if rival == leader:
            costs[rival] = _squared_distance(sample.slack[:, leader]) if leader else np.inf
            in_doubt[rival] = True
            continue
        slack_cost = _squared_distance(-sample.slack[:, rival]) if rival else 0.0
        costs[rival] = slack_cost + _squared_distance(sample.scores[:, leader] - sample.scores[:, rival])
        in_doubt[rival] = slack_cost > 0.0
    target = int(costs.argmin())
    share = np.zeros(len(sample.names))
    share[target] += (1.0 - LEADER_SHARE) * (0.5 if in_doubt[target] else 1.0)
    if in_doubt[target]:
        share[0] += (1.0 - LEADER_SHARE) * 0.5
    return share


def _squared_distance(gap: FloatArray) -> float:
    """Squared standardised distance of a positive gap from 0; 0 when the gap is not positive."""
    mean = float(gap.mean())
    if not 0.0 < mean < np.inf:
        return np.inf if mean > 0.0 else 0.0
    spread = float(gap.std())
    return (mean / spread) ** 2 if spread > 0.0 else np.inf
