"""Gather what a report tells from the store: the experiment, its log, its past computed again, and its plots."""

from __future__ import annotations

import math
import platform
from importlib import metadata

from anabranch.bandit.decision import Change
from anabranch.bandit.tracing import Moment, trace
from anabranch.cli.connection import find_experiment
from anabranch.cli.decision_views import decision_views
from anabranch.cli.plots.figures import figures_of
from anabranch.cli.reports.page import Story, verdict_rows
from anabranch.cli.splits import splits_of
from anabranch.cli.views import experiment_view
from anabranch.store.control_plane import ReadPlane
from anabranch.store.document import parse
from anabranch.store.port import StoredDecision

MOST_TICKS = 20_000
"""Of a longer experiment the plots show what the decisions kept: folding every tick again would take minutes."""


def tell(store: ReadPlane, name: str, now: float) -> Story:
    """The story of one experiment.

    Raises:
        CommandFailed: If there is none of that name.
    """
    stored = find_experiment(store, name)
    experiment = parse(stored.document)
    kept = store.decisions(name)
    own = [each for each in kept if each.spec_version == stored.spec_version]
    view = experiment_view(stored, experiment, kept, now)
    rows = decision_views(own)
    until_s = stored.state.started_s + (view.elapsed_s or 0.0)
    log = store.evidence_log(name)
    decisions = [each.decision for each in own]
    moments = (
        trace(experiment, stored.first_delta, decisions, log, until_s=until_s)
        if len(log) <= MOST_TICKS
        else _kept_moments(own)
    )
    splits = splits_of(view, rows)
    return Story(
        view=view,
        decisions=rows,
        verdicts_at={each.decision.number: verdict_rows(each.decision, _multiple) for each in own},
        document=stored.document,
        figures=figures_of(view, experiment, splits, moments),
        versions={
            "anabranch": metadata.version("anabranch"),
            "Python": platform.python_version(),
            "numpy": metadata.version("numpy"),
            "scipy": metadata.version("scipy"),
        },
        head=own[-1].hash if own else "",
    )


def _kept_moments(decisions: list[StoredDecision]) -> list[Moment]:
    """What the decisions themselves kept: their verdicts, without what is needed for a posterior."""
    from anabranch.bandit.fold import test_key
    from anabranch.bandit.state import ExperimentState

    found: list[Moment] = []
    for kept in decisions:
        decision = kept.decision
        if any(action.change is Change.RESTARTED for action in decision.actions):
            found = []
        verdicts = {test_key(verdict.metric, verdict.variant): verdict for verdict in decision.verdicts}
        state = ExperimentState(weights=dict(decision.weights), verdicts=verdicts)
        found.append(Moment(at_s=decision.at_s, state=state))
    return found


def _multiple(log_evidence: float) -> str:
    return f"{math.exp(log_evidence):,.3g}" if log_evidence < 13.8 else "over 1,000,000"
