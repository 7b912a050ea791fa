"""Experiments as lines of a list; apart from the full view, whose intervals need SciPy."""

from __future__ import annotations

from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.spec import Experiment
from anabranch.cli.step_views import title
from anabranch.cli.view_types import ExperimentRow
from anabranch.store.port import StoredExperiment


def experiment_row(stored: StoredExperiment, experiment: Experiment, now: float) -> ExperimentRow:
    """One line of the list.

    Args:
        stored: What is kept.
        experiment: Its parsed document.
        now: Seconds since 1970.
    """
    state = stored.state
    begun = state.phase is not Phase.PENDING
    going = begun and not state.phase.is_over and state.phase is not Phase.INCONCLUSIVE
    inside = state.step < len(experiment.steps)
    return ExperimentRow(
        name=stored.name,
        model=experiment.model,
        phase=state.phase,
        step=min(state.step + 1, len(experiment.steps)) if begun else 0,
        steps=len(experiment.steps),
        step_name=title(experiment.steps[state.step]) if begun and inside else "",
        step_elapsed_s=max(0.0, now - state.step_started_s) if going else None,
        weights={arm: weight for arm, weight in state.weights.items() if weight > 0},
        live=len(state.live) if begun else len(experiment.candidates),
        candidates=len(experiment.candidates),
        winner=state.winner,
        age_s=max(0.0, now - stored.applied_s),
    )
