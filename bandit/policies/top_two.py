"""Top-two Thompson sampling with constraints: measure the contrast that could overturn the current best.

Each draw names a leader. Its challenger is the best arm of another draw that names a different one. One contrast
separates the two draws, and its two arms share the traffic:

- the objective: leader and challenger;
- the leader's feasibility: leader and baseline;
- the challenger's feasibility: challenger and baseline. The leader would learn nothing here.

When all draws agree, the contrast is the one whose opposite is cheapest to believe.

Source:
    Russo: Simple Bayesian algorithms for best-arm identification (Operations Research 2020), section 4 (top-two
    Thompson sampling); Shang et al. (AISTATS 2020), section 3 (T3C, the fallback by transportation cost); Qin, You
    (arXiv 2310.19319): split by the information of the contrast, not by a fixed coin; Yang, Gao, Gao (arXiv
    2501.03877) for feasibility.
"""

import numpy as np

from anabranch.bandit.scales import FloatArray, IntArray
from anabranch.bandit.thompson import AllocationProblem, BoolArray, Draws, posterior_draws

BASELINE = 0


def top_two_shares(problem: AllocationProblem, rng: np.random.Generator) -> dict[str, float]:
    """Shares of the arms over the contrasts of joint posterior draws."""
    sample = posterior_draws(problem, rng)
    share = np.zeros(len(sample.names))
    for leader in np.unique(sample.best).tolist():
        own = np.flatnonzero(sample.best == leader)
        rivals = np.flatnonzero(sample.best != leader)
        if rivals.size:
            share += _contrasts(sample, leader, own, rng.choice(rivals, size=own.size))
        else:
            share += own.size * _nearest_contrast(sample, leader)
    share /= share.sum()
    return dict(zip(sample.names, share.tolist(), strict=True))


def _contrasts(sample: Draws, leader: int, own: IntArray, other: IntArray) -> FloatArray:
    """Summed shares of paired draws: `own` names the leader, `other` somebody else."""
    rival = sample.best[other]
    leader_in_doubt: BoolArray = ~sample.feasible[other, leader] & (
        sample.scores[other, leader] >= sample.scores[other, rival]
    )
    rival_in_doubt: BoolArray = (
        ~leader_in_doubt
        & ~sample.feasible[own, rival]
        & (sample.scores[own, rival] > sample.scores[own, leader])
    )
    first = np.where(rival_in_doubt, rival, leader)
    second = np.where(leader_in_doubt | rival_in_doubt, BASELINE, rival)
    arms = len(sample.names)
    return 0.5 * np.asarray(
        np.bincount(first, minlength=arms) + np.bincount(second, minlength=arms), dtype=np.float64
    )


def _nearest_contrast(sample: Draws, leader: int) -> FloatArray:
    """Shares of one draw when all draws agree on the leader.

    An opposite costs the squared distance, in posterior standard deviations, of everything that would have to be
    different: the score of a slower rival, the slack of an infeasible rival, or the leader's own slack.
    """
    best_cost, pair = np.inf, (leader, BASELINE)
    if leader != BASELINE:
        best_cost = _squared_distance(sample.slack[:, leader])
    for rival in range(len(sample.names)):
        if rival == leader:
            continue
        slower = _squared_distance(sample.scores[:, leader] - sample.scores[:, rival])
        infeasible = _squared_distance(-sample.slack[:, rival]) if rival != BASELINE else 0.0
        if slower + infeasible < best_cost:
            best_cost = slower + infeasible
            pair = (leader, rival) if slower >= infeasible else (rival, BASELINE)
    share = np.zeros(len(sample.names))
    share[list(pair)] += 0.5
    return share


def _squared_distance(gap: FloatArray) -> float:
    """Squared standardised distance of a positive gap from 0; 0 when the gap is not positive."""
    mean = float(gap.mean())
    if not 0.0 < mean < np.inf:
        return np.inf if mean > 0.0 else 0.0
    spread = float(gap.std())
    return (mean / spread) ** 2 if spread > 0.0 else np.inf
