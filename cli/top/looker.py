"""Takes the dashboard's looks at the store: rows of the list, and one experiment with its split and its log."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from anabranch.bandit.decision import Command, Verb
from anabranch.cli.connection import find_experiment
from anabranch.cli.decision_views import decision_views
from anabranch.cli.live import RATE_WINDOW_S
from anabranch.cli.loading import load_rows
from anabranch.cli.requests import check_possible, chosen_variant
from anabranch.cli.splits import splits_of
from anabranch.cli.story import current
from anabranch.cli.top.blocks import Look
from anabranch.cli.top.track import Track
from anabranch.cli.view_types import DecisionView, ExperimentRow, ExperimentView
from anabranch.cli.views import experiment_view, with_rates
from anabranch.store.control_plane import ControlPlane
from anabranch.store.document import parse
from anabranch.store.port import StoredDecision


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one look brought.

    Attributes:
        decisions: The log of the current spec version.
    """

    look: Look
    decisions: Sequence[DecisionView]


@dataclass(slots=True, kw_only=True)
class Looker:
    """Looks at one store for one person.

    Attributes:
        now: Seconds since 1970.
        actor: Who asks, for the audit log.
    """

    store: ControlPlane
    now: Callable[[], float]
    actor: str
    track: Track = field(default_factory=Track)
    _name: str = ""
    _recent: deque[ExperimentView] = field(default_factory=deque)
    _log: tuple[tuple[int, int], list[StoredDecision]] = ((0, -1), [])

    def rows(self) -> list[ExperimentRow]:
        """The list of experiments."""
        return load_rows(self.store, self.now())

    def look(self, name: str) -> Seen:
        """One look at one experiment.

        Raises:
            CommandFailed: If there is none of that name.
        """
        if name != self._name:
            self._name, self.track, self._log = name, Track(), ((0, -1), [])
            self._recent.clear()
        stored = find_experiment(self.store, name)
        # The log is read again only when there is more of it: it may be long.
        version = (stored.spec_version, stored.state.decisions)
        if version != self._log[0]:
            self._log = (version, self.store.decisions(name))
        decisions = self._log[1]
        view = experiment_view(
            stored, parse(stored.document), decisions, self.now(), requests=self.store.pending(name)
        )
        self.track.add(view)
        rated = self._rated(view)
        rows = decision_views(decisions)
        own = [row for row in rows if row.spec_version == stored.spec_version]
        return Seen(look=Look(view=rated, splits=splits_of(rated, own)), decisions=own or current(rated))

    def ask(self, name: str, verb: Verb, variant: str = "") -> Command:
        """Ask something of an experiment; the controller's next tick answers.

        Raises:
            CommandFailed: If it is not possible now; says what is.
        """
        stored = find_experiment(self.store, name)
        check_possible(stored, self.store.pending(name), verb, variant)
        chosen = chosen_variant(stored, verb, variant)
        return self.store.request(name, verb, chosen, self.actor, self.now())

    def _rated(self, view: ExperimentView) -> ExperimentView:
        while len(self._recent) > 1 and view.at_s - self._recent[1].at_s >= RATE_WINDOW_S:
            self._recent.popleft()
        rated = with_rates(view, self._recent[0]) if self._recent else view
        self._recent.append(view)
        return rated
