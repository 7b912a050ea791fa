import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.bandit.evidence import Evidence
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.measures import LATENCY_SCALE
from anabranch.store.ingest import Ingested, Ingester, ingest
from anabranch.store.journal import JournalWriter, SegmentName, segments
from anabranch.store.memory import MemoryStore
from anabranch.store.records import Feedback, Flag, Pair, Record, Routed
from bench.record_by_record import ingest_one_by_one

_UNITS = [bytes([number]) * 15 + b"\0" for number in range(4)]
times = st.one_of(
    st.floats(width=32, min_value=0.0, allow_infinity=True),
    st.sampled_from([math.nan, -1.0, 0.0, math.inf]),
    st.integers(0, LATENCY_SCALE.bins - 2).map(LATENCY_SCALE.upper_border),
)
flags = st.integers(0, 31).map(Flag)
common = {
    "at_s": st.just(1.0),
    "experiment": st.sampled_from([1, 1, 1, 2, 9]),
    "epoch": st.integers(3, 6),
    "arm": st.integers(0, 3),
    "sequence": st.integers(0, 12),
}
routed = st.builds(
    Routed,
    **common,
    flags=flags,
    status=st.sampled_from([0, 0, 0, 4, 14]),
    latency_ms=times,
    queue_ms=st.just(0.0),
    compute_ms=times,
    batch_rows=st.integers(0, 9),
    propensity=st.just(0.5),
    unit=st.sampled_from(_UNITS),
)
generated = st.builds(
    lambda record, first, other: replace(record, first_token_ms=first, token_ms=other),
    routed,
    times,
    st.none() | times,
)
pairs = st.builds(
    Pair,
    **common,
    status=st.sampled_from([0, 0, 14]),
    agrees=st.booleans(),
    baseline_top1=st.integers(-1, 1),
    top1=st.integers(-1, 1),
    max_abs=st.just(0.0),
    cosine=st.just(1.0),
)
feedback = st.builds(
    Feedback,
    **common,
    flags=flags,
    lane=st.integers(1, 3),
    top1=st.integers(-1, 1),
    is_label=st.booleans(),
    value=st.sampled_from([0.0, 1.0, 0.5, 2.0, math.nan]),
    metric=st.sampled_from(["correct", "stars", "complaint", "nobody"]),
)
commits = st.lists(st.lists(st.one_of(routed, generated, pairs, feedback), max_size=6), max_size=8)


@pytest.fixture(scope="module")
def documents(small_document: dict[str, Any]) -> list[dict[str, Any]]:
    """One experiment with every kind of feedback in its second spec version, costs included, and another on another model."""
    metrics = [
        *small_document["spec"]["metrics"],
        {"name": "stars", "source": "feedback.stars", "role": "signal", "range": [1, 5]},
        {
            "name": "complaints",
            "source": "feedback.complaint",
            "role": "guardrail",
            "direction": "min",
            "nonInferiorityMargin": 0.1,
        },
    ]
    metrics.append({"name": "cost", "source": "cost_per_1k", "role": "signal"})
    prices = {"base": 0.3, "a": 1.7, "b": 0.0421}
    rated = small_document | {"spec": small_document["spec"] | {"metrics": metrics, "hourlyPrices": prices}}
    plain = {
        **small_document,
        "metadata": {"name": "other"},
        "spec": {**small_document["spec"], "model": "other", "candidates": ["a"]},
    }
    return [rated, plain]


def _store(documents: list[dict[str, Any]]) -> MemoryStore:
    store = MemoryStore()
    for document in documents:
        store.apply(document, "ada", 0.0)
    kept = store.experiment("exp")
    store.save(
        "exp",
        expected=kept.state_version,
        state=replace(kept.state, phase=Phase.ABORTED, epoch=3),
        evidence=Evidence(experiment="exp"),
        decision=None,
    )
    changed = {**documents[0], "spec": {**documents[0]["spec"], "delta": 0.04}}
    store.apply(changed, "ada", 1.0)
    return store


def _write(folder: Path, lanes: list[list[list[Record]]]) -> None:
    for lane, parts in enumerate(lanes, 1):
        writer = JournalWriter(folder, lane, segment_bytes=500)
        numbered: set[int] = set()
        for part in parts:
            for record in part:
                # A lane numbers each of its requests once.
                if isinstance(record, Routed) and record.sequence in numbered:
                    continue
                numbered |= {record.sequence} if isinstance(record, Routed) else set()
                writer.append(record)
            writer.commit()
        writer.close()


def _damage(folder: Path, data: st.DataObject) -> None:
    """Cut a segment off, or change one of its bytes."""
    paths = [name.path(folder) for name in segments(folder)]
    for path in data.draw(st.lists(st.sampled_from(paths), max_size=2, unique=True)):
        whole = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(whole) - 1))
        if data.draw(st.booleans()):
            del whole[place:]
        else:
            whole[place] ^= data.draw(st.integers(1, 255))
        path.write_bytes(bytes(whole))


def _everything(
    documents: list[dict[str, Any]], folder: Path, read: Callable[..., Ingested], limit: int
) -> tuple[object, ...]:
    store = _store(documents)
    records = duplicates = strangers = 0
    while (report := read(store, folder, limit=limit)).records:
        records += report.records
        duplicates += report.duplicates
        strangers += report.strangers
    evidence = [store.load_evidence(name, 0) for name in ("exp", "other")]
    return records, duplicates, strangers, [(each.cells, each.pairs) for each in evidence]


@settings(max_examples=120, deadline=None)
@given(data=st.data(), lanes=st.lists(commits, min_size=1, max_size=3), limit=st.integers(1, 40))
def test_in_bulk_and_one_by_one_count_the_same_however_the_journal_is_damaged(
    documents: list[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    lanes: list[list[list[Record]]],
    limit: int,
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    _write(folder, lanes)
    _damage(folder, data)
    assert _everything(documents, folder, ingest, limit) == _everything(
        documents, folder, ingest_one_by_one, limit
    )


@given(st.lists(times.filter(lambda value: value >= 0.0), min_size=1, max_size=50))
def test_bins_of_many_are_the_bins_of_each(values: list[float]) -> None:
    assert LATENCY_SCALE.bins_of(values).tolist() == [LATENCY_SCALE.bin_of(value) for value in values]


def _request(sequence: int) -> Routed:
    return Routed(
        at_s=1.0,
        experiment=1,
        epoch=4,
        arm=0,
        flags=Flag.EVIDENCE,
        status=0,
        latency_ms=1.0,
        queue_ms=0.0,
        compute_ms=1.0,
        batch_rows=1,
        propensity=0.5,
        sequence=sequence,
        unit=bytes(16),
    )


@pytest.fixture
def ingester(documents: list[dict[str, Any]], tmp_path: Path) -> Ingester:
    return Ingester(_store(documents), tmp_path, limit=2)


def test_a_batch_that_the_limit_cuts_short_says_what_is_left(ingester: Ingester, tmp_path: Path) -> None:
    _write(tmp_path, [[[_request(number)] for number in range(3)], [[_request(9)]]])
    size = 16 + 64  # a group of one request
    first = ingester.ingest()
    assert (first.records, first.waiting_bytes) == (2, size + 16 + size)
    second = ingester.ingest()
    assert (second.records, second.waiting_bytes) == (2, 0)
    assert ingester.ingest() == Ingested()


def test_what_was_read_to_its_end_is_read_again_when_it_grows(ingester: Ingester, tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, 1)
    for number in range(3):
        writer.append(_request(number))
        writer.commit()
        assert ingester.ingest().records == 1
        assert ingester.ingest().records == 0


def test_a_segment_that_stops_amid_a_group_before_the_next_one_is_damaged(
    ingester: Ingester, tmp_path: Path
) -> None:
    _write(tmp_path, [[[_request(number)] for number in range(8)]])
    first, *others = segments(tmp_path)
    assert others
    path = first.path(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    reports = [ingester.ingest() for _ in range(6)]
    assert sum(report.records for report in reports) == 7
    [reason] = reports[-1].corrupt
    assert "ends in the middle of a group" in reason


def test_a_torn_end_of_a_lanes_last_segment_is_no_damage(ingester: Ingester, tmp_path: Path) -> None:
    _write(tmp_path, [[[_request(number)] for number in range(2)]])
    path = SegmentName(lane=1, index=0).path(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    assert ingester.ingest() == Ingested(records=1)
    assert ingester.ingest() == Ingested()
