"""The ingestion transaction over SQL."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, delete, func, insert, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from anabranch.bandit.evidence import Cell, PairCell
from anabranch.store import codec, postgres_bulk, sqlite_bulk
from anabranch.store.ingestion_port import AlreadyRead, CurrentSpec, FeedbackRow, PairRow, UnitRow, WaitingRow
from anabranch.store.journal import SegmentName
from anabranch.store.locks import Lock, hold
from anabranch.store.memory_ingestion import already_read
from anabranch.store.tables import CURSOR, DELTA, EXPERIMENT, FEEDBACK, PAIR, UNIT, WAITING

_CHUNK = 500  # Keys a statement: SQLite allows 32,766 bound values in one.
_KEY = ("experiment_id", "lane", "sequence")
_Row = TypeVar("_Row", UnitRow, PairRow, FeedbackRow)


def upsert(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    update_columns: Sequence[str] = (),
) -> list[Any]:
    """Insert rows; answers the ones that are new.

    Args:
        connection: An open transaction.
        table: Where to.
        rows: Values by column name; no two with one key.
        update_columns: Columns to overwrite where the key is taken; none leaves such rows as they are.
    """
    if not rows:
        return []
    build = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    columns = table.c
    keys = [column.name for column in columns if column.primary_key]
    # The rows are given apart from the statement: with the rows in it, it would be compiled anew for each call, which
    # takes several times as long as the database does.
    statement = build(table)
    if update_columns:
        changed = {name: statement.excluded[name] for name in update_columns}
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed), list(rows))
        return []
    ignoring = statement.on_conflict_do_nothing(index_elements=keys)
    return list(connection.execute(ignoring.returning(*columns), list(rows)))


class SqlIngestion:
    """`ingestion_port.Ingestion` on an open transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._bulk = postgres_bulk if connection.dialect.name == "postgresql" else sqlite_bulk
        self._is_alone = False

    def offset(self, segment: SegmentName) -> int:
        """See `ingestion_port.Ingestion.offset`."""
        found = self._connection.execute(
            select(CURSOR.c.offset).where(CURSOR.c.lane == segment.lane, CURSOR.c.segment == segment.index)
        ).scalar()
        return int(found or 0)

    def offsets(self, lanes: Collection[int]) -> dict[SegmentName, int]:
        """See `ingestion_port.Ingestion.offsets`."""
        wanted = sorted(lanes)
        found = {}
        for start in range(0, len(wanted), _CHUNK):
            chosen = CURSOR.c.lane.in_(wanted[start : start + _CHUNK])
            for row in self._connection.execute(select(*CURSOR.c).where(chosen)):
                found[SegmentName(lane=row.lane, index=row.segment)] = int(row.offset)
        return found

    def advance(self, segment: SegmentName, offset: int, *, since: int) -> None:
        """See `ingestion_port.Ingestion.advance`.

        Whoever comes second waits for the first one's transaction, and then finds the segment further on.
        """
        # No row is as good as one that says 0.
        if since == 0 and upsert(self._connection, CURSOR, [{**_cursor_key(segment), "offset": offset}]):
            return
        moved = self._connection.execute(
            update(CURSOR)
            .where(
                CURSOR.c.lane == segment.lane,
                CURSOR.c.segment == segment.index,
                CURSOR.c.offset == since,
            )
            .values(offset=offset)
        )
        if moved.rowcount != 1:
            raise AlreadyRead(already_read(segment, since))

    def forget(self, names: Collection[SegmentName]) -> None:
        """See `ingestion_port.Ingestion.forget`."""
        key = tuple_(CURSOR.c.lane, CURSOR.c.segment)
        gone = [(name.lane, name.index) for name in names]
        for start in range(0, len(gone), _CHUNK):
            self._connection.execute(delete(CURSOR).where(key.in_(gone[start : start + _CHUNK])))

    def add_units(self, rows: Iterable[UnitRow]) -> tuple[list[UnitRow], list[FeedbackRow]]:
        """See `ingestion_port.Ingestion.add_units`."""
        self._be_alone()
        new = self._add({(row.experiment, row.unit): row for row in reversed(list(rows))}, UNIT, _unit_values)
        known = self._by_assignment(FEEDBACK, new)
        return new, [_feedback(row) for found in known.values() for row in found]

    def of_first_requests(self, rows: Iterable[FeedbackRow]) -> list[FeedbackRow]:
        """See `ingestion_port.Ingestion.of_first_requests`."""
        self._be_alone()
        asked = list(rows)
        known = self._by_assignment(UNIT, asked)
        return [row for row in asked if _assignment(row) in known]

    def add_pairs(self, rows: Iterable[PairRow]) -> list[tuple[PairRow, FeedbackRow]]:
        """See `ingestion_port.Ingestion.add_pairs`."""
        self._be_alone()
        by_key = {(*_assignment(row), row.arm): row for row in reversed(list(rows))}
        new = self._add(by_key, PAIR, _pair_values)
        known = self._by_assignment(FEEDBACK, new)
        return [(pair, _feedback(row)) for pair in new for row in known.get(_assignment(pair), ())]

    def add_feedback(
        self, rows: Iterable[FeedbackRow]
    ) -> tuple[list[FeedbackRow], list[tuple[PairRow, FeedbackRow]]]:
        """See `ingestion_port.Ingestion.add_feedback`."""
        self._be_alone()
        by_key = {(*_assignment(row), row.metric): row for row in reversed(list(rows))}
        new = self._add(by_key, FEEDBACK, _feedback_values)
        known = self._by_assignment(PAIR, [row for row in new if row.sampled])
        matched = [(_pair(row), feedback) for feedback in new for row in known.get(_assignment(feedback), ())]
        return new, matched

    def specs(self) -> list[CurrentSpec]:
        """See `ingestion_port.Ingestion.specs`."""
        self._be_alone()
        columns = EXPERIMENT.c
        found = select(columns.id, columns.spec_version, columns.first_epoch, columns.document)
        return [
            CurrentSpec(
                id=row.id, spec_version=row.spec_version, first_epoch=row.first_epoch, document=row.document
            )
            for row in self._connection.execute(found)
        ]

    def add_waiting(self, rows: Iterable[WaitingRow]) -> None:
        """See `ingestion_port.Ingestion.add_waiting`."""
        values = [_waiting_values(row) for row in rows]
        if values:
            self._be_alone()
            self._connection.execute(insert(WAITING), values)

    def due(self, experiments: Collection[int], before_s: float, *, limit: int) -> list[WaitingRow]:
        """See `ingestion_port.Ingestion.due`."""
        columns = WAITING.c
        asked = (
            select(WAITING)
            .where(columns.experiment_id.in_(experiments), columns.closes_s <= before_s)
            .order_by(columns.closes_s, columns.id)
            .limit(limit)
        )
        if self._connection.execute(asked.limit(1)).first() is None:
            return []
        self._be_alone()
        found = self._connection.execute(asked).all()
        self._connection.execute(delete(WAITING).where(columns.id.in_([row.id for row in found])))
        return [
            WaitingRow(
                experiment=row.experiment_id,
                lane=row.lane,
                first=row.first_sequence,
                last=row.last_sequence,
                window_s=row.window_s,
                closes_s=row.closes_s,
                body=bytes(row.body),
            )
            for row in found
        ]

    def waits_from(self, experiment: int, lanes: Collection[int]) -> dict[int, int]:
        """See `ingestion_port.Ingestion.waits_from`."""
        columns = WAITING.c
        found = {}
        for lane in sorted(lanes):
            # One at a time: the index ends each of them at its first entry.
            least = self._connection.execute(
                select(func.min(columns.first_sequence)).where(
                    columns.experiment_id == experiment, columns.lane == lane
                )
            ).scalar()
            if least is not None:
                found[lane] = int(least)
        return found

    def feedback_of(self, experiment: int, lane: int, first: int, last: int) -> list[FeedbackRow]:
        """See `ingestion_port.Ingestion.feedback_of`."""
        columns = FEEDBACK.c
        asked = select(FEEDBACK).where(
            columns.experiment_id == experiment,
            columns.lane == lane,
            columns.sequence.between(first, last),
        )
        return [_feedback(row) for row in self._connection.execute(asked)]

    def add_delta(self, experiment: int, cells: Collection[Cell], pairs: Collection[PairCell]) -> None:
        """See `ingestion_port.Ingestion.add_delta`."""
        self._be_alone()
        self._connection.execute(
            insert(DELTA).values(
                experiment_id=experiment,
                cells=codec.cells_text(tuple(cells)),
                pairs=codec.pairs_text(tuple(pairs)),
            )
        )

    def _be_alone(self) -> None:
        """From here on, nobody else ingests until this is committed.

        A reply and its label may come through two routers at once, and one of the two has to see the other. And a
        delta's number must not become visible after a higher one's: whoever has read up to that one would miss it.
        """
        if not self._is_alone:
            hold(self._connection, Lock.INGESTION)
            self._is_alone = True

    def _add(
        self, rows: Mapping[tuple[Any, ...], _Row], table: Table, values_of: Callable[[_Row], dict[str, Any]]
    ) -> list[_Row]:
        """Insert rows by their keys; answers the new ones."""
        columns = table.c.keys()
        key = [column.name for column in table.c if column.primary_key]
        given = list(rows.values())
        tuples = [tuple(values[name] for name in columns) for values in map(values_of, given)]
        return [given[number] for number in self._bulk.insert_new(self._connection, table, tuples, key)]

    def _by_assignment(
        self, table: Table, rows: Sequence[UnitRow | PairRow | FeedbackRow]
    ) -> dict[tuple[int, int, int], list[Any]]:
        wanted = list(dict.fromkeys(_assignment(row) for row in rows))
        found: dict[tuple[int, int, int], list[Any]] = {}
        for row in self._bulk.select_by_key(self._connection, table, _KEY, wanted):
            found.setdefault((row.experiment_id, row.lane, row.sequence), []).append(row)
        return found


def _cursor_key(segment: SegmentName) -> dict[str, int]:
    return {"lane": segment.lane, "segment": segment.index}


def _assignment(row: UnitRow | PairRow | FeedbackRow) -> tuple[int, int, int]:
    return row.experiment, row.lane, row.sequence


def _unit_values(row: UnitRow) -> dict[str, Any]:
    return {
        "experiment_id": row.experiment,
        "unit": row.unit.hex(),
        "lane": row.lane,
        "sequence": row.sequence,
    }


def _waiting_values(row: WaitingRow) -> dict[str, Any]:
    return {
        "experiment_id": row.experiment,
        "lane": row.lane,
        "first_sequence": row.first,
        "last_sequence": row.last,
        "window_s": row.window_s,
        "closes_s": row.closes_s,
        "body": row.body,
    }


def _pair_values(row: PairRow) -> dict[str, Any]:
    return {
        "experiment_id": row.experiment,
        "lane": row.lane,
        "sequence": row.sequence,
        "arm": row.arm,
        "epoch": row.epoch,
        "baseline_top1": row.baseline_top1,
        "top1": row.top1,
    }


def _pair(row: Any) -> PairRow:
    return PairRow(
        experiment=row.experiment_id,
        lane=row.lane,
        sequence=row.sequence,
        arm=row.arm,
        epoch=row.epoch,
        baseline_top1=row.baseline_top1,
        top1=row.top1,
    )


def _feedback_values(row: FeedbackRow) -> dict[str, Any]:
    return {
        "experiment_id": row.experiment,
        "lane": row.lane,
        "sequence": row.sequence,
        "metric": row.metric,
        "epoch": row.epoch,
        "arm": row.arm,
        "sampled": row.sampled,
        "top1": row.top1,
        "is_label": row.is_label,
        "value": row.value,
        "at_s": row.at_s,
    }


def _feedback(row: Any) -> FeedbackRow:
    return FeedbackRow(
        experiment=row.experiment_id,
        lane=row.lane,
        sequence=row.sequence,
        metric=row.metric,
        epoch=row.epoch,
        arm=row.arm,
        sampled=bool(row.sampled),
        top1=row.top1,
        is_label=bool(row.is_label),
        value=row.value,
        at_s=row.at_s,
    )
