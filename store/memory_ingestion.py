"""The ingestion transaction in memory: changes lie above what is kept until they are committed."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from anabranch.bandit.evidence import Cell, PairCell
from anabranch.store.ingestion_port import AlreadyRead, CurrentSpec, FeedbackRow, PairRow, UnitRow, WaitingRow
from anabranch.store.journal import SegmentName

_Assignment: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """Outcomes of one ingestion; its sequence number is its place in the list, from 1."""

    experiment: int
    cells: tuple[Cell, ...]
    pairs: tuple[PairCell, ...]


@dataclass(slots=True)
class Ingests:
    """What was ingested: rows by the parts of their keys."""

    offsets: dict[SegmentName, int] = field(default_factory=dict)
    units: dict[tuple[int, bytes], UnitRow] = field(default_factory=dict)
    firsts: dict[_Assignment, UnitRow] = field(default_factory=dict)
    pairs: dict[_Assignment, dict[int, PairRow]] = field(default_factory=dict)
    feedback: dict[_Assignment, dict[str, FeedbackRow]] = field(default_factory=dict)
    deltas: list[Delta] = field(default_factory=list)
    waiting: list[WaitingRow] = field(default_factory=list)

    def forget_units(self, experiment: int) -> None:
        """Let every unit of an experiment be new again, and nothing of it wait."""
        self.units = {key: row for key, row in self.units.items() if row.experiment != experiment}
        self.firsts = {key: row for key, row in self.firsts.items() if row.experiment != experiment}
        self.waiting[:] = [row for row in self.waiting if row.experiment != experiment]


class MemoryIngestion:
    """`ingestion_port.Ingestion` over `Ingests`; nothing of it is kept without `commit`.

    Args:
        kept: Where to.
        specs: What counts now.
    """

    def __init__(self, kept: Ingests, specs: Callable[[], list[CurrentSpec]]) -> None:
        self._kept = kept
        self.specs = specs
        self._waiting = list(kept.waiting)
        self._offsets = ChainMap({}, kept.offsets)
        self._units = ChainMap({}, kept.units)
        self._firsts = ChainMap({}, kept.firsts)
        self._pairs = ChainMap({}, kept.pairs)
        self._feedback = ChainMap({}, kept.feedback)
        self._deltas: list[Delta] = []
        self._forgotten: set[SegmentName] = set()

    def commit(self) -> None:
        """Keep everything."""
        self._kept.offsets.update(self._offsets.maps[0])
        for name in self._forgotten:
            self._kept.offsets.pop(name, None)
        self._kept.units.update(self._units.maps[0])
        self._kept.firsts.update(self._firsts.maps[0])
        self._kept.pairs.update(self._pairs.maps[0])
        self._kept.feedback.update(self._feedback.maps[0])
        self._kept.deltas.extend(self._deltas)
        self._kept.waiting[:] = self._waiting

    def offset(self, segment: SegmentName) -> int:
        """See `ingestion_port.Ingestion.offset`."""
        return self._offsets.get(segment, 0)

    def offsets(self, lanes: Collection[int]) -> dict[SegmentName, int]:
        """See `ingestion_port.Ingestion.offsets`."""
        return {name: offset for name, offset in self._offsets.items() if name.lane in lanes}

    def advance(self, segment: SegmentName, offset: int, *, since: int) -> None:
        """See `ingestion_port.Ingestion.advance`."""
        if self.offset(segment) != since:
            raise AlreadyRead(already_read(segment, since))
        self._offsets[segment] = offset

    def forget(self, names: Collection[SegmentName]) -> None:
        """See `ingestion_port.Ingestion.forget`."""
        self._forgotten.update(names)

    def add_units(self, rows: Iterable[UnitRow]) -> tuple[list[UnitRow], list[FeedbackRow]]:
        """See `ingestion_port.Ingestion.add_units`."""
        new = []
        for row in rows:
            if (row.experiment, row.unit) not in self._units:
                self._units[row.experiment, row.unit] = row
                self._firsts[_assignment(row)] = row
                new.append(row)
        return new, [known for row in new for known in self._feedback.get(_assignment(row), {}).values()]

    def of_first_requests(self, rows: Iterable[FeedbackRow]) -> list[FeedbackRow]:
        """See `ingestion_port.Ingestion.of_first_requests`."""
        return [row for row in rows if _assignment(row) in self._firsts]

    def add_pairs(self, rows: Iterable[PairRow]) -> list[tuple[PairRow, FeedbackRow]]:
        """See `ingestion_port.Ingestion.add_pairs`."""
        new = []
        for row in rows:
            key = _assignment(row)
            known = self._pairs.get(key, {})
            if row.arm not in known:
                self._pairs[key] = known | {row.arm: row}
                new.append(row)
        return [
            (pair, feedback)
            for pair in new
            for feedback in self._feedback.get(_assignment(pair), {}).values()
        ]

    def add_feedback(
        self, rows: Iterable[FeedbackRow]
    ) -> tuple[list[FeedbackRow], list[tuple[PairRow, FeedbackRow]]]:
        """See `ingestion_port.Ingestion.add_feedback`."""
        new = []
        for row in rows:
            key = _assignment(row)
            known = self._feedback.get(key, {})
            if row.metric not in known:
                self._feedback[key] = known | {row.metric: row}
                new.append(row)
        matched = [
            (pair, row)
            for row in new
            if row.sampled
            for pair in self._pairs.get(_assignment(row), {}).values()
        ]
        return new, matched

    def add_waiting(self, rows: Iterable[WaitingRow]) -> None:
        """See `ingestion_port.Ingestion.add_waiting`."""
        self._waiting.extend(rows)

    def due(self, experiments: Collection[int], before_s: float, *, limit: int) -> list[WaitingRow]:
        """See `ingestion_port.Ingestion.due`."""
        found = [row for row in self._waiting if row.experiment in experiments and row.closes_s <= before_s]
        taken = sorted(found, key=lambda row: row.closes_s)[:limit]
        for row in taken:
            self._waiting.remove(row)
        return taken

    def waits_from(self, experiment: int, lanes: Collection[int]) -> dict[int, int]:
        """See `ingestion_port.Ingestion.waits_from`."""
        found: dict[int, int] = {}
        for row in self._waiting:
            if row.experiment == experiment and row.lane in lanes:
                found[row.lane] = min(row.first, found.get(row.lane, row.first))
        return found

    def feedback_of(self, experiment: int, lane: int, first: int, last: int) -> list[FeedbackRow]:
        """See `ingestion_port.Ingestion.feedback_of`."""
        return [
            row
            for key, rows in self._feedback.items()
            if key[:2] == (experiment, lane) and first <= key[2] <= last
            for row in rows.values()
        ]

    def add_delta(self, experiment: int, cells: Collection[Cell], pairs: Collection[PairCell]) -> None:
        """See `ingestion_port.Ingestion.add_delta`."""
        self._deltas.append(Delta(experiment=experiment, cells=tuple(cells), pairs=tuple(pairs)))


def _assignment(row: UnitRow | PairRow | FeedbackRow) -> _Assignment:
    return row.experiment, row.lane, row.sequence


def already_read(segment: SegmentName, since: int) -> str:
    """What `port.AlreadyRead` says, for every store."""
    return (
        f"segment {segment.index} of lane {segment.lane} is not left at byte {since} any more: another process reads "
        "this journal, or the transaction of one that died was still on its way"
    )
