"""What one transaction of ingestion reads and writes: the rows that are remembered of single outcomes, beside what is counted."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

# Named in signatures only: who lists decisions should not wait for NumPy and the journal.
if TYPE_CHECKING:
    from anabranch.bandit.evidence import Cell, PairCell
    from anabranch.store.journal import SegmentName


class AlreadyRead(Exception):
    """Another process has read this part of the journal: nothing of it is counted a second time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRow:
    """The first request of a sticky unit: the only one that is evidence."""

    experiment: int
    unit: bytes
    lane: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRow:
    """What is remembered of a compared reply until its label comes."""

    experiment: int
    lane: int
    sequence: int
    arm: int
    epoch: int
    baseline_top1: int
    top1: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackRow:
    """One feedback: unique by assignment and metric."""

    experiment: int
    lane: int
    sequence: int
    metric: str
    epoch: int
    arm: int
    sampled: bool
    top1: int
    is_label: bool
    value: float
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentSpec:
    """What counts now of an experiment's records.

    Attributes:
        first_epoch: Records of an earlier epoch belong to an earlier spec version.
        document: As JSON.
    """

    id: int
    spec_version: int
    first_epoch: int
    document: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingRow:
    """Requests of one lane that wait for their labels.

    Attributes:
        first: Their smallest sequence number.
        last: Their largest.
        window_s: How long each waits.
        closes_s: When the last of them has waited so long.
        body: The requests, in the form of `store.waiting`.
    """

    experiment: int
    lane: int
    first: int
    last: int
    window_s: float
    closes_s: float
    body: bytes


class Ingestion(Protocol):
    """One transaction that turns journal records into deltas; all of it happens, or nothing."""

    def offset(self, segment: SegmentName) -> int:
        """How far the segment has been read; 0 for a new one."""
        ...

    def offsets(self, lanes: Collection[int]) -> dict[SegmentName, int]:
        """How far the segments of some lanes have been read; new ones are left out."""
        ...

    def advance(self, segment: SegmentName, offset: int, *, since: int) -> None:
        """Remember how far the segment has been read.

        Args:
            segment: Which one.
            offset: How far.
            since: From where.

        Raises:
            AlreadyRead: If it was not left there: another has read it meanwhile.
        """
        ...

    def forget(self, names: Collection[SegmentName]) -> None:
        """Forget how far segments have been read that are no more."""
        ...

    def add_units(self, rows: Iterable[UnitRow]) -> tuple[list[UnitRow], list[FeedbackRow]]:
        """Remember units; answers those never seen in this spec version, and their feedback that came first.

        The first row of a unit counts.
        """
        ...

    def of_first_requests(self, rows: Iterable[FeedbackRow]) -> list[FeedbackRow]:
        """Those of the feedback that are about a remembered unit's first request."""
        ...

    def add_pairs(self, rows: Iterable[PairRow]) -> list[tuple[PairRow, FeedbackRow]]:
        """Remember pairs; answers those of them whose feedback came first."""
        ...

    def add_feedback(
        self, rows: Iterable[FeedbackRow]
    ) -> tuple[list[FeedbackRow], list[tuple[PairRow, FeedbackRow]]]:
        """Remember feedback; answers the new ones, and the pairs that the new ones complete."""
        ...

    def specs(self) -> list[CurrentSpec]:
        """What counts now; until this transaction ends, no new spec version begins."""
        ...

    def add_waiting(self, rows: Iterable[WaitingRow]) -> None:
        """Remember requests that wait for their labels."""
        ...

    def due(self, experiments: Collection[int], before_s: float, *, limit: int) -> list[WaitingRow]:
        """Take those that have waited long enough by a time, the oldest first; they wait no longer."""
        ...

    def waits_from(self, experiment: int, lanes: Collection[int]) -> dict[int, int]:
        """By lane, the first request that still waits; without lanes in which none does."""
        ...

    def feedback_of(self, experiment: int, lane: int, first: int, last: int) -> list[FeedbackRow]:
        """All feedback about a range of requests."""
        ...

    def add_delta(self, experiment: int, cells: Collection[Cell], pairs: Collection[PairCell]) -> None:
        """Append outcomes to the experiment's log."""
        ...
