"""An experiment's past, computed again from its kept evidence: the state at moments between its decisions too.

A decision keeps its verdicts. What the estimates and posteriors were in between follows from the same evidence by the same
pure code, so pictures over time show what was used, and no second account of it.

What a tick folded is kept in order but without its time: between two decisions the ticks are spread evenly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from anabranch.bandit.decision import Change, Decision
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.fold import fold
from anabranch.bandit.judge import judge
from anabranch.bandit.recent import remember
from anabranch.bandit.spec import Experiment
from anabranch.bandit.state import ExperimentState


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """How an experiment stood.

    Attributes:
        at_s: Seconds since 1970; between decisions, about.
        state: What evidence and verdicts were then; which step it was in is not told.
    """

    at_s: float
    state: ExperimentState


def trace(
    experiment: Experiment,
    first_delta: int,
    decisions: Sequence[Decision],
    log: Iterable[Evidence],
    *,
    until_s: float,
    most: int = 60,
) -> list[Moment]:
    """The moments of the last run, oldest first: every decision, and about `most` evenly spread ones.

    Args:
        experiment: What was asked for.
        first_delta: Evidence up to this delta belongs to an earlier spec version.
        decisions: Of this spec version, oldest first.
        log: What the ticks folded in, oldest first.
        until_s: When the last evidence came, at the latest.
        most: About how many moments between decisions.
    """
    if not decisions:
        return []
    rows = list(log)
    began_s = _began_s(decisions)
    apart_s = max(until_s - began_s, 1e-9) / most
    moments: list[Moment] = []
    state = ExperimentState(cursor=first_delta, live=())
    before_s, place = decisions[0].at_s, 0
    for decision in [*decisions, None]:
        last = place
        while last < len(rows) and (decision is None or rows[last].last <= decision.evidence_last):
            last += 1
        after_s = until_s if decision is None else decision.at_s
        for number, row in enumerate(rows[place:last], start=1):
            at_s = before_s + (after_s - before_s) * number / max(last - place, 1)
            state = remember(experiment, fold(experiment, state, row), row, at_s)
            if not moments or at_s - moments[-1].at_s >= apart_s:
                moments.append(Moment(at_s=at_s, state=judge(experiment, state, at_s)))
        if decision is None:
            break
        if any(action.change is Change.RESTARTED for action in decision.actions):
            state, moments = ExperimentState(cursor=state.cursor, live=()), []
        state = _obeyed(experiment, judge(experiment, state, decision.at_s), decision)
        moments.append(Moment(at_s=decision.at_s, state=state))
        before_s, place = decision.at_s, last
    return moments


def _began_s(decisions: Sequence[Decision]) -> float:
    restarts = [
        decision.at_s
        for decision in decisions
        if any(action.change is Change.RESTARTED for action in decision.actions)
    ]
    return restarts[-1] if restarts else decisions[0].at_s


def _obeyed(experiment: Experiment, state: ExperimentState, decision: Decision) -> ExperimentState:
    """The state with what a decision changed and what is shown of it."""
    removed = {action.variant for action in decision.actions if action.change is Change.REMOVED}
    live = state.live or experiment.candidates
    return replace(
        state,
        phase=decision.phase,
        epoch=decision.epoch,
        weights=dict(decision.weights),
        live=tuple(name for name in live if name not in removed),
    )
