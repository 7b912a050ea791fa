from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from anabranch.store.journal import JournalWriter, SegmentName
from anabranch.store.outcome_table import SCHEMA, Wanted, write_outcomes
from anabranch.store.records import Feedback, Flag, Pair, Record, Routed

UNIT = b"\0unit-with-zero\0"
WANTED = Wanted(experiment=3, arms=("base", "a"), first_epoch=2)
common: dict[str, Any] = {"at_s": 1_700_000_000.25, "experiment": 3, "epoch": 2}


def routed(sequence: int, **changes: Any) -> Routed:
    fields: dict[str, Any] = {
        **common,
        "arm": 1,
        "flags": Flag.EVIDENCE | Flag.STICKY,
        "status": 14,
        "latency_ms": 2.5,
        "queue_ms": 0.5,
        "compute_ms": 1.5,
        "batch_rows": 4,
        "propensity": 0.25,
        "sequence": sequence,
        "unit": UNIT,
        **changes,
    }
    return Routed(**fields)


PAIR = Pair(
    **common, arm=1, status=0, agrees=True, baseline_top1=7, top1=7, max_abs=0.5, cosine=0.75, sequence=2
)
FEEDBACK = Feedback(
    **common,
    arm=0,
    flags=Flag.SAMPLED,
    lane=9,
    sequence=2,
    top1=7,
    is_label=True,
    value=7.0,
    metric="correct",
)


def table(folder: Path, *records: Record) -> list[dict[str, Any]]:
    writer = JournalWriter(folder, 5)
    for record in records:
        writer.append(record)
        writer.commit()
    writer.close()
    done = write_outcomes(folder, WANTED, folder / "out.parquet")
    found = parquet.read_table(folder / "out.parquet")
    assert found.schema.equals(SCHEMA)
    rows: list[dict[str, Any]] = found.to_pylist()
    assert done.rows == len(rows)
    return rows


def test_every_kind_of_record_is_a_row_with_what_it_says(tmp_path: Path) -> None:
    request, generated, pair, feedback = sorted(
        table(tmp_path, routed(1), routed(2, first_token_ms=3.0), PAIR, FEEDBACK),
        key=lambda row: (["request", "pair", "feedback"].index(row["kind"]), row["sequence"]),
    )
    assert request["at"].timestamp() == 1_700_000_000.25
    assert (request["lane"], request["sequence"], request["epoch"], request["arm"]) == (5, 1, 2, 1)
    assert (request["variant"], request["status"], request["latency_ms"]) == ("a", 14, 2.5)
    assert (request["queue_ms"], request["compute_ms"], request["batch_rows"]) == (0.5, 1.5, 4)
    assert (request["propensity"], request["unit"]) == (0.25, UNIT)
    assert [request[name] for name in ("evidence", "sampled", "masked", "pinned", "sticky")] == [
        True,
        False,
        False,
        False,
        True,
    ]
    assert (request["ttft_ms"], request["agrees"], request["metric"]) == (None, None, None)
    assert (generated["ttft_ms"], generated["tpot_ms"]) == (3.0, None)
    assert (pair["agrees"], pair["baseline_top1"], pair["top1"]) == (True, 7, 7)
    assert (pair["max_abs"], pair["cosine"], pair["latency_ms"]) == (0.5, 0.75, None)
    assert (feedback["lane"], feedback["variant"], feedback["sampled"]) == (9, "base", True)
    assert (feedback["metric"], feedback["is_label"], feedback["value"]) == ("correct", True, 7.0)


@pytest.mark.parametrize("other", [{"experiment": 4}, {"epoch": 1}, {"arm": 2}])
def test_records_of_others_are_left_out(tmp_path: Path, other: dict[str, int]) -> None:
    assert [row["sequence"] for row in table(tmp_path, routed(1, **other), routed(2))] == [2]


def test_a_damaged_segment_gives_what_stands_before_the_damage(tmp_path: Path) -> None:
    table(tmp_path, routed(1), routed(2), routed(3))
    path = SegmentName(lane=5, index=0).path(tmp_path)
    spoiled = bytearray(path.read_bytes())
    spoiled[-1] ^= 1
    path.write_bytes(spoiled)
    done = write_outcomes(tmp_path, WANTED, tmp_path / "out.parquet")
    assert done.rows == 2
    [reason] = done.damage
    assert "fails its checksum" in reason
