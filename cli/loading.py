"""Load views from a store: the only place where reading verbs meet it."""

from __future__ import annotations

from collections.abc import Callable

from anabranch.cli.connection import find_experiment
from anabranch.cli.decision_views import decision_views
from anabranch.cli.row_views import experiment_row
from anabranch.cli.view_types import DecisionView, ExperimentRow, ExperimentView
from anabranch.store.control_plane import ControlPlane
from anabranch.store.document import parse


def load_rows(store: ControlPlane, now: float) -> list[ExperimentRow]:
    """The list of experiments, by name."""
    return [experiment_row(stored, parse(stored.document), now) for stored in store.experiments()]


def load_view(store: ControlPlane, name: str, now: float) -> ExperimentView:
    """Everything about one experiment.

    Raises:
        CommandFailed: If there is none of that name.
    """
    # Its intervals bring SciPy: lists and requests go without.
    from anabranch.cli.views import experiment_view

    stored = find_experiment(store, name)
    return experiment_view(
        stored, parse(stored.document), store.decisions(name), now, requests=store.pending(name)
    )


def load_decisions(store: ControlPlane, name: str) -> tuple[DecisionView, ...]:
    """The whole decision log of one experiment.

    Raises:
        CommandFailed: If there is none of that name.
    """
    find_experiment(store, name)
    return decision_views(store.decisions(name))


def view_loader(store: ControlPlane, name: str, now: Callable[[], float]) -> Callable[[], ExperimentView]:
    """What a dashboard calls for every look."""
    return lambda: load_view(store, name, now())
