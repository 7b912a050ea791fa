"""Recompute what decisions rest on: fold the kept evidence again, judge it again, compare every verdict.

The evidence of a tick is kept before its decision is acted on, so the numbers of a decision follow from what is
in the store and from the code alone. What does not follow from it, when a person asked for what, is taken from
the decisions themselves.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from anabranch.bandit.decision import Change, Decision
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.fold import fold, test_key
from anabranch.bandit.judge import judge
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.spec import Experiment
from anabranch.bandit.state import ExperimentState
from anabranch.bandit.verdicts import Verdict

TOLERANCE = 1e-9
"""Relative difference of two numbers that count as equal: the order of a sum may change between releases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """What recomputing came to.

    Attributes:
        decisions: How many decisions were recomputed.
        verdicts: How many verdicts in them.
        folds: How many ticks brought evidence.
        difference: The first verdict that differs, in a sentence; empty when all are the same.
    """

    decisions: int
    verdicts: int
    folds: int
    difference: str = ""


def recompute(
    experiment: Experiment,
    decisions: Sequence[Decision],
    evidence: Sequence[Evidence],
    retries: Collection[int] = (),
) -> Recomputed:
    """Recompute the verdicts of every decision of one spec version.

    Args:
        experiment: The spec.
        decisions: All of them, in order.
        evidence: What every tick folded in, in order.
        retries: Ids of the requests that asked to begin again.
    """
    state = ExperimentState()
    folds = verdicts = 0
    for number, decision in enumerate(decisions, start=1):
        while folds < len(evidence) and evidence[folds].last <= decision.evidence_last:
            state = fold(experiment, state, evidence[folds])
            folds += 1
        if not state.phase.is_over:
            state = judge(experiment, state, decision.at_s)
        if retries and not retries_are_refused(decision) and set(retries) & set(decision.handled):
            state = ExperimentState(cursor=state.cursor)
        difference = _difference(decision, state)
        if difference:
            return Recomputed(decisions=number, verdicts=verdicts, folds=folds, difference=difference)
        verdicts += len(decision.verdicts)
        state = _after(experiment, state, decision)
    return Recomputed(decisions=len(decisions), verdicts=verdicts, folds=folds)


def retries_are_refused(decision: Decision) -> bool:
    """Whether a request to begin again was answered with no."""
    return any(
        action.change is Change.REFUSED and action.reason.startswith("retry ") for action in decision.actions
    )


def _after(experiment: Experiment, state: ExperimentState, decision: Decision) -> ExperimentState:
    """The state that the next fold meets: who is live, and whether it is over."""
    live = state.live
    if state.phase is Phase.PENDING and decision.phase not in (Phase.PENDING, Phase.ABORTED):
        live = experiment.candidates
    gone = {action.variant for action in decision.actions if action.change is Change.REMOVED}
    return replace(
        state, phase=decision.phase, live=tuple(candidate for candidate in live if candidate not in gone)
    )


def _difference(decision: Decision, state: ExperimentState) -> str:
    kept = {test_key(verdict.metric, verdict.variant): verdict for verdict in decision.verdicts}
    if kept.keys() != state.verdicts.keys():
        return (
            f"decision {decision.number} has {len(kept)} verdicts, the evidence gives {len(state.verdicts)}"
        )
    for key, verdict in kept.items():
        again = state.verdicts[key]
        for name, before, after in _numbers(verdict, again):
            if not _same(before, after):
                return (
                    f"decision {decision.number}: {name} of {verdict.metric} of {verdict.variant} "
                    f"was {before}, the evidence gives {after}"
                )
    return ""


def _numbers(kept: Verdict, again: Verdict) -> list[tuple[str, float | str | None, float | str | None]]:
    return [
        ("the outcome", kept.outcome.value, again.outcome.value),
        ("the number of samples", kept.samples, again.samples),
        ("the evidence for (log)", kept.log_e_pass, again.log_e_pass),
        ("the evidence against (log)", kept.log_e_fail, again.log_e_fail),
        ("the estimate", kept.estimate, again.estimate),
        ("the lower end", kept.low, again.low),
        ("the upper end", kept.high, again.high),
        ("the baseline", kept.baseline, again.baseline),
    ]


def _same(before: float | str | None, after: float | str | None) -> bool:
    if isinstance(before, str) or isinstance(after, str) or before is None or after is None:
        return before == after
    return before == after or math.isclose(before, after, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
