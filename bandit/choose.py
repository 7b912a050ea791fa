"""Who leads, who has won, and what is still open: the choice among candidates that the tests allow."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from anabranch.bandit.betting import Claim, ContrastTest
from anabranch.bandit.fold import log_e_sample_ratio, test_key
from anabranch.bandit.judge import log_e_ratio, log_need_pass, odds, ratio_test
from anabranch.bandit.measures import log_scale_of, scale_of
from anabranch.bandit.quantiles import RatioClaim, quantile
from anabranch.bandit.scales import Histogram, LogScale, total_of
from anabranch.bandit.spec import BanditStep, Direction, Experiment, Metric
from anabranch.bandit.srm import BLOCK_LOG_E
from anabranch.bandit.state import ExperimentState, Totals
from anabranch.bandit.verdicts import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Winner:
    """A candidate that may be promoted, and why."""

    variant: str
    reason: str


def objective_values(state: ExperimentState, metric: Metric, arm: str) -> Histogram:
    """An arm's outcomes of the objective, from when it ran beside the others."""
    return state.totals.get(arm, Totals()).split.get(metric.source, {})


def open_claims(experiment: Experiment, state: ExperimentState, candidate: str) -> list[str]:
    """Names of the guardrails and of the objective that have not passed."""
    asked = [*experiment.guardrails, *([experiment.objective] if experiment.objective else [])]
    return [
        metric.name
        for metric in asked
        if (verdict := state.verdicts.get(test_key(metric.name, candidate))) is None
        or verdict.outcome is not Outcome.PASS
    ]


def leader(experiment: Experiment, state: ExperimentState, among: Iterable[str]) -> str | None:
    """The candidate with the best estimate of the objective; without one or without data, the first."""
    candidates = list(among)
    metric = experiment.objective
    if metric is None or not candidates:
        return candidates[0] if candidates else None
    return min(candidates, key=lambda candidate: _cost(state, metric, candidate))


def sound_leader(experiment: Experiment, state: ExperimentState) -> str | None:
    """The leader of the live candidates that have passed everything they were asked.

    Nobody leads while units do not arrive as the weights say: every comparison is suspect then.
    """
    if ratio_doubt(experiment, state):
        return None
    return leader(experiment, state, [c for c in state.live if not open_claims(experiment, state, c)])


def ratio_doubt(experiment: Experiment, state: ExperimentState) -> str:
    """Why every comparison is suspect: a proven sample ratio mismatch, which holds promotions; empty without one."""
    evidence = log_e_sample_ratio(experiment, state)
    if evidence < BLOCK_LOG_E:
        return ""
    return f"units do not arrive as the weights say (evidence {odds(evidence)} ≥ {odds(BLOCK_LOG_E)})"


def winner(
    experiment: Experiment, state: ExperimentState, step: BanditStep, *, is_last_call: bool
) -> Winner | None:
    """The candidate that ends a bandit step, if there is one.

    A winner has passed every guardrail and is proven better than the baseline. Before the step's last call it
    must also be proven no more than the step's tolerance behind every other live candidate. Each proof has the
    error delta / candidates, so that a wrong winner has at most delta in all.
    """
    best = sound_leader(experiment, state)
    metric = experiment.objective
    if best is None or metric is None:
        return None
    verdict = state.verdicts[test_key(metric.name, best)]
    rivals = [candidate for candidate in state.live if candidate != best]
    better = f"{best} passes every guardrail and {verdict.reason}"
    if not rivals:
        return Winner(variant=best, reason=f"{better}; no other candidate is left")
    need = log_need_pass(experiment)
    behind = {rival: _log_e_no_worse(state, metric, best, rival, step.tolerance) for rival in rivals}
    weakest = min(rivals, key=lambda rival: behind[rival])
    if behind[weakest] >= need:
        return Winner(
            variant=best,
            reason=f"{better}; and no other candidate is more than {step.tolerance:.0%} better "
            f"(weakest evidence {odds(behind[weakest])} ≥ {odds(need)}, against {weakest})",
        )
    if is_last_call:
        return Winner(
            variant=best,
            reason=f"{better}; it leads at the end of the step, though {weakest} is not proven to be behind",
        )
    return None


def rival_key(best: str, rival: str) -> str:
    """The key of the test of a leader against a rival."""
    return f"{best}>{rival}"


def rival_test(metric: Metric, tolerance: float) -> ContrastTest:
    """The test that a leader is at most the tolerance behind; not for latencies.

    Args:
        metric: the objective.
        tolerance: a share of the metric's range, above 0.
    """
    scale = scale_of(metric)
    assert not isinstance(scale, LogScale)
    margin = tolerance * (scale.high - scale.low)
    return ContrastTest(claim=Claim.NON_INFERIORITY, scale=scale, margin=margin)


def _cost(state: ExperimentState, metric: Metric, candidate: str) -> tuple[float, float]:
    """Lower is better; the mean breaks ties between equal quantiles."""
    values = objective_values(state, metric, candidate)
    if not total_of(values):
        return math.inf, math.inf
    scale = scale_of(metric)
    total = total_of(values)
    mean = sum(min(scale.value_of(index), 1e12) * count for index, count in values.items()) / total
    if metric.is_long_tailed:
        tau = metric.statistic.quantile
        assert tau is not None
        at = quantile(log_scale_of(metric), values, tau)
        return (math.inf if at is None else at), mean
    return (mean if metric.direction is Direction.MIN else -mean), 0.0


def _log_e_no_worse(state: ExperimentState, metric: Metric, best: str, rival: str, tolerance: float) -> float:
    """Log evidence that the best is at most the tolerance behind a rival."""
    if not metric.is_long_tailed:
        running = state.rivals.get(rival_key(best, rival))
        return 0.0 if running is None else rival_test(metric, tolerance).log_e(running)
    test = ratio_test(metric, RatioClaim.BELOW, 1.0 + tolerance)
    return log_e_ratio(test, objective_values(state, metric, best), objective_values(state, metric, rival))
