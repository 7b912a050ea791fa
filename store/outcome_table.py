"""An experiment's raw outcomes as a table: one row for every record of the journal, written as Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from anabranch.store.counting import Batch
from anabranch.store.journal import Block, SegmentName, read_block, segments
from anabranch.store.record_arrays import GENERATED, PAIR, ROUTED
from anabranch.store.records import Feedback, Flag

_BATCH_RECORDS: Final = 100_000
_FLAGS: Final = {
    "evidence": Flag.EVIDENCE,
    "sampled": Flag.SAMPLED,
    "masked": Flag.MASKED,
    "pinned": Flag.PINNED,
    "sticky": Flag.STICKY,
}
_TEXT: Final = pa.dictionary(pa.int32(), pa.string())
SCHEMA: Final = pa.schema(
    [
        ("kind", _TEXT),
        ("at", pa.timestamp("us", tz="UTC")),
        ("lane", pa.int64()),
        ("sequence", pa.uint64()),
        ("epoch", pa.uint32()),
        ("arm", pa.uint8()),
        ("variant", _TEXT),
        *((name, pa.bool_()) for name in _FLAGS),
        ("status", pa.uint8()),
        ("latency_ms", pa.float32()),
        ("queue_ms", pa.float32()),
        ("compute_ms", pa.float32()),
        ("batch_rows", pa.uint16()),
        ("propensity", pa.float32()),
        ("unit", pa.binary(16)),
        ("ttft_ms", pa.float32()),
        ("tpot_ms", pa.float32()),
        ("agrees", pa.bool_()),
        ("baseline_top1", pa.int32()),
        ("top1", pa.int32()),
        ("max_abs", pa.float32()),
        ("cosine", pa.float32()),
        ("metric", _TEXT),
        ("is_label", pa.bool_()),
        ("value", pa.float64()),
    ]
)
"""`kind` is request, pair or feedback; what a kind has not is null. (lane, sequence) names the request in all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Whose records.

    Attributes:
        experiment: Its number in records.
        arms: Variants by the number of their arm.
        first_epoch: Records of an earlier epoch belong to an earlier spec version.
    """

    experiment: int
    arms: Sequence[str]
    first_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        rows: Of the table.
        damage: Segments that could be read in part only, with the reason.
    """

    rows: int
    damage: tuple[str, ...]


def write_outcomes(journal: Path, wanted: Wanted, path: Path) -> Exported:
    """Write everything that the journal holds of an experiment; the file appears when it is whole.

    Args:
        journal: Folder of the segments.
        wanted: Whose records.
        path: Where to.
    """
    rows, damage = 0, []
    fresh = path.with_name(path.name + ".part")
    with parquet.ParquetWriter(fresh, SCHEMA, compression="zstd") as writer:
        for name in segments(journal):
            offset = 0
            while True:
                block = read_block(name.path(journal), offset, limit=_BATCH_RECORDS)
                for table in _tables(name, block, wanted):
                    writer.write_table(table)
                    rows += table.num_rows
                if block.damage:
                    damage.append(block.damage)
                if block.damage or not block.records:
                    break
                offset = block.end
    fresh.replace(path)
    return Exported(rows=rows, damage=tuple(damage))


def _tables(name: SegmentName, block: Block, wanted: Wanted) -> Iterator[Any]:
    for data, dtype in ((block.requests, ROUTED), (block.generated, GENERATED), (block.pairs, PAIR)):
        records = np.frombuffer(data, dtype)
        records = records[
            (records["experiment"] == wanted.experiment)
            & (records["epoch"] >= wanted.first_epoch)
            & (records["arm"] < len(wanted.arms))
        ]
        if len(records):
            lanes = np.full(len(records), name.lane, np.int64)
            yield _table(
                _shared_columns(Batch(records=records, lanes=lanes), wanted)
                | (_pair_columns(records) if dtype is PAIR else _request_columns(records, lanes)),
                len(records),
            )
    feedback = [
        record
        for record in block.feedback
        if record.experiment == wanted.experiment
        and record.epoch >= wanted.first_epoch
        and record.arm < len(wanted.arms)
    ]
    if feedback:
        yield _table(_feedback_columns(feedback, wanted), len(feedback))


def _table(columns: dict[str, Any], rows: int) -> Any:
    arrays = [
        pa.array(columns[each.name]).cast(each.type) if each.name in columns else pa.nulls(rows, each.type)
        for each in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _shared_columns(batch: Batch, wanted: Wanted) -> dict[str, Any]:
    records = batch.records
    return {
        "at": _times(records["at_s"]),
        "lane": batch.lanes,
        "variant": np.array(wanted.arms, dtype=object)[records["arm"]],
        **{name: np.ascontiguousarray(records[name]) for name in ("sequence", "epoch", "arm", "status")},
    }


def _request_columns(records: Any, lanes: Any) -> dict[str, Any]:
    batch = Batch(records=records, lanes=lanes)
    names = ("latency_ms", "queue_ms", "compute_ms", "batch_rows", "propensity")
    units = records["unit"].tobytes()
    found: dict[str, Any] = {
        "kind": ["request"] * len(records),
        "unit": pa.array([units[start : start + 16] for start in range(0, len(units), 16)], pa.binary(16)),
        **{name: np.ascontiguousarray(records[name]) for name in names},
        **{name: batch.has(flag) for name, flag in _FLAGS.items()},
    }
    if "first_token_ms" in records.dtype.names:
        found["ttft_ms"] = np.ascontiguousarray(records["first_token_ms"])
        token = np.ascontiguousarray(records["token_ms"])
        found["tpot_ms"] = pa.array(token, mask=np.isnan(token))
    return found


def _pair_columns(records: Any) -> dict[str, Any]:
    names = ("agrees", "baseline_top1", "top1", "max_abs", "cosine")
    return {
        "kind": ["pair"] * len(records),
        **{name: np.ascontiguousarray(records[name]) for name in names},
    }


def _feedback_columns(records: list[Feedback], wanted: Wanted) -> dict[str, Any]:
    names = ("lane", "sequence", "epoch", "arm", "top1", "metric", "is_label", "value")
    return {
        "kind": ["feedback"] * len(records),
        "at": _times(np.array([record.at_s for record in records])),
        "variant": [wanted.arms[record.arm] for record in records],
        **{name: [getattr(record, name) for record in records] for name in names},
        **{name: [flag in record.flags for record in records] for name, flag in _FLAGS.items()},
    }


def _times(seconds: Any) -> Any:
    return np.round(seconds * 1e6).astype(np.int64).view("datetime64[us]")
