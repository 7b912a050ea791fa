"""Keeping a store in memory small."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from anabranch.store.ingestion_port import UnitRow
from anabranch.store.lease import Lease
from anabranch.store.memory_ingestion import Delta, Ingests
from anabranch.store.memory_replicas import MemoryReplicas
from anabranch.store.upkeep_port import CHUNK, Compacted

_Part = TypeVar("_Part")

_REMOVED: Final = Delta(experiment=0, cells=(), pairs=())
"""Stands where a delta was: a delta's number is its place in the list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What of an experiment decides about what it needs.

    Attributes:
        cursor: Last delta folded in.
        ended_s: When its last decision was taken, if it is over.
    """

    experiment: int
    cursor: int
    ended_s: float | None


class MemoryUpkeep:
    """`upkeep_port.UpkeepStore` without a database.

    Args:
        kept: What was ingested.
        replicas: Where a leading controller's lease is.
        standings: Where every experiment stands now.
    """

    def __init__(
        self, kept: Ingests, replicas: MemoryReplicas, standings: Callable[[], Iterable[Standing]]
    ) -> None:
        self._kept = kept
        self._replicas = replicas
        self._standings = standings

    def removable(self, ended_before_s: float) -> Compacted:
        """See `upkeep_port.UpkeepStore.removable`."""
        ended = self._ended(ended_before_s)
        return Compacted(
            deltas=len(self._deltas(ended)),
            units=len(self._units(ended)),
            pairs=len(_parts(self._kept.pairs, ended)),
            feedback=len(_parts(self._kept.feedback, ended)),
            waiting=sum(row.experiment in ended for row in self._kept.waiting),
        )

    def compact(self, ended_before_s: float, *, limit: int = CHUNK, lease: Lease | None = None) -> Compacted:
        """See `upkeep_port.UpkeepStore.compact`."""
        if lease is not None:
            self._replicas.renew(lease)
        ended = self._ended(ended_before_s)
        deltas = self._deltas(ended)[:limit]
        units = self._units(ended)[: limit - len(deltas)]
        pairs = _parts(self._kept.pairs, ended)[: limit - len(deltas) - len(units)]
        feedback = _parts(self._kept.feedback, ended)[: limit - len(deltas) - len(units) - len(pairs)]
        for place in deltas:
            self._kept.deltas[place] = _REMOVED
        for row in units:
            del self._kept.units[row.experiment, row.unit]
            del self._kept.firsts[row.experiment, row.lane, row.sequence]
        for assignment, arm in pairs:
            del self._kept.pairs[assignment][arm]
        for assignment, metric in feedback:
            del self._kept.feedback[assignment][metric]
        removed = Compacted(deltas=len(deltas), units=len(units), pairs=len(pairs), feedback=len(feedback))
        waiting = [row for row in self._kept.waiting if row.experiment in ended][: limit - removed.rows]
        self._kept.waiting[:] = [row for row in self._kept.waiting if row not in waiting]
        return replace(removed, waiting=len(waiting))

    def _units(self, ended: set[int]) -> list[UnitRow]:
        return [row for row in self._kept.units.values() if row.experiment in ended]

    def _ended(self, before_s: float) -> set[int]:
        return {
            each.experiment
            for each in self._standings()
            if each.ended_s is not None and each.ended_s < before_s
        }

    def _deltas(self, ended: set[int]) -> list[int]:
        cursors = {each.experiment: each.cursor for each in self._standings()}
        return [
            place
            for place, delta in enumerate(self._kept.deltas[:-1])
            if delta is not _REMOVED
            and (delta.experiment in ended or place + 1 <= cursors.get(delta.experiment, 0))
        ]


def _parts(
    rows: Mapping[tuple[int, int, int], Mapping[_Part, object]], ended: set[int]
) -> list[tuple[tuple[int, int, int], _Part]]:
    return [
        (assignment, part) for assignment, parts in rows.items() if assignment[0] in ended for part in parts
    ]
