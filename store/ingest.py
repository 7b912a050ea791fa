"""From journal records to deltas: every record is counted once, in the epoch and for the arm it names.

What a record means is decided here and nowhere else:

- A record of an earlier spec version counts for nothing: its arms were others. So does one that cannot be
  counted at all: an unknown arm, a latency that is no number, a value outside its metric's range.
- A routed request is evidence of the split when the experiment's coin drew it; with a sticky unit, only the
  unit's first request is, of those read together the first that was assigned. Latency is what the client waited, infinite when nothing was answered. Times of tokens
  are those of answers that were given, as the time of computing is: an answer that failed counts as an error.
- A compared reply counts as agreeing or not; one that the candidate did not answer counts as not agreeing.
- Feedback is evidence of the split when its request is; of a metric with a label window, when that has closed. Feedback about a request that was sampled for mirroring
  is evidence about the pairs instead, where it says if a class was right: an outcome is counted on one side only.
  What it says about a candidate's differing reply is taken against the candidate where it is not known.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anabranch.store.counting import Batch, BoolArray, count_pairs, count_requests, known, pairs_to_remember
from anabranch.store.ingestion_port import FeedbackRow, Ingestion, UnitRow
from anabranch.store.journal import Block, SegmentName, read_block, segments
from anabranch.store.port import Store
from anabranch.store.record_arrays import GENERATED, PAIR, ROUTED
from anabranch.store.records import Feedback, Flag
from anabranch.store.tally import Plans, Tally
from anabranch.store.windows import Opened, count_late

MOST_RECORDS = 100_000
"""Records of one transaction, so that a backlog becomes neither one long transaction nor one large array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What one ingestion did.

    Attributes:
        records: Records read.
        duplicates: Feedback that had been given before.
        strangers: Records of an experiment the store does not know, or feedback it cannot count.
        corrupt: Segments with bytes that fail their checksum, with the reason; reading stops there.
        waiting_bytes: What the journal held beyond the limit; 0 when everything was read.
    """

    records: int = 0
    duplicates: int = 0
    strangers: int = 0
    corrupt: tuple[str, ...] = ()
    waiting_bytes: int = 0

    def followed_by(self, later: Ingested) -> Ingested:
        """This and the next ingestion as one."""
        return Ingested(
            records=self.records + later.records,
            duplicates=self.duplicates + later.duplicates,
            strangers=self.strangers + later.strangers,
            corrupt=later.corrupt,
            waiting_bytes=later.waiting_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """How a segment was found when nothing more could be read of it: until it grows there is nothing to do."""

    size: int
    damage: str


class Ingester:
    """Reads a journal into a store, batch by batch; remembers only what saves looking twice.

    Args:
        store: Where the deltas go; it also knows how far every segment was read.
        directory: The journal.
        limit: At most about this many records a batch.
    """

    def __init__(self, store: Store, directory: Path, *, limit: int = MOST_RECORDS) -> None:
        self._store = store
        self._directory = directory
        self._limit = limit
        self._read: dict[SegmentName, _Read] = {}
        self._plans = Plans()

    def ingest(self) -> Ingested:
        """Read what the journal has gained and append it to the experiments' logs, in one transaction.

        Raises:
            AlreadyRead: If another process has read it meanwhile; nothing is counted.
        """
        sizes = self._sizes()
        grown = [
            name for name, size in sizes.items() if name not in self._read or self._read[name].size != size
        ]
        if not grown:
            return Ingested(corrupt=self._damage())
        with self._store.ingestion() as transaction:
            blocks = self._take(transaction, grown)
            # Read here and not before: by a document that was applied meanwhile, these records count otherwise.
            plans = self._plans.read(transaction.specs())
            tallies = {key: Tally(plan) for key, plan in plans.items()}
            for name, (offset, block) in blocks.items():
                if block.end != offset:
                    transaction.advance(name, block.end, since=offset)
            duplicates, strangers = _count(transaction, tallies, blocks)
            for identifier, tally in tallies.items():
                if tally.cells or tally.pairs:
                    transaction.add_delta(identifier, *tally.delta())
        # Only now: what was rolled back must be read again.
        records = sum(block.records for _, block in blocks.values())
        waiting = self._remember(sizes, grown, blocks, is_full=records >= self._limit)
        return Ingested(
            records=records,
            duplicates=duplicates,
            strangers=strangers,
            corrupt=self._damage(),
            waiting_bytes=waiting,
        )

    def _sizes(self) -> dict[SegmentName, int]:
        sizes = {}
        for name in segments(self._directory):
            try:
                sizes[name] = os.stat(name.path(self._directory)).st_size
            except FileNotFoundError:
                continue  # removed since it was listed
        for gone in self._read.keys() - sizes.keys():
            del self._read[gone]
        return sizes

    def _damage(self) -> tuple[str, ...]:
        return tuple(read.damage for _, read in sorted(self._read.items()) if read.damage)

    def _take(
        self, transaction: Ingestion, names: Iterable[SegmentName]
    ) -> dict[SegmentName, tuple[int, Block]]:
        """Read the segments from where each was left, up to the limit."""
        offsets = transaction.offsets({name.lane for name in names})
        left = self._limit
        taken = {}
        for name in names:
            if left <= 0:
                break
            offset = offsets.get(name, 0)
            block = read_block(name.path(self._directory), offset, limit=left)
            taken[name] = (offset, block)
            left -= block.records
        return taken

    def _remember(
        self,
        sizes: Mapping[SegmentName, int],
        grown: list[SegmentName],
        blocks: Mapping[SegmentName, tuple[int, Block]],
        *,
        is_full: bool,
    ) -> int:
        """Note which segments are read to their end; answers how many bytes are left of the others."""
        waiting = 0
        last = {name.lane: name.index for name in sizes}
        for name in grown:
            size = sizes[name]
            if name not in blocks:
                waiting += size
                continue
            _, block = blocks[name]
            is_cut_short = is_full and name == grown[len(blocks) - 1]
            if is_cut_short and not block.damage and block.end < size:
                waiting += size - block.end
                continue
            damage = block.damage
            if not damage and block.end < size and name.index < last[name.lane]:
                damage = (
                    f"{name.path(self._directory).name} ends in the middle of a group, at byte {block.end} of {size}, "
                    "though the next segment was begun: what stood there was lost"
                )
            # It may have grown while it was read: then it is looked at again.
            self._read[name] = _Read(size=size, damage=damage)
        return waiting


def ingest(store: Store, directory: Path, *, limit: int = MOST_RECORDS) -> Ingested:
    """One batch, by an ingester that remembers nothing."""
    return Ingester(store, directory, limit=limit).ingest()


def _count(
    transaction: Ingestion,
    tallies: Mapping[int, Tally],
    blocks: Mapping[SegmentName, tuple[int, Block]],
) -> tuple[int, int]:
    """Count everything; answers how much feedback was given before, and how many records are strangers'."""
    read = [(name.lane, block) for name, (_, block) in blocks.items()]
    plain = _batch([(lane, block.requests) for lane, block in read], ROUTED)
    generated = _batch([(lane, block.generated) for lane, block in read], GENERATED)
    pairs = _batch([(lane, block.pairs) for lane, block in read], PAIR)
    feedback = [record for _, block in read for record in block.feedback]
    requests = [known(tallies, batch) for batch in (plain, generated)]
    opened = Opened.none()
    _count_requests(transaction, tallies, requests, opened)
    compared = known(tallies, pairs)
    count_pairs(tallies, compared)
    opened.add_pairs(tallies, compared)
    transaction.add_waiting(opened.rows(tallies))
    for pair, row in transaction.add_pairs(pairs_to_remember(tallies, compared)):
        tallies[pair.experiment].credit_pair(pair, row)
    duplicates, unknown = _count_feedback(transaction, tallies, feedback)
    strangers = len(plain.records) + len(generated.records) + len(pairs.records)
    return duplicates, strangers - sum(len(batch.records) for batch in (*requests, compared)) + unknown


def _batch(parts: list[tuple[int, bytes]], dtype: np.dtype[np.void]) -> Batch:
    data = b"".join(part for _, part in parts)
    counts = [len(part) // dtype.itemsize for _, part in parts]
    return Batch(
        records=np.frombuffer(data, dtype),
        lanes=np.repeat(np.array([lane for lane, _ in parts], np.int64), counts),
    )


def _count_requests(
    transaction: Ingestion, tallies: Mapping[int, Tally], batches: list[Batch], opened: Opened
) -> None:
    """Count requests of both kinds: a unit's first one may be of either."""
    drawn = [batch.has(Flag.EVIDENCE) for batch in batches]
    sticky = [evidence & batch.has(Flag.STICKY) for batch, evidence in zip(batches, drawn, strict=True)]
    firsts, early = _first_requests(
        transaction, [batch.only(chosen) for batch, chosen in zip(batches, sticky, strict=True)]
    )
    for batch, evidence, of_units, first in zip(batches, drawn, sticky, firsts, strict=True):
        evidence[of_units] = first
        count_requests(tallies, batch, evidence)
        opened.add_requests(tallies, batch, evidence)
    for row in early:
        tallies[row.experiment].credit_split(row)


def _first_requests(
    transaction: Ingestion, batches: list[Batch]
) -> tuple[list[BoolArray], list[FeedbackRow]]:
    """Which requests of sticky units are the first of their unit, and feedback about them that came before."""
    lanes = np.concatenate([batch.lanes for batch in batches])
    sequences = np.concatenate([batch.records["sequence"] for batch in batches])
    units = np.zeros(len(lanes), np.dtype([("experiment", "<u4"), ("unit", "V16")]))
    for field in ("experiment", "unit"):
        units[field] = np.concatenate([batch.records[field] for batch in batches])
    is_first = np.zeros(len(lanes), np.bool_)
    early: list[FeedbackRow] = []
    if len(lanes):
        order = np.lexsort((sequences, lanes))
        _, found = np.unique(units[order].view("V20"), return_index=True)
        places = order[np.sort(found)]
        rows = [
            UnitRow(experiment=experiment, unit=unit, lane=lane, sequence=sequence)
            for experiment, unit, lane, sequence in zip(
                units["experiment"][places].tolist(),
                _sixteens(units["unit"][places].tobytes()),
                lanes[places].tolist(),
                sequences[places].tolist(),
                strict=True,
            )
        ]
        new, early = transaction.add_units(rows)
        fresh = {(row.experiment, row.unit) for row in new}
        is_first[places] = [(row.experiment, row.unit) in fresh for row in rows]
    ends = np.cumsum([len(batch.lanes) for batch in batches])
    return np.split(is_first, ends[:-1]), early


def _sixteens(data: bytes) -> list[bytes]:
    return [data[start : start + 16] for start in range(0, len(data), 16)]


def _count_feedback(
    transaction: Ingestion, tallies: Mapping[int, Tally], records: list[Feedback]
) -> tuple[int, int]:
    countable = []
    flags = {}
    for record in records:
        tally = tallies.get(record.experiment)
        if tally is None or record.epoch < tally.plan.first_epoch or record.arm >= len(tally.plan.arms):
            continue
        row = _row(record)
        if tally.is_countable(row):
            countable.append(row)
            flags[_assignment(row)] = record.flags
    new, matched = transaction.add_feedback(countable)
    for pair, feedback in matched:
        tallies[pair.experiment].credit_pair(pair, feedback)
    drawn = [row for row in new if Flag.EVIDENCE in flags[_assignment(row)]]
    sticky = [row for row in drawn if Flag.STICKY in flags[_assignment(row)]]
    firsts = {_assignment(row) for row in transaction.of_first_requests(sticky)}
    told: dict[int, list[FeedbackRow]] = {}
    for row in drawn:
        if Flag.STICKY not in flags[_assignment(row)] or _assignment(row) in firsts:
            tallies[row.experiment].credit_split(row)
            told.setdefault(row.experiment, []).append(row)
    for experiment, rows in told.items():
        count_late(transaction, tallies[experiment], rows)
    return len(countable) - len(new), len(records) - len(countable)


def _assignment(row: FeedbackRow) -> tuple[int, int, int]:
    return row.experiment, row.lane, row.sequence


def _row(record: Feedback) -> FeedbackRow:
    return FeedbackRow(
        experiment=record.experiment,
        lane=record.lane,
        sequence=record.sequence,
        metric=record.metric,
        epoch=record.epoch,
        arm=record.arm,
        sampled=Flag.SAMPLED in record.flags,
        top1=record.top1,
        is_label=record.is_label,
        value=record.value,
        at_s=record.at_s,
    )
