"""Load views from a store: the only place where reading verbs meet it."""

from __future__ import annotations

from collections.abc import Callable

from anabranch.cli.connection import find_experiment, naming_others
from anabranch.cli.decision_views import decision_views
from anabranch.cli.glances import glanced_row
from anabranch.cli.view_types import DecisionView, ExperimentRow, ExperimentView
from anabranch.store.control_plane import ReadPlane
from anabranch.store.sqlite_reader import SqliteReader


def load_rows(store: ReadPlane, now: float) -> list[ExperimentRow]:
    """The list of experiments, by name."""
    if isinstance(store, SqliteReader):
        try:
            return [glanced_row(glance, now) for glance in store.glances()]
        except (ValueError, KeyError, TypeError):
            pass  # Something is damaged: below it is checked, and said what.
    from anabranch.cli.row_views import experiment_row
    from anabranch.store.document import parse

    return [experiment_row(stored, parse(stored.document), now) for stored in store.experiments()]


def load_view(store: ReadPlane, name: str, now: float) -> ExperimentView:
    """Everything about one experiment.

    Raises:
        CommandFailed: If there is none of that name.
    """
    # Its intervals bring SciPy: lists and requests go without.
    from anabranch.cli.views import experiment_view
    from anabranch.store.document import parse

    stored = find_experiment(store, name)
    return experiment_view(
        stored, parse(stored.document), store.decisions(name), now, requests=store.pending(name)
    )


def load_decisions(store: ReadPlane, name: str) -> tuple[DecisionView, ...]:
    """The whole decision log of one experiment.

    Raises:
        CommandFailed: If there is none of that name.
    """
    with naming_others(store, name):
        return decision_views(store.decisions(name))


def view_loader(store: ReadPlane, name: str, now: Callable[[], float]) -> Callable[[], ExperimentView]:
    """What a dashboard calls for every look."""
    return lambda: load_view(store, name, now())
