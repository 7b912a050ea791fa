"""The view of an experiment: a pure function from what the store keeps to what people see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from anabranch.bandit.decision import Command, Decision
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.remaining import Remaining, remaining
from anabranch.bandit.spec import Experiment
from anabranch.bandit.state import ExperimentState
from anabranch.cli.arm_views import arm_views
from anabranch.cli.decision_views import decision_views
from anabranch.cli.step_views import step_views
from anabranch.cli.view_types import ArmView, ExperimentView, RequestView
from anabranch.cli.waiting import waiting_for
from anabranch.store.port import StoredDecision, StoredExperiment

DECISIONS_SHOWN = 50
"""How many of the last decisions a view of an experiment carries; `history` has all of them."""


def experiment_view(
    stored: StoredExperiment,
    experiment: Experiment,
    decisions: Sequence[StoredDecision],
    now: float,
    requests: Sequence[Command] = (),
) -> ExperimentView:
    """Everything about one experiment.

    Args:
        stored: What is kept.
        experiment: Its parsed document.
        decisions: All of its decisions, oldest first.
        now: Seconds since 1970.
        requests: What no decision has answered yet.
    """
    state = stored.state
    begun = state.phase is not Phase.PENDING
    run = _run(stored, decisions)
    stands_still = state.phase.is_over or state.phase is Phase.INCONCLUSIVE
    end = run[-1].at_s if stands_still and run else now
    elapsed_s = max(0.0, end - state.started_s) if begun else None
    # Traffic is counted on until the experiment is over.
    counted_s = elapsed_s if state.phase.is_over or not begun else now - state.started_s
    rows = decision_views(decisions)
    expected = _expected(experiment, state, counted_s)
    return ExperimentView(
        name=stored.name,
        model=experiment.model,
        baseline=experiment.baseline,
        phase=state.phase,
        is_over=state.phase.is_over,
        spec_version=stored.spec_version,
        unit=experiment.unit_metadata,
        objective=None if experiment.objective is None else experiment.objective.name,
        delta=experiment.delta,
        rollback_delta=experiment.rollback_delta,
        at_s=now,
        applied_s=stored.applied_s,
        age_s=max(0.0, now - stored.applied_s),
        elapsed_s=elapsed_s,
        step=min(state.step + 1, len(experiment.steps)) if begun else 0,
        steps=step_views(experiment, state, run, end),
        mirror=state.mirror,
        winner=state.winner,
        arms=arm_views(experiment, state, counted_s, expected),
        waiting_for=waiting_for(experiment, state, now, expected),
        requests=tuple(
            RequestView(verb=command.verb, argument=command.argument, actor=command.actor)
            for command in requests
        ),
        decisions=rows[-DECISIONS_SHOWN:],
        decisions_total=len(rows),
    )


def with_rates(view: ExperimentView, earlier: ExperimentView) -> ExperimentView:
    """The view with its request rates taken over the time since an earlier one of the same run."""
    span_s = view.at_s - earlier.at_s
    before = {arm.name: arm.requests for arm in earlier.arms}
    if span_s <= 0 or view.spec_version != earlier.spec_version:
        return view

    def rated(arm: ArmView) -> ArmView:
        served = arm.requests - before.get(arm.name, 0)
        return arm if served < 0 else replace(arm, requests_per_s=served / span_s)

    return replace(view, arms=tuple(rated(arm) for arm in view.arms))


def _expected(
    experiment: Experiment, state: ExperimentState, counted_s: float | None
) -> dict[str, Remaining]:
    """When open claims may pass, at the rate of requests since the start."""
    if not state.phase.is_moving or not counted_s:
        return {}
    served = sum(totals.requests for totals in state.totals.values())
    return remaining(experiment, state, served / counted_s)


def _run(stored: StoredExperiment, decisions: Sequence[StoredDecision]) -> list[Decision]:
    """The decisions since the experiment was last started."""
    state: ExperimentState = stored.state
    return [
        kept.decision
        for kept in decisions
        if kept.spec_version == stored.spec_version and kept.decision.at_s >= state.started_s
    ]
