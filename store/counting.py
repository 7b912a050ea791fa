"""Requests and compared replies counted in bulk: what takes microseconds one by one takes a fraction of one here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anabranch.bandit.costs import cost_per_1k, cost_scale
from anabranch.bandit.measures import KL_SCALE, LATENCY_SCALE
from anabranch.bandit.spec import COMPUTE, COST, ERROR, FIRST_TOKEN, KL, LATENCY, PER_TOKEN, TOP1_AGREEMENT
from anabranch.store.ingestion_port import PairRow
from anabranch.store.record_arrays import RecordArray
from anabranch.store.records import Flag
from anabranch.store.tally import Counts, Tally

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

_NO_EPOCH = np.iinfo(np.int64).max
# Counting by index needs a place for every bin of every group; beyond so many, sorting is cheaper.
_MOST_PLACES = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Records of one kind.

    Attributes:
        records: As written.
        lanes: The lane of each.
    """

    records: RecordArray
    lanes: IntArray

    def only(self, chosen: BoolArray) -> Batch:
        """Some of them."""
        return Batch(records=self.records[chosen], lanes=self.lanes[chosen])

    def has(self, flag: Flag) -> BoolArray:
        """Which of them have a flag."""
        result: BoolArray = (self.records["flags"] & np.uint8(flag)) != 0
        return result


def known(tallies: Mapping[int, Tally], batch: Batch) -> Batch:
    """The records that belong to a present spec version, and can be counted."""
    records = batch.records
    identifiers, which = np.unique(records["experiment"], return_inverse=True)
    plans = [tallies[int(each)].plan if int(each) in tallies else None for each in identifiers]
    first_epoch = np.array([_NO_EPOCH if plan is None else plan.first_epoch for plan in plans], np.int64)
    arms = np.array([0 if plan is None else len(plan.arms) for plan in plans], np.int64)
    belongs = (records["epoch"] >= first_epoch[which]) & (records["arm"] < arms[which])
    for name in ("latency_ms", "compute_ms", "first_token_ms"):
        if name in (records.dtype.names or ()):
            # Not "< 0": what is no number is refused too.
            belongs &= records[name] >= 0.0
    if "token_ms" in (records.dtype.names or ()):
        # No number here: there was at most one token.
        belongs &= ~(records["token_ms"] < 0.0)
    return batch if belongs.all() else batch.only(belongs)


def count_requests(tallies: Mapping[int, Tally], batch: Batch, counts_for_split: BoolArray) -> None:
    """Count known requests.

    Args:
        tallies: Where to, by experiment.
        batch: What is counted.
        counts_for_split: Which of them are evidence: drawn by the coin, and the first of their unit.
    """
    records = batch.records
    if not len(records):
        return
    group, counts = _groups(records, {key: tally.cells for key, tally in tallies.items()})
    _add(group, counts, "requests")
    _add(group[batch.has(Flag.MASKED)], counts, "masked")
    group, records = group[counts_for_split], records[counts_for_split]
    _add(group, counts, "units")
    failed = records["status"] != 0
    _add_bins(group, counts, LATENCY, LATENCY_SCALE.bins_of(records["latency_ms"]), LATENCY_SCALE.bins)
    _add_bins(group, counts, ERROR, failed.astype(np.int64), 2)
    group, records = group[~failed], records[~failed]
    _add_bins(group, counts, COMPUTE, LATENCY_SCALE.bins_of(records["compute_ms"]), LATENCY_SCALE.bins)
    _count_costs(tallies, group, counts, records)
    for name, source in (("first_token_ms", FIRST_TOKEN), ("token_ms", PER_TOKEN)):
        if name in (records.dtype.names or ()):
            has = ~np.isnan(records[name])
            _add_bins(
                group[has], counts, source, LATENCY_SCALE.bins_of(records[name][has]), LATENCY_SCALE.bins
            )


def _count_costs(
    tallies: Mapping[int, Tally], group: IntArray, counts: list[Counts], records: RecordArray
) -> None:
    """What answered requests cost, where an experiment asks for it."""
    for key, tally in tallies.items():
        prices = tally.plan.prices
        if not prices:
            continue
        mine = records["experiment"] == key
        chosen, scale = records[mine], cost_scale(prices[0])
        costs = cost_per_1k(chosen["compute_ms"], chosen["batch_rows"], np.asarray(prices)[chosen["arm"]])
        _add_bins(group[mine], counts, COST, scale.bins_of(costs), scale.bins)


def count_pairs(tallies: Mapping[int, Tally], batch: Batch) -> None:
    """Count known compared replies: one that the candidate did not answer does not agree, and diverges as far as counts."""
    records = batch.records
    if not len(records):
        return
    group, counts = _groups(records, {key: tally.pairs for key, tally in tallies.items()})
    failed = records["status"] != 0
    _add(group, counts, "requests")
    _add(group[failed], counts, "failed")
    _add_bins(group, counts, TOP1_AGREEMENT, (records["agrees"] & ~failed).astype(np.int64), 2)
    _count_divergence(tallies, group, counts, records, failed)


def _count_divergence(
    tallies: Mapping[int, Tally],
    group: IntArray,
    counts: list[Counts],
    records: RecordArray,
    failed: BoolArray,
) -> None:
    """Nats, where an experiment asks for them and the replies say them."""
    asked = [key for key, tally in tallies.items() if tally.plan.asks_divergence]
    if not asked:
        return
    counted = np.isin(records["experiment"], asked) & (failed | ~np.isnan(records["kl"]))
    nats = np.where(failed, KL_SCALE.high, records["kl"]).clip(KL_SCALE.low, KL_SCALE.high)
    _add_bins(group[counted], counts, KL, KL_SCALE.bins_of(nats[counted]), KL_SCALE.bins)


def waits_for_label(records: RecordArray) -> BoolArray:
    """Which compared replies have classes that a label can judge."""
    waits: BoolArray = (records["arm"] != 0) & (records["baseline_top1"] >= 0)
    waits &= (records["status"] != 0) | (records["top1"] >= 0)
    return waits


def pairs_to_remember(tallies: Mapping[int, Tally], batch: Batch) -> list[PairRow]:
    """The compared replies to which feedback may still have something to say."""
    records = batch.records
    waits = waits_for_label(records)
    return [
        PairRow(
            experiment=experiment,
            lane=lane,
            sequence=sequence,
            arm=arm,
            epoch=epoch,
            baseline_top1=baseline_top1,
            top1=top1 if status == 0 else -1,
        )
        for lane, experiment, sequence, arm, epoch, baseline_top1, top1, status in zip(
            batch.lanes[waits].tolist(),
            *(
                records[name][waits].tolist()
                for name in ("experiment", "sequence", "arm", "epoch", "baseline_top1", "top1", "status")
            ),
            strict=True,
        )
        if tallies[experiment].plan.remembers_pairs
    ]


def _groups(
    records: RecordArray, cells: Mapping[int, dict[tuple[int, int], Counts]]
) -> tuple[IntArray, list[Counts]]:
    """For every record the number of its (experiment, epoch, arm), and what each number counts into."""
    _, first, group = np.unique(
        records["experiment"].astype(np.uint64) << np.uint64(40)
        | records["epoch"].astype(np.uint64) << np.uint64(8)
        | records["arm"].astype(np.uint64),
        return_index=True,
        return_inverse=True,
    )
    found = records[first]
    counts = [
        cells[experiment].setdefault((epoch, arm), Counts())
        for experiment, epoch, arm in zip(
            found["experiment"].tolist(), found["epoch"].tolist(), found["arm"].tolist(), strict=True
        )
    ]
    return group.astype(np.int64), counts


def _add(group: IntArray, counts: list[Counts], field: str) -> None:
    for each, number in zip(counts, np.bincount(group, minlength=len(counts)).tolist(), strict=True):
        setattr(each, field, getattr(each, field) + number)


def _add_bins(group: IntArray, counts: list[Counts], source: str, bins: IntArray, most: int) -> None:
    """Count the bins of one source into their groups."""
    places = group * most + bins
    if len(counts) * most <= _MOST_PLACES:
        dense = np.bincount(places)
        taken = np.flatnonzero(dense)
        times = dense[taken]
    else:
        taken, times = np.unique(places, return_counts=True)
    owners, indices = np.divmod(taken, most)
    for owner, index, number in zip(owners.tolist(), indices.tolist(), times.tolist(), strict=True):
        counts[owner].count(source, index, number)
