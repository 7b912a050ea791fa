"""Keeping a database small."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Table,
    and_,
    delete,
    func,
    literal_column,
    or_,
    select,
)

from anabranch.store import codec
from anabranch.store.engine import READS
from anabranch.store.lease import Lease
from anabranch.store.sql_replicas import database_clock, renew
from anabranch.store.tables import DECISION, DELTA, EXPERIMENT, FEEDBACK, PAIR, UNIT, WAITING
from anabranch.store.upkeep_port import CHUNK, Compacted


class SqlUpkeep:
    """`upkeep_port.UpkeepStore` over a database.

    Args:
        engine: The database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reads = engine.execution_options(**{READS: True})

    def removable(self, ended_before_s: float) -> Compacted:
        """See `upkeep_port.UpkeepStore.removable`."""
        with self._reads.begin() as connection:
            found = {
                name: int(
                    connection.execute(select(func.count()).select_from(table).where(which)).scalar_one()
                )
                for name, table, which in _unneeded(connection, ended_before_s)
            }
        return Compacted(**found)

    def compact(self, ended_before_s: float, *, limit: int = CHUNK, lease: Lease | None = None) -> Compacted:
        """See `upkeep_port.UpkeepStore.compact`."""
        removed: dict[str, int] = {}
        with self._engine.begin() as connection:
            if lease is not None:
                renew(connection, lease, database_clock)
            for name, table, which in _unneeded(connection, ended_before_s):
                left = limit - sum(removed.values())
                if left > 0:
                    removed[name] = _remove(connection, table, which, left)
        return Compacted(**removed)


def _unneeded(
    connection: Connection, ended_before_s: float
) -> Iterator[tuple[str, Table, ColumnElement[bool]]]:
    """What can go: the kind, its table, and which rows of it."""
    ended: list[int] = []
    folded: list[ColumnElement[bool]] = []
    last = (
        select(func.max(DECISION.c.at_s)).where(DECISION.c.experiment_id == EXPERIMENT.c.id).scalar_subquery()
    )
    rows = connection.execute(
        select(EXPERIMENT.c.id, EXPERIMENT.c.state, EXPERIMENT.c.applied_s, last.label("decided_s"))
    )
    for row in rows:
        state = codec.state_from(row.state)
        folded.append(and_(DELTA.c.experiment_id == row.id, DELTA.c.sequence <= state.cursor))
        if state.phase.is_over and max(row.applied_s, row.decided_s or 0.0) < ended_before_s:
            ended.append(row.id)
    # SQLite numbers on from the largest that is there, so that one stays: a reader's place must not come twice.
    newest = select(func.max(DELTA.c.sequence)).scalar_subquery()
    yield "deltas", DELTA, and_(or_(*folded, DELTA.c.experiment_id.in_(ended)), DELTA.c.sequence < newest)
    for name, table in (("units", UNIT), ("pairs", PAIR), ("feedback", FEEDBACK), ("waiting", WAITING)):
        yield name, table, table.c.experiment_id.in_(ended)


def _remove(connection: Connection, table: Table, which: ColumnElement[bool], limit: int) -> int:
    place: ColumnElement[object] = literal_column(
        f"{table.name}.ctid" if connection.dialect.name == "postgresql" else f"{table.name}.rowid"
    )
    chosen = select(place).select_from(table).where(which).limit(limit)
    return int(connection.execute(delete(table).where(place.in_(chosen))).rowcount)
