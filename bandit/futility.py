"""Is it still worth it? Evidence that a candidate does not reach the objective's planned benefit.

Waiting for a candidate that gains too little costs traffic that better ones could have. The evidence is the count
engine's, so it is used only while both arms stand still: dropping a candidate by mistake costs an opportunity, and has
its own error, but it must not happen because the load moved.
"""

from __future__ import annotations

import math

from anabranch.bandit import drift
from anabranch.bandit.betting import Claim
from anabranch.bandit.counts import CountContrast
from anabranch.bandit.drift import DriftState
from anabranch.bandit.fold import drift_key, higher_is_better
from anabranch.bandit.judge import log_e_ratio, odds, ratio_test
from anabranch.bandit.measures import scale_of
from anabranch.bandit.quantiles import RatioClaim
from anabranch.bandit.scales import Histogram, LogScale
from anabranch.bandit.spec import Experiment, Metric
from anabranch.bandit.state import ExperimentState, Totals


def is_quiet(state: ExperimentState, source: str, *arms: str) -> bool:
    """Whether all arms were watched and none was found to move: what count-based evidence assumes."""
    return all(drift.is_quiet(state.drift.get(drift_key(source, arm), DriftState())) for arm in arms)


def why_futile(experiment: Experiment, state: ExperimentState, candidate: str) -> str | None:
    """Why a candidate is not worth waiting for, or None while it may be."""
    metric = experiment.objective
    if metric is None or metric.planned_benefit is None:
        return None
    if not is_quiet(state, metric.source, candidate, experiment.baseline):
        return None
    evidence = _log_e_short(
        metric,
        state.totals.get(candidate, Totals()).split.get(metric.source, {}),
        state.totals.get(experiment.baseline, Totals()).split.get(metric.source, {}),
    )
    need = math.log(1.0 / experiment.futility_beta)
    if evidence < need:
        return None
    wanted = f"{metric.planned_benefit:.1%}" if metric.is_long_tailed else f"{metric.planned_benefit:g}"
    return f"{metric.name} does not gain {wanted} (evidence {odds(evidence)} ≥ {odds(need)})"


def _log_e_short(metric: Metric, mine: Histogram, base: Histogram) -> float:
    """Log evidence that the candidate's gain is below the planned benefit."""
    benefit = metric.planned_benefit
    assert benefit is not None
    if metric.is_long_tailed:
        return log_e_ratio(ratio_test(metric, RatioClaim.ABOVE, 1.0 - benefit), mine, base)
    scale = scale_of(metric)
    assert not isinstance(scale, LogScale)
    # That the baseline is less than the benefit behind is that the candidate gains less.
    test = CountContrast(claim=Claim.NON_INFERIORITY, scale=scale, margin=benefit)
    return test.log_e(higher_is_better(metric, base), higher_is_better(metric, mine))
