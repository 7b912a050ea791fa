"""The overview over SQL: what has not changed since the last look is not read again."""

from __future__ import annotations

import threading

from sqlalchemy import Connection, func, select

from anabranch.bandit.decision import Command, Verb
from anabranch.store.overview import Overview
from anabranch.store.port import StoredExperiment
from anabranch.store.sql_rows import stored_experiment
from anabranch.store.tables import DELTA, EVENT, EXPERIMENT, MODEL


class OverviewReader:
    """Looks again and again at one database.

    Documents and states are long, and most of them are as they were a second ago: of each experiment its version is
    read, and the rest only where that has changed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[int, StoredExperiment] = {}

    def load(self, connection: Connection) -> Overview:
        """Look once, in an open transaction."""
        with self._lock:
            experiments = self._experiments(connection)
        pending: dict[str, list[Command]] = {}
        for row in connection.execute(select(EVENT).where(EVENT.c.pending).order_by("id")):
            pending.setdefault(row.experiment, []).append(
                Command(id=row.id, verb=Verb(row.verb), actor=row.actor, argument=row.detail)
            )
        baselines = connection.execute(select(MODEL.c.name, MODEL.c.baseline))
        return Overview(
            experiments=experiments,
            pending={name: tuple(asked) for name, asked in pending.items()},
            baselines={row.name: row.baseline for row in baselines},
            newest=_newest(connection, experiments),
        )

    def _experiments(self, connection: Connection) -> tuple[StoredExperiment, ...]:
        versions = {
            row.id: row.state_version
            for row in connection.execute(select(EXPERIMENT.c.id, EXPERIMENT.c.state_version))
        }
        changed = [
            key
            for key, version in versions.items()
            if key not in self._known or self._known[key].state_version != version
        ]
        if changed:
            rows = connection.execute(select(EXPERIMENT).where(EXPERIMENT.c.id.in_(changed)))
            self._known |= {row.id: stored_experiment(row) for row in rows}
        self._known = {key: kept for key, kept in self._known.items() if key in versions}
        return tuple(sorted(self._known.values(), key=lambda kept: kept.name))


def _newest(connection: Connection, experiments: tuple[StoredExperiment, ...]) -> dict[str, int]:
    going_on = [kept for kept in experiments if not kept.state.phase.is_over]
    if not going_on:
        return {}
    # Below the least place that anybody has read up to nothing is new: the table is not read from its start.
    least = min(max(kept.state.cursor, kept.first_delta) for kept in going_on)
    names = {kept.id: kept.name for kept in going_on}
    found = connection.execute(
        select(DELTA.c.experiment_id, func.max(DELTA.c.sequence).label("newest"))
        .where(DELTA.c.sequence > least)
        .group_by(DELTA.c.experiment_id)
    )
    return {names[row.experiment_id]: int(row.newest) for row in found if row.experiment_id in names}
