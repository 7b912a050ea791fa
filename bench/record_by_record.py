"""The rules of `store/ingest.py`, record by record: slow and plain, what the bulk path is tested and measured against."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from anabranch.bandit.costs import cost_scale
from anabranch.bandit.evidence import Cell, PairCell
from anabranch.bandit.measures import (
    DIFFERENCE_SCALE,
    LATENCY_SCALE,
    feedback_scales,
    worst_feedback,
)
from anabranch.bandit.scales import BinaryScale, GridScale
from anabranch.bandit.spec import (
    COMPUTE,
    COST,
    ERROR,
    FEEDBACK_PREFIX,
    FIRST_TOKEN,
    LATENCY,
    PER_TOKEN,
    TOP1_AGREEMENT,
)
from anabranch.store.document import parse
from anabranch.store.ingest import Ingested
from anabranch.store.ingestion_port import FeedbackRow, Ingestion, PairRow, UnitRow
from anabranch.store.journal import CorruptSegment, SegmentName, read_records, segments
from anabranch.store.port import Store
from anabranch.store.records import Feedback, Flag, Pair, Record, Routed, UnreadableRecord


@dataclass(slots=True)
class _Tally:
    """Counts of one experiment while a batch is read."""

    arms: tuple[str, ...]
    feedback: Mapping[str, BinaryScale | GridScale]
    worst: Mapping[str, float]
    first_epoch: int
    prices: tuple[float, ...]
    cells: dict[tuple[int, int], _Counts] = field(default_factory=dict)
    pairs: dict[tuple[int, int], _Counts] = field(default_factory=dict)

    def knows(self, record: Record) -> bool:
        """Whether the record belongs to this spec version and can be counted."""
        if record.epoch < self.first_epoch or record.arm >= len(self.arms):
            return False
        # Not "< 0": what is no number is refused too.
        if not isinstance(record, Routed):
            return True
        times = (record.latency_ms, record.compute_ms, record.first_token_ms, record.token_ms)
        return all(time is None or time >= 0.0 for time in times)

    def cell(self, epoch: int, arm: int) -> _Counts:
        return self.cells.setdefault((epoch, arm), _Counts())

    def pair(self, epoch: int, arm: int) -> _Counts:
        return self.pairs.setdefault((epoch, arm), _Counts())


@dataclass(slots=True)
class _Counts:
    units: int = 0
    requests: int = 0
    masked: int = 0
    failed: int = 0
    metrics: dict[str, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))

    def count(self, source: str, index: int) -> None:
        histogram = self.metrics[source]
        histogram[index] = histogram.get(index, 0) + 1


def ingest_one_by_one(store: Store, directory: Path, *, limit: int = 100_000) -> Ingested:
    """Read what the journal has gained and append it to the experiments' logs, in one transaction.

    Args:
        store: Where the deltas go; it also knows how far every segment was read.
        directory: The journal.
        limit: At most this many records, so that a backlog does not become one long transaction.
    """
    tallies = {
        kept.id: _Tally(
            arms=(experiment := parse(kept.document)).arms,
            feedback=feedback_scales(experiment),
            worst=worst_feedback(experiment),
            first_epoch=kept.first_epoch,
            prices=tuple(price for price in experiment.hourly_prices if price and not experiment.unpriced),
        )
        for kept in store.experiments()
    }
    corrupt: list[str] = []
    with store.ingestion() as transaction:
        batch: list[tuple[int, Record]] = []
        for segment in segments(directory):
            if len(batch) >= limit:
                break
            batch.extend(_read(transaction, directory, segment, limit - len(batch), corrupt))
        known = [
            (lane, record)
            for lane, record in batch
            if (tally := tallies.get(record.experiment)) is not None and tally.knows(record)
        ]
        _count_routed(transaction, tallies, known)
        _count_pairs(transaction, tallies, known)
        duplicates, unknown = _count_feedback(transaction, tallies, known)
        for identifier, tally in tallies.items():
            _append(transaction, identifier, tally)
    return Ingested(
        records=len(batch),
        duplicates=duplicates,
        strangers=len(batch) - len(known) + unknown,
        corrupt=tuple(corrupt),
    )


def _read(
    transaction: Ingestion, directory: Path, segment: SegmentName, limit: int, corrupt: list[str]
) -> list[tuple[int, Record]]:
    start = offset = transaction.offset(segment)
    found: list[tuple[int, Record]] = []
    try:
        for record, after in read_records(segment.path(directory), start, limit=limit):
            found.append((segment.lane, record))
            offset = after
    except (CorruptSegment, UnreadableRecord) as error:
        corrupt.append(str(error))
    if offset != start:
        transaction.advance(segment, offset, since=start)
    return found


def _count_routed(
    transaction: Ingestion, tallies: Mapping[int, _Tally], batch: Iterable[tuple[int, Record]]
) -> None:
    routed = [(lane, record) for lane, record in batch if isinstance(record, Routed)]
    new, early = transaction.add_units(
        UnitRow(experiment=record.experiment, unit=record.unit, lane=lane, sequence=record.sequence)
        for lane, record in sorted(routed, key=lambda each: (each[0], each[1].sequence))
        if Flag.STICKY in record.flags and Flag.EVIDENCE in record.flags
    )
    first = {(row.experiment, row.lane, row.sequence) for row in new}
    for lane, record in routed:
        counts = tallies[record.experiment].cell(record.epoch, record.arm)
        counts.requests += 1
        counts.masked += Flag.MASKED in record.flags
        if Flag.EVIDENCE not in record.flags:
            continue
        if Flag.STICKY in record.flags and (record.experiment, lane, record.sequence) not in first:
            continue
        counts.units += 1
        counts.count(LATENCY, LATENCY_SCALE.bin_of(record.latency_ms))
        counts.count(ERROR, int(record.status != 0))
        if record.status == 0:
            counts.count(COMPUTE, LATENCY_SCALE.bin_of(record.compute_ms))
            if prices := tallies[record.experiment].prices:
                occupied_ms = record.compute_ms / max(record.batch_rows, 1)
                cost = occupied_ms * (prices[record.arm] * 1_000.0 / 3.6e6)
                counts.count(COST, cost_scale(prices[0]).bin_of(cost))
            for source, value in ((FIRST_TOKEN, record.first_token_ms), (PER_TOKEN, record.token_ms)):
                if value is not None:
                    counts.count(source, LATENCY_SCALE.bin_of(value))
    for row in early:
        _credit_split(tallies[row.experiment], row)


def _count_pairs(
    transaction: Ingestion, tallies: Mapping[int, _Tally], batch: Iterable[tuple[int, Record]]
) -> None:
    remembered: list[PairRow] = []
    for lane, record in batch:
        if not isinstance(record, Pair):
            continue
        counts = tallies[record.experiment].pair(record.epoch, record.arm)
        counts.requests += 1
        counts.failed += record.status != 0
        counts.count(TOP1_AGREEMENT, int(record.agrees and record.status == 0))
        has_binary = any(
            isinstance(scale, BinaryScale) for scale in tallies[record.experiment].feedback.values()
        )
        if (
            has_binary
            and record.arm
            and record.baseline_top1 >= 0
            and (record.status != 0 or record.top1 >= 0)
        ):
            remembered.append(
                PairRow(
                    experiment=record.experiment,
                    lane=lane,
                    sequence=record.sequence,
                    arm=record.arm,
                    epoch=record.epoch,
                    baseline_top1=record.baseline_top1,
                    top1=record.top1 if record.status == 0 else -1,
                )
            )
    for pair, feedback in transaction.add_pairs(remembered):
        _credit_pair(tallies[pair.experiment], pair, feedback)


def _count_feedback(
    transaction: Ingestion, tallies: Mapping[int, _Tally], batch: Iterable[tuple[int, Record]]
) -> tuple[int, int]:
    records = [record for _, record in batch if isinstance(record, Feedback)]
    countable = [row for record in records if _is_countable(tallies[record.experiment], row := _row(record))]
    flags = {(r.experiment, r.lane, r.sequence): r.flags for r in records}
    new, matched = transaction.add_feedback(countable)
    for pair, feedback in matched:
        _credit_pair(tallies[pair.experiment], pair, feedback)
    drawn = [row for row in new if Flag.EVIDENCE in flags[_assignment(row)]]
    sticky = [row for row in drawn if Flag.STICKY in flags[_assignment(row)]]
    firsts = {_assignment(row) for row in transaction.of_first_requests(sticky)}
    for row in drawn:
        if Flag.STICKY not in flags[_assignment(row)] or _assignment(row) in firsts:
            _credit_split(tallies[row.experiment], row)
    return len(countable) - len(new), len(records) - len(countable)


def _credit_split(tally: _Tally, row: FeedbackRow) -> None:
    if not _is_countable(tally, row) or (row.sampled and _is_classified(tally, row)):
        return
    value = float(row.value == row.top1) if row.is_label else row.value
    tally.cell(row.epoch, row.arm).count(
        FEEDBACK_PREFIX + row.metric, tally.feedback[row.metric].bin_of(value)
    )


def _assignment(row: FeedbackRow) -> tuple[int, int, int]:
    return row.experiment, row.lane, row.sequence


def _is_classified(tally: _Tally, row: FeedbackRow) -> bool:
    """Whether the feedback says if a class was right, so that compared replies can be credited too."""
    return isinstance(tally.feedback[row.metric], BinaryScale) and row.top1 >= 0


def _is_countable(tally: _Tally, row: FeedbackRow) -> bool:
    scale = tally.feedback.get(row.metric)
    if scale is None:
        return False
    if row.is_label:
        return isinstance(scale, BinaryScale) and row.top1 >= 0
    return scale.low <= row.value <= scale.high and (isinstance(scale, GridScale) or row.value in (0.0, 1.0))


def _credit_pair(tally: _Tally, pair: PairRow, feedback: FeedbackRow) -> None:
    is_about_pair = feedback.arm == 0 and feedback.sampled and _is_countable(tally, feedback)
    if not is_about_pair or not _is_classified(tally, feedback):
        return
    if feedback.is_label:
        difference = int(pair.top1 == feedback.value) - int(pair.baseline_top1 == feedback.value)
    elif pair.top1 == pair.baseline_top1:
        difference = 0
    else:
        # Without the label nobody knows what a differing reply would have got: the worst is assumed.
        difference = int(tally.worst[feedback.metric] - feedback.value)
    tally.pair(pair.epoch, pair.arm).count(
        FEEDBACK_PREFIX + feedback.metric, DIFFERENCE_SCALE.bin_of(difference)
    )


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


def _append(transaction: Ingestion, identifier: int, tally: _Tally) -> None:
    if not tally.cells and not tally.pairs:
        return
    cells = [
        Cell(
            epoch=epoch,
            variant=tally.arms[arm],
            units=counts.units,
            requests=counts.requests,
            masked=counts.masked,
            metrics=counts.metrics,
        )
        for (epoch, arm), counts in sorted(tally.cells.items())
    ]
    pairs = [
        PairCell(
            epoch=epoch,
            variant=tally.arms[arm],
            pairs=counts.requests,
            failed=counts.failed,
            metrics=counts.metrics,
        )
        for (epoch, arm), counts in sorted(tally.pairs.items())
    ]
    transaction.add_delta(identifier, cells, pairs)
