import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anabranch.bandit.evidence import Evidence
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.measures import KL_SCALE, LATENCY_SCALE
from anabranch.store.ingest import Ingested, ingest
from anabranch.store.journal import JournalWriter, SegmentName
from anabranch.store.memory import MemoryStore
from anabranch.store.port import Store
from anabranch.store.records import Feedback, Flag, Pair, Record, Routed

EVIDENCE = Flag.EVIDENCE
STICKY = Flag.EVIDENCE | Flag.STICKY
SAMPLED = Flag.EVIDENCE | Flag.SAMPLED


def routed(sequence: int, **changes: Any) -> Routed:
    usual = Routed(
        at_s=1.0,
        experiment=1,
        epoch=1,
        arm=0,
        flags=EVIDENCE,
        status=0,
        latency_ms=10.0,
        queue_ms=1.0,
        compute_ms=8.0,
        batch_rows=1,
        propensity=0.5,
        sequence=sequence,
        unit=bytes(16),
    )
    return replace(usual, **changes)


def pair(sequence: int, **changes: Any) -> Pair:
    usual = Pair(
        at_s=1.0,
        experiment=1,
        epoch=1,
        arm=1,
        status=0,
        agrees=True,
        baseline_top1=1,
        top1=1,
        max_abs=0.0,
        cosine=1.0,
        sequence=sequence,
    )
    return replace(usual, **changes)


def feedback(sequence: int, **changes: Any) -> Feedback:
    usual = Feedback(
        at_s=2.0,
        experiment=1,
        epoch=1,
        arm=0,
        flags=EVIDENCE,
        lane=1,
        sequence=sequence,
        top1=1,
        is_label=False,
        value=1.0,
        metric="correct",
    )
    return replace(usual, **changes)


@pytest.fixture(scope="session")
def rated(small_document: dict[str, Any]) -> dict[str, Any]:
    """The small document with a graded feedback and one where lower is better."""
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
    return small_document | {"spec": small_document["spec"] | {"metrics": metrics}}


@pytest.fixture
def store(rated: dict[str, Any]) -> Store:
    store = MemoryStore()
    store.apply(rated, "ada", 0.0)
    return store


@pytest.fixture
def read(store: Store, tmp_path: Path) -> Callable[..., tuple[Evidence, Ingested]]:
    """Journals records in a lane of their own, ingests them, and answers all evidence so far."""
    lanes = iter(range(1, 1000))

    def journal(*records: Record) -> tuple[Evidence, Ingested]:
        writer = JournalWriter(tmp_path, next(lanes))
        for record in records:
            writer.append(record)
        writer.close()
        report = ingest(store, tmp_path)
        return store.load_evidence("exp", 0), report

    return journal


Read = Callable[..., tuple[Evidence, Ingested]]


def sources(evidence: Evidence) -> dict[str, dict[int, int]]:
    """The metrics of the only cell."""
    [cell] = evidence.cells
    return {source: dict(histogram) for source, histogram in cell.metrics.items()}


def test_a_request_drawn_by_the_coin_is_evidence_of_the_split(read: Read) -> None:
    evidence, report = read(routed(1, arm=2), routed(2, arm=2, latency_ms=20.0))
    [cell] = evidence.cells
    assert (cell.variant, cell.epoch, cell.units, cell.requests, cell.masked) == ("b", 1, 2, 2, 0)
    assert sources(evidence) == {
        "latency_ms": {LATENCY_SCALE.bin_of(10.0): 1, LATENCY_SCALE.bin_of(20.0): 1},
        "error": {0: 2},
        "compute_ms": {LATENCY_SCALE.bin_of(8.0): 2},
    }
    assert report == Ingested(records=2)


def test_a_pinned_request_is_counted_but_no_evidence(read: Read) -> None:
    evidence, _ = read(routed(1, flags=Flag.PINNED))
    [cell] = evidence.cells
    assert (cell.requests, cell.units, dict(cell.metrics)) == (1, 0, {})


def test_a_masked_failure_is_an_error_of_the_variant_that_failed(read: Read) -> None:
    evidence, _ = read(routed(1, arm=1, flags=EVIDENCE | Flag.MASKED, status=14))
    [cell] = evidence.cells
    assert (cell.variant, cell.masked) == ("a", 1)
    assert sources(evidence)["error"] == {1: 1}
    assert "compute_ms" not in sources(evidence)


def test_times_of_tokens_are_counted_for_answers_that_were_generated(read: Read) -> None:
    evidence, _ = read(
        routed(1, first_token_ms=50.0, token_ms=20.0), routed(2, first_token_ms=60.0), routed(3)
    )
    assert sources(evidence)["ttft_ms"] == {LATENCY_SCALE.bin_of(50.0): 1, LATENCY_SCALE.bin_of(60.0): 1}
    assert sources(evidence)["tpot_ms"] == {LATENCY_SCALE.bin_of(20.0): 1}


def test_times_of_tokens_of_the_stand_in_are_not_the_failed_candidates(read: Read) -> None:
    evidence, _ = read(
        routed(1, arm=1, flags=EVIDENCE | Flag.MASKED, status=14, first_token_ms=5.0, token_ms=1.0)
    )
    assert {"ttft_ms", "tpot_ms"}.isdisjoint(sources(evidence))


def test_a_time_of_tokens_that_is_no_number_makes_the_record_uncountable(read: Read) -> None:
    evidence, report = read(routed(1, first_token_ms=math.nan))
    assert evidence.cells == ()
    assert report.strangers == 1


def test_a_request_without_an_answer_waited_for_ever(read: Read) -> None:
    evidence, _ = read(routed(1, status=4, latency_ms=math.inf))
    assert sources(evidence)["latency_ms"] == {LATENCY_SCALE.bins - 1: 1}


def test_of_a_sticky_unit_only_the_first_request_is_evidence(read: Read) -> None:
    unit = b"u" * 16
    evidence, _ = read(routed(1, flags=STICKY, unit=unit, latency_ms=5.0), routed(2, flags=STICKY, unit=unit))
    evidence, _ = read(routed(1, flags=STICKY, unit=unit), routed(2, flags=STICKY, unit=b"v" * 16))
    [cell] = evidence.cells
    assert (cell.requests, cell.units) == (4, 2)
    assert sources(evidence)["latency_ms"] == {LATENCY_SCALE.bin_of(5.0): 1, LATENCY_SCALE.bin_of(10.0): 1}


def test_of_a_sticky_unit_only_the_first_requests_feedback_is_evidence(read: Read) -> None:
    unit = b"u" * 16
    read(routed(1, flags=STICKY, unit=unit), routed(2, flags=STICKY, unit=unit))
    evidence, report = read(feedback(2, flags=STICKY, value=0.0), feedback(1, flags=STICKY))
    assert sources(evidence)["feedback.correct"] == {1: 1}
    assert report == Ingested(records=2)


def test_a_sticky_units_feedback_that_is_read_before_its_request_is_evidence(read: Read) -> None:
    evidence, _ = read(feedback(7, flags=STICKY, lane=2), feedback(8, flags=STICKY, lane=2, value=0.0))
    assert evidence.is_empty
    evidence, _ = read(routed(7, flags=STICKY, unit=b"u" * 16), routed(8, flags=STICKY, unit=b"u" * 16))
    assert sources(evidence)["feedback.correct"] == {1: 1}


def test_a_compared_reply_agrees_or_not_and_a_missing_one_does_not(read: Read) -> None:
    evidence, _ = read(pair(1), pair(2, agrees=False, top1=0), pair(3, status=14, top1=-1))
    [cell] = evidence.pairs
    assert (cell.variant, cell.pairs, cell.failed) == ("a", 3, 1)
    assert cell.metrics == {"mirror.top1_agreement": {0: 2, 1: 1}}


def test_divergence_is_counted_where_an_experiment_asks_for_it(tmp_path: Path, rated: dict[str, Any]) -> None:
    asked = {"name": "divergence", "source": "mirror.kl", "role": "guardrail", "max": 0.05}
    store = MemoryStore()
    store.apply(rated | {"spec": rated["spec"] | {"metrics": [*rated["spec"]["metrics"], asked]}}, "ada", 0.0)
    writer = JournalWriter(tmp_path, 1)
    for number, kl in enumerate((0.01, 0.0101, 7.5, math.inf, None, -1e-9)):
        writer.append(pair(number, kl=kl))
    writer.append(pair(9, status=14, top1=-1))
    writer.close()
    ingest(store, tmp_path)
    [cell] = store.load_evidence("exp", 0).pairs
    # What diverges without end, or was not answered, counts as the most there is; what says nothing counts nowhere.
    assert cell.metrics["mirror.kl"] == {0: 1, KL_SCALE.bin_of(0.01): 2, KL_SCALE.bins - 1: 3}
    assert cell.pairs == 7


def test_the_baselines_second_reply_is_its_noise_floor(read: Read) -> None:
    evidence, _ = read(pair(1, arm=0), feedback(1, flags=SAMPLED))
    [cell] = evidence.pairs
    assert (cell.variant, cell.pairs) == ("base", 1)
    assert cell.metrics == {"mirror.top1_agreement": {1: 1}}


@pytest.mark.parametrize(
    ("label", "top1", "expected"), [(1, 1, 1), (1, 0, 0), (0, 0, 2), (2, 0, 1), (0, 1, 1)]
)
def test_a_label_of_a_sampled_request_goes_to_its_pair_and_only_there(
    read: Read, label: int, top1: int, expected: int
) -> None:
    evidence, _ = read(
        pair(1, top1=top1, agrees=top1 == 1), feedback(1, flags=SAMPLED, is_label=True, value=float(label))
    )
    assert evidence.cells == ()
    assert evidence.pairs[0].metrics["feedback.correct"] == {expected: 1}


def test_a_label_of_a_request_that_was_not_sampled_goes_to_the_split(read: Read) -> None:
    evidence, _ = read(feedback(1, is_label=True, value=1.0), feedback(2, is_label=True, value=0.0))
    assert sources(evidence) == {"feedback.correct": {0: 1, 1: 1}}
    assert evidence.pairs == ()


def test_feedback_is_credited_to_a_pair_that_is_read_later(read: Read) -> None:
    evidence, _ = read(feedback(1, flags=SAMPLED, lane=2))
    assert evidence.is_empty
    evidence, _ = read(pair(1, top1=0, agrees=False))
    assert evidence.pairs[0].metrics["feedback.correct"] == {0: 1}


@pytest.mark.parametrize(
    ("metric", "value", "same", "expected"),
    [
        ("correct", 1.0, True, 1),
        ("correct", 0.0, True, 1),
        ("correct", 1.0, False, 0),
        ("correct", 0.0, False, 1),
        ("complaint", 0.0, True, 1),
        ("complaint", 1.0, True, 1),
        ("complaint", 0.0, False, 2),
        ("complaint", 1.0, False, 1),
    ],
)
def test_without_a_label_a_differing_reply_is_taken_for_the_worst_in_either_direction(
    read: Read, metric: str, value: float, same: bool, expected: int
) -> None:
    evidence, _ = read(
        pair(1, top1=1 if same else 0, agrees=same), feedback(1, flags=SAMPLED, metric=metric, value=value)
    )
    assert evidence.pairs[0].metrics[f"feedback.{metric}"] == {expected: 1}


@pytest.mark.parametrize("value", [1.0, 2.5, 5.0])
def test_graded_feedback_goes_to_the_split_whether_sampled_or_not(read: Read, value: float) -> None:
    evidence, _ = read(
        pair(1),
        feedback(1, flags=SAMPLED, metric="stars", value=value),
        feedback(2, metric="stars", value=value),
    )
    assert sources(evidence) == {"feedback.stars": {round((value - 1.0) / 4.0 * 100): 2}}
    assert "feedback.stars" not in evidence.pairs[0].metrics


@pytest.mark.parametrize("flags", [Flag.NONE, Flag.PINNED])
def test_feedback_of_a_request_outside_the_split_is_no_evidence(read: Read, flags: Flag) -> None:
    evidence, report = read(feedback(1, flags=flags))
    assert evidence.is_empty
    assert report == Ingested(records=1)


def test_feedback_given_twice_counts_once(read: Read) -> None:
    evidence, report = read(feedback(1), feedback(1, value=0.0), feedback(1, metric="complaint"))
    assert sources(evidence) == {"feedback.correct": {1: 1}, "feedback.complaint": {1: 1}}
    assert report.duplicates == 1


@pytest.mark.parametrize(
    "record",
    [
        routed(1, experiment=9),
        routed(1, arm=3),
        routed(1, latency_ms=math.nan),
        routed(1, latency_ms=-1.0),
        pair(1, arm=7),
        feedback(1, metric="nobody"),
        feedback(1, value=0.5),
        feedback(1, value=math.nan),
        feedback(1, metric="stars", value=6.0),
        feedback(1, metric="stars", is_label=True, value=1.0),
        feedback(1, is_label=True, top1=-1),
        feedback(1, arm=3),
    ],
)
def test_what_cannot_be_counted_is_a_stranger_and_stops_nobody(read: Read, record: Record) -> None:
    evidence, report = read(record, routed(2))
    assert report == Ingested(records=2, strangers=1)
    assert [cell.requests for cell in evidence.cells] == [1]


def test_records_of_an_earlier_spec_version_are_strangers(
    store: Store, read: Read, rated: dict[str, Any]
) -> None:
    kept = store.experiment("exp")
    store.save(
        "exp",
        expected=kept.state_version,
        state=replace(kept.state, phase=Phase.ABORTED, epoch=4),
        evidence=Evidence(experiment="exp"),
        decision=None,
    )
    swapped = rated | {"spec": rated["spec"] | {"candidates": ["b", "a"]}}
    store.apply(swapped, "ada", 1.0)
    evidence, report = read(routed(1, epoch=4, arm=1), feedback(1, epoch=4, arm=1), routed(2, epoch=5, arm=1))
    assert report == Ingested(records=3, strangers=2)
    assert [(cell.variant, cell.requests) for cell in evidence.cells] == [("b", 1)]


def test_a_torn_end_is_read_when_it_is_whole(store: Store, tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, 1)
    for sequence in range(3):
        writer.append(routed(sequence))
        writer.commit()
    writer.close()
    path = SegmentName(lane=1, index=0).path(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert ingest(store, tmp_path) == Ingested(records=2)
    path.write_bytes(whole)
    assert ingest(store, tmp_path) == Ingested(records=1)
    assert ingest(store, tmp_path) == Ingested()
    assert [cell.requests for cell in store.load_evidence("exp", 0).cells] == [3]


def test_a_corrupt_segment_is_reported_and_the_other_lanes_go_on(store: Store, tmp_path: Path) -> None:
    for lane in (1, 2):
        writer = JournalWriter(tmp_path, lane)
        for sequence in range(3):
            writer.append(routed(sequence))
            writer.commit()
        writer.close()
    path = SegmentName(lane=1, index=0).path(tmp_path)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 0xFF
    path.write_bytes(bytes(damaged))
    report = ingest(store, tmp_path)
    assert report.records == 5
    [reason] = report.corrupt
    assert "00000001-000000.journal" in reason
    assert "checksum" in reason
    assert ingest(store, tmp_path) == Ingested(corrupt=(reason,))


def test_an_ingestion_that_dies_is_repeated_whole(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path, 1)
    for record in (routed(1, flags=STICKY), pair(2), feedback(1, flags=STICKY), feedback(2, flags=SAMPLED)):
        writer.append(record)
    writer.close()
    from anabranch.store.memory_ingestion import MemoryIngestion

    with monkeypatch.context() as patch:
        patch.setattr(MemoryIngestion, "add_delta", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ingest(store, tmp_path)
    assert store.load_evidence("exp", 0).is_empty
    assert ingest(store, tmp_path) == Ingested(records=4)
    evidence = store.load_evidence("exp", 0)
    assert sources(evidence)["feedback.correct"] == {1: 1}
    assert evidence.pairs[0].metrics["feedback.correct"] == {1: 1}


def _traffic() -> list[Record]:
    """Requests, pairs and feedback of every kind; all requests of a unit are alike, so any may be its first."""
    records: list[Record] = []
    for sequence in range(12):
        sticky = sequence % 3 == 0
        sampled = sequence % 2 == 0
        flags = (STICKY if sticky else EVIDENCE) | (Flag.SAMPLED if sampled else Flag.NONE)
        arm = 0 if sampled or sticky else sequence % 3
        unit = b"u" * 16 if sticky else bytes(16)
        records.append(
            routed(sequence, arm=arm, flags=flags, unit=unit, latency_ms=5.0 if sticky else 7.0 + sequence)
        )
        if sampled:
            records += [pair(sequence, arm=1), pair(sequence, arm=2, top1=0, agrees=False)]
        # The sticky unit's feedback must not depend on which request came first: it is never about a pair.
        metric = "stars" if sticky else "correct"
        records.append(feedback(sequence, arm=arm, flags=flags, metric=metric, value=1.0))
        records.append(feedback(sequence, arm=arm, flags=flags, metric=metric, value=1.0))
    return records


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_however_the_journal_is_split_over_lanes_and_batches_the_sums_are_the_same(
    rated: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    records = _traffic()

    def sums(parts: Sequence[Iterable[Record]], limit: int) -> tuple[object, object]:
        store = MemoryStore()
        store.apply(rated, "ada", 0.0)
        directory = tmp_path_factory.mktemp("journal")
        for lane, part in enumerate(parts, 1):
            writer = JournalWriter(directory, lane, segment_bytes=300)
            for record in part:
                writer.append(record)
                writer.commit()
            writer.close()
        while ingest(store, directory, limit=limit).records:
            pass
        evidence = store.load_evidence("exp", 0)
        return evidence.cells, evidence.pairs

    # Requests and pairs name their assignment by their lane, so they stay in lane 1, in any order; feedback names
    # its assignment itself and may be in any lane.
    about = data.draw(st.permutations([record for record in records if not isinstance(record, Feedback)]))
    given_back = data.draw(st.permutations([record for record in records if isinstance(record, Feedback)]))
    cut = data.draw(st.integers(0, len(given_back)))
    mixed = [*given_back[:cut], *about] if data.draw(st.booleans()) else [*about, *given_back[:cut]]
    limit = data.draw(st.integers(1, 60))
    assert sums([mixed, given_back[cut:]], limit) == sums([records], 10_000)
