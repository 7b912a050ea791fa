"""Leader against rival: evidence that a bandit's leader is not too far behind any other candidate.

For an objective that is no latency the proof is the same as against the baseline: a betting test on the split's
pseudo-outcomes, which only trusts the router's coin. A test is begun when its candidate leads for the first time, which
depends on the past only, and then goes on for good.
"""

from __future__ import annotations

from dataclasses import replace

from anabranch.bandit.choose import leader, rival_key, rival_test
from anabranch.bandit.evidence import Evidence, merge_cells
from anabranch.bandit.fold import contrast_cells, seen_outcomes
from anabranch.bandit.spec import Experiment
from anabranch.bandit.state import ExperimentState


def follow_rivals(
    experiment: Experiment, before: ExperimentState, state: ExperimentState, evidence: Evidence
) -> ExperimentState:
    """The state with the tests of the leader against its rivals advanced.

    Args:
        experiment: what was asked for.
        before: the state before the evidence: who leads is read there.
        state: the state to return, with the evidence folded in.
        evidence: new outcomes.
    """
    metric, step = experiment.objective, experiment.bandit
    if metric is None or step is None or metric.is_long_tailed or evidence.is_empty or len(state.live) < 2:
        return state
    if not step.tolerance > 0.0:
        return state
    best = leader(experiment, before, before.live)
    begun = {rival_key(best, rival): (best, rival) for rival in before.live if rival != best} if best else {}
    pairs = {(one, other) for one in state.live for other in state.live if one != other}
    running = {rival_key(*pair): pair for pair in pairs if rival_key(*pair) in before.rivals} | begun
    seen = seen_outcomes(metric, before, replace(evidence, cells=merge_cells(evidence.cells)))
    if seen is None:
        return state
    test = rival_test(metric, step.tolerance)
    rivals = {
        key: test.advance(before.rivals.get(key, test.start()), contrast_cells(test, rival, one, seen))
        for key, (one, rival) in sorted(running.items())
    }
    return replace(state, rivals=rivals)
