"""Label windows: requests wait for their labels, and count all at once when the time for labels is over.

A label that counts when it comes biases a comparison whenever the delay depends on the label or on the variant. So what
enters is the request: when its window opens it is remembered, and when the window closes it counts with the label that
came in time, or as one without. Whatever comes later is counted as late, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from anabranch.bandit.measures import DIFFERENCE_SCALE
from anabranch.bandit.spec import FEEDBACK_PREFIX
from anabranch.store.counting import Batch, BoolArray, waits_for_label
from anabranch.store.ingestion_port import FeedbackRow, Ingestion, WaitingRow
from anabranch.store.port import Store, StoredExperiment
from anabranch.store.record_arrays import RecordArray
from anabranch.store.records import Flag
from anabranch.store.tally import Counts, Plans, Tally, difference
from anabranch.store.waiting import WAITING, WAITING_PAIR, pack, unpack

GRACE_S: Final = 5.0
"""How long a closed window waits for labels that another router has taken, and not yet brought to the store."""
_MOST_BATCHES: Final = 200
"""Batches of one transaction: nobody waits long for its end."""


@dataclass(slots=True)
class Opened:
    """What begins to wait in one ingestion, by experiment and lane."""

    requests: dict[tuple[int, int], list[RecordArray]]
    pairs: dict[tuple[int, int], list[RecordArray]]

    @classmethod
    def none(cls) -> Opened:
        """Nothing yet."""
        return cls(requests={}, pairs={})

    def add_requests(self, tallies: Mapping[int, Tally], batch: Batch, counts_for_split: BoolArray) -> None:
        """Note requests that are evidence of the split."""
        for key, tally in tallies.items():
            if not tally.plan.windows:
                continue
            mine = counts_for_split & (batch.records["experiment"] == key)
            chosen = batch.only(mine)
            rows = _rows(WAITING, chosen.records)
            rows["sampled"] = chosen.has(Flag.SAMPLED)
            for name in tally.plan.windows:
                for (epoch, arm), count in _by_cell(_asked(tally, name, rows)).items():
                    tally.cell(epoch, arm).window(FEEDBACK_PREFIX + name).opened += count
            _by_lane(self.requests, key, chosen.lanes, rows)

    def add_pairs(self, tallies: Mapping[int, Tally], batch: Batch) -> None:
        """Note compared replies to which a label has something to say."""
        for key, tally in tallies.items():
            names = [name for name in tally.plan.windows if tally.is_binary(name)]
            if not names:
                continue
            chosen = batch.only((batch.records["experiment"] == key) & waits_for_label(batch.records))
            rows = _rows(WAITING_PAIR, chosen.records)
            rows["baseline_top1"] = chosen.records["baseline_top1"]
            rows["top1"] = np.where(chosen.records["status"] == 0, chosen.records["top1"], -1)
            for (epoch, arm), count in _by_cell(rows).items():
                for name in names:
                    tally.pair(epoch, arm).window(FEEDBACK_PREFIX + name).opened += count
            _by_lane(self.pairs, key, chosen.lanes, rows)

    def rows(self, tallies: Mapping[int, Tally]) -> list[WaitingRow]:
        """What is to be remembered."""
        found = []
        for key, lane in sorted({*self.requests, *self.pairs}):
            requests = _sorted(WAITING, self.requests.get((key, lane), []))
            pairs = _sorted(WAITING_PAIR, self.pairs.get((key, lane), []))
            sequences = np.concatenate([requests["sequence"], pairs["sequence"]])
            last_ms = int(np.concatenate([requests["at_ms"], pairs["at_ms"]]).max())
            body = pack(requests, pairs)
            found += [
                WaitingRow(
                    experiment=key,
                    lane=lane,
                    first=int(sequences.min()),
                    last=int(sequences.max()),
                    window_s=window_s,
                    closes_s=last_ms / 1000 + window_s,
                    body=body,
                )
                for window_s in sorted(set(tallies[key].plan.windows.values()))
            ]
        return found


class LabelWindows:
    """Closes the windows of a store's experiments.

    Args:
        store: Where the requests wait.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._plans = Plans()

    def close(self, experiments: Iterable[StoredExperiment], now: float) -> bool:
        """Count the requests whose windows are over; answers whether there were any.

        Call it when all labels are read that can be: one that is read later counts as late.

        Args:
            experiments: Those that go on.
            now: Seconds since 1970.
        """
        wanted = [
            kept.id
            for kept in experiments
            if not kept.state.phase.is_over
            and self._plans.of(kept.id, kept.spec_version, kept.first_epoch, kept.document).windows
        ]
        has_closed = False
        while wanted:
            with self._store.ingestion() as transaction:
                due = transaction.due(wanted, now - GRACE_S, limit=_MOST_BATCHES)
                if due:
                    self._count(transaction, due)
            has_closed = has_closed or bool(due)
            if len(due) < _MOST_BATCHES:
                break
        return has_closed

    def _count(self, transaction: Ingestion, due: list[WaitingRow]) -> None:
        # The documents as they are in this transaction: one may have been applied since.
        tallies = {key: Tally(plan) for key, plan in self._plans.read(transaction.specs()).items()}
        for row in due:
            if row.experiment in tallies:
                close(transaction, tallies[row.experiment], row)
        for key, tally in tallies.items():
            if tally.cells or tally.pairs:
                transaction.add_delta(key, *tally.delta())


def close(transaction: Ingestion, tally: Tally, row: WaitingRow) -> None:
    """Count one batch of requests with the labels that came in time, and without."""
    requests, pairs = (rows[rows["epoch"] >= tally.plan.first_epoch] for rows in unpack(row.body))
    given: dict[str, list[FeedbackRow]] = {}
    for label in transaction.feedback_of(row.experiment, row.lane, row.first, row.last):
        if tally.is_countable(label):
            given.setdefault(label.metric, []).append(label)
    for name, window_s in tally.plan.windows.items():
        if window_s == row.window_s:
            labels = given.get(name, [])
            _close_split(tally, name, _asked(tally, name, requests), labels)
            if tally.is_binary(name):
                _close_pairs(tally, name, pairs, labels)


def count_late(transaction: Ingestion, tally: Tally, labels: list[FeedbackRow]) -> None:
    """Count new labels of the split that came after their requests had counted without them."""
    waited = [
        label for label in labels if label.metric in tally.plan.windows and not tally.is_for_pairs(label)
    ]
    if not waited:
        return
    still = transaction.waits_from(waited[0].experiment, {label.lane for label in waited})
    for label in waited:
        if label.lane not in still or label.sequence < still[label.lane]:
            tally.cell(label.epoch, label.arm).window(FEEDBACK_PREFIX + label.metric).late += 1


def _close_split(tally: Tally, name: str, requests: RecordArray, labels: list[FeedbackRow]) -> None:
    source = FEEDBACK_PREFIX + name
    without = _by_cell(requests)
    for label, place in _found(requests, labels):
        request = requests[place]
        cell = (int(request["epoch"]), int(request["arm"]))
        if _is_late(tally, name, request, label):
            tally.cell(*cell).window(source).late += 1
            continue
        without[cell] -= 1
        tally.cell(*cell).count(source, tally.bin_of(label))
    for cell, count in without.items():
        tally.cell(*cell).window(source).unlabelled += count


def _close_pairs(tally: Tally, name: str, pairs: RecordArray, labels: list[FeedbackRow]) -> None:
    source = FEEDBACK_PREFIX + name
    said = {label.sequence: label for label in labels if label.arm == 0 and label.sampled and label.top1 >= 0}
    for pair in pairs:
        counts: Counts = tally.pair(int(pair["epoch"]), int(pair["arm"]))
        label = said.get(int(pair["sequence"]))
        top1, baseline_top1 = int(pair["top1"]), int(pair["baseline_top1"])
        if top1 == baseline_top1:
            # Whatever is right, both are or neither is.
            apart = 0
        elif label is None or _is_late(tally, name, pair, label):
            counts.window(source).unlabelled += 1
            continue
        else:
            apart = difference(top1, baseline_top1, label, tally.plan.worst[name])
        counts.count(source, DIFFERENCE_SCALE.bin_of(apart))


def _is_late(tally: Tally, name: str, row: np.void, label: FeedbackRow) -> bool:
    return label.at_s * 1000 > int(row["at_ms"]) + tally.plan.windows[name] * 1000


def _asked(tally: Tally, name: str, requests: RecordArray) -> RecordArray:
    """The requests whose label says something of the split: a class of a mirrored one is judged in the pairs."""
    return requests[~requests["sampled"]] if tally.is_binary(name) else requests


def _found(requests: RecordArray, labels: list[FeedbackRow]) -> Iterable[tuple[FeedbackRow, int]]:
    """The labels of these requests, which are sorted by sequence, and the place of each."""
    if not len(requests) or not labels:
        return
    sequences = requests["sequence"]
    places = np.searchsorted(sequences, np.array([label.sequence for label in labels], np.uint64))
    for label, place in zip(labels, places.tolist(), strict=True):
        if place < len(sequences) and int(sequences[place]) == label.sequence:
            yield label, place


def _rows(dtype: np.dtype[np.void], records: RecordArray) -> RecordArray:
    rows = np.zeros(len(records), dtype)
    for name in ("sequence", "epoch", "arm"):
        rows[name] = records[name]
    rows["at_ms"] = np.floor(records["at_s"] * 1000).astype(np.int64)
    return rows


def _by_cell(rows: RecordArray) -> dict[tuple[int, int], int]:
    """How many there are by epoch and arm."""
    keys, counts = np.unique(
        rows["epoch"].astype(np.uint64) << np.uint64(8) | rows["arm"].astype(np.uint64), return_counts=True
    )
    return {(key >> 8, key & 255): count for key, count in zip(keys.tolist(), counts.tolist(), strict=True)}


def _by_lane(
    found: dict[tuple[int, int], list[RecordArray]], key: int, lanes: np.ndarray, rows: RecordArray
) -> None:
    for lane in np.unique(lanes).tolist():
        found.setdefault((key, lane), []).append(rows[lanes == lane])


def _sorted(dtype: np.dtype[np.void], parts: list[RecordArray]) -> RecordArray:
    rows = np.concatenate(parts) if parts else np.zeros(0, dtype)
    return rows[np.argsort(rows["sequence"], kind="stable")]
