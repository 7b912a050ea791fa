from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from anabranch.bandit.evidence import Cell, Evidence, PairCell, merge_cells, merge_pairs
from anabranch.bandit.lifecycle import Phase
from anabranch.store.ingestion_port import AlreadyRead, FeedbackRow, PairRow, UnitRow
from anabranch.store.journal import SegmentName
from anabranch.store.port import Store

Write = Callable[..., dict[str, Any]]
SEGMENT = SegmentName(lane=3, index=0)


def feedback(sequence: int, *, metric: str = "correct", value: float = 1.0, lane: int = 3) -> FeedbackRow:
    return FeedbackRow(
        experiment=1,
        lane=lane,
        sequence=sequence,
        metric=metric,
        epoch=2,
        arm=0,
        sampled=True,
        top1=1,
        is_label=False,
        value=value,
        at_s=9.5,
    )


def pair(sequence: int, arm: int, *, top1: int = 1) -> PairRow:
    return PairRow(experiment=1, lane=3, sequence=sequence, arm=arm, epoch=2, baseline_top1=1, top1=top1)


def unit(name: bytes, sequence: int) -> UnitRow:
    return UnitRow(experiment=1, unit=name, lane=3, sequence=sequence)


@pytest.fixture(autouse=True)
def experiment(store: Store, write_document: Write) -> int:
    kept = store.apply(write_document(), "ada", 1.0)
    assert kept.id == 1
    return kept.id


def deltas() -> list[tuple[list[Cell], list[PairCell]]]:
    return [
        (
            [Cell(epoch=1, variant="a", units=n, requests=n + 1, masked=1, metrics={"error": {0: n, 1: 1}})],
            [PairCell(epoch=1, variant="b", pairs=n, failed=1, metrics={"mirror.top1_agreement": {1: n}})],
        )
        for n in (1, 2)
    ] + [
        ([Cell(epoch=2, variant="a", units=4, requests=4, metrics={"latency_ms": {7: 3, 9: 1}})], []),
        ([], [PairCell(epoch=2, variant="b", pairs=5)]),
    ]


def test_evidence_is_the_sum_of_its_deltas(store: Store) -> None:
    for cells, pairs in deltas():
        with store.ingestion() as ingestion:
            ingestion.add_delta(1, cells, pairs)
    evidence = store.load_evidence("exp", 0)
    assert evidence.cells == merge_cells(cell for cells, _ in deltas() for cell in cells)
    assert evidence.pairs == merge_pairs(pair for _, pairs in deltas() for pair in pairs)
    assert evidence.cells[0].metrics == {"error": {0: 3, 1: 2}}
    assert evidence.last - evidence.first == 3


def test_evidence_after_a_delta_is_what_came_later(store: Store) -> None:
    for cells, pairs in deltas():
        with store.ingestion() as ingestion:
            ingestion.add_delta(1, cells, pairs)
    everything = store.load_evidence("exp", 0)
    later = store.load_evidence("exp", everything.first + 1)
    assert [cell.epoch for cell in later.cells] == [2]
    assert (later.first, later.last) == (everything.first + 2, everything.last)
    nothing = store.load_evidence("exp", everything.last)
    assert nothing == Evidence(experiment="exp")


def test_evidence_carries_the_weights_of_its_epochs_as_they_were_first_saved(store: Store) -> None:
    version = store.experiment("exp").state_version
    state = store.experiment("exp").state
    for epoch, share in ((1, 0.1), (2, 0.2), (2, 0.9), (3, 0.3)):
        version = store.save(
            "exp",
            expected=version,
            state=replace(
                state, phase=Phase.PROGRESSING, epoch=epoch, weights={"base": 1.0 - share, "a": share}
            ),
            evidence=Evidence(experiment="exp"),
            decision=None,
        )
    with store.ingestion() as ingestion:
        ingestion.add_delta(1, [Cell(epoch=1, variant="a")], [PairCell(epoch=2, variant="a")])
        ingestion.add_delta(1, [Cell(epoch=9, variant="a")], [])
    assert store.load_evidence("exp", 0).weights == {1: {"base": 0.9, "a": 0.1}, 2: {"base": 0.8, "a": 0.2}}


def test_evidence_of_two_experiments_is_kept_apart(store: Store, write_document: Write) -> None:
    other = store.apply(write_document(name="other", model="n"), "ada", 1.0)
    with store.ingestion() as ingestion:
        ingestion.add_delta(1, [Cell(epoch=0, variant="a", requests=1)], [])
        ingestion.add_delta(other.id, [Cell(epoch=0, variant="a", requests=10)], [])
    assert [cell.requests for cell in store.load_evidence("exp", 0).cells] == [1]
    assert [cell.requests for cell in store.load_evidence("other", 0).cells] == [10]


def test_a_segment_is_read_from_where_it_was_left(store: Store) -> None:
    with store.ingestion() as ingestion:
        assert ingestion.offset(SEGMENT) == 0
        ingestion.advance(SEGMENT, 100, since=0)
        assert ingestion.offset(SEGMENT) == 100
    with store.ingestion() as ingestion:
        assert ingestion.offset(SEGMENT) == 100
        assert ingestion.offset(SegmentName(lane=3, index=1)) == 0
        ingestion.advance(SEGMENT, 2**40, since=100)
    with store.ingestion() as ingestion:
        assert ingestion.offset(SEGMENT) == 2**40


@pytest.mark.parametrize("since", [0, 50, 101])
def test_a_part_that_was_read_meanwhile_is_not_counted_again(store: Store, since: int) -> None:
    with store.ingestion() as ingestion:
        ingestion.advance(SEGMENT, 100, since=0)

    def read_again() -> None:
        with store.ingestion() as ingestion:
            ingestion.add_delta(1, [Cell(epoch=0, variant="a", requests=7)], [])
            ingestion.advance(SEGMENT, 200, since=since)

    with pytest.raises(AlreadyRead, match=f"is not left at byte {since} any more"):
        read_again()
    with store.ingestion() as ingestion:
        assert ingestion.offset(SEGMENT) == 100
    assert store.load_evidence("exp", 0).is_empty


def test_an_ingestion_that_dies_leaves_nothing_behind(store: Store) -> None:
    with store.ingestion() as ingestion:
        ingestion.add_pairs([pair(1, 1)])
        ingestion.advance(SEGMENT, 10, since=0)
    before = store.load_evidence("exp", 0)

    def die() -> None:
        with store.ingestion() as ingestion:
            ingestion.advance(SEGMENT, 999, since=10)
            ingestion.add_units([unit(b"u", 5)])
            ingestion.add_pairs([pair(1, 2), pair(2, 1)])
            ingestion.add_feedback([feedback(1), feedback(2)])
            ingestion.add_delta(1, [Cell(epoch=0, variant="a", requests=7)], [])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        die()
    assert store.load_evidence("exp", 0) == before
    with store.ingestion() as ingestion:
        assert ingestion.offset(SEGMENT) == 10
        assert ingestion.add_units([unit(b"u", 6)])[0] == [unit(b"u", 6)]
        assert ingestion.of_first_requests([feedback(5)]) == []
        new, matched = ingestion.add_feedback([feedback(1), feedback(2)])
        assert sorted(new, key=lambda row: row.sequence) == [feedback(1), feedback(2)]
        assert matched == [(pair(1, 1), feedback(1))]


def test_a_unit_is_new_once_and_its_first_request_counts(store: Store) -> None:
    with store.ingestion() as ingestion:
        new, _ = ingestion.add_units([unit(b"u", 5), unit(b"v", 6), unit(b"u", 7)])
        assert sorted(new, key=lambda row: row.sequence) == [unit(b"u", 5), unit(b"v", 6)]
    with store.ingestion() as ingestion:
        new, _ = ingestion.add_units([unit(b"v", 8), unit(b"w", 9)])
        assert new == [unit(b"w", 9)]
        asked = [feedback(sequence) for sequence in (5, 6, 7, 8, 9)]
        assert ingestion.of_first_requests(asked) == [feedback(5), feedback(6), feedback(9)]


def test_feedback_that_came_before_its_unit_is_answered_with_the_unit(store: Store) -> None:
    with store.ingestion() as ingestion:
        ingestion.add_feedback([feedback(5), feedback(5, metric="liked"), feedback(6)])
    with store.ingestion() as ingestion:
        _, early = ingestion.add_units([unit(b"u", 5)])
        assert sorted(row.metric for row in early) == ["correct", "liked"]
        assert {row.sequence for row in early} == {5}
        assert ingestion.add_units([unit(b"u", 6)]) == ([], [])


def test_units_are_new_to_every_spec_version(store: Store, write_document: Write) -> None:
    with store.ingestion() as ingestion:
        ingestion.add_units([unit(b"u", 5)])
    kept = store.experiment("exp")
    store.save(
        "exp",
        expected=kept.state_version,
        state=replace(kept.state, phase=Phase.ROLLED_BACK),
        evidence=Evidence(experiment="exp"),
        decision=None,
    )
    store.apply(write_document(weight=20), "ada", 9.0)
    with store.ingestion() as ingestion:
        assert ingestion.add_units([unit(b"u", 8)])[0] == [unit(b"u", 8)]
        assert ingestion.of_first_requests([feedback(5), feedback(8)]) == [feedback(8)]


def test_pairs_before_their_label_are_credited_once(store: Store) -> None:
    with store.ingestion() as ingestion:
        assert ingestion.add_pairs([pair(1, 1), pair(1, 2)]) == []
    with store.ingestion() as ingestion:
        new, matched = ingestion.add_feedback([feedback(1)])
        assert new == [feedback(1)]
        assert sorted(found.arm for found, _ in matched) == [1, 2]
    with store.ingestion() as ingestion:
        assert ingestion.add_feedback([feedback(1)]) == ([], [])
        assert ingestion.add_pairs([pair(1, 1), pair(1, 2)]) == []


def test_a_label_before_its_pairs_is_credited_once(store: Store) -> None:
    with store.ingestion() as ingestion:
        assert ingestion.add_feedback([feedback(1)]) == ([feedback(1)], [])
    with store.ingestion() as ingestion:
        assert ingestion.add_pairs([pair(1, 1), pair(1, 1, top1=0)]) == [(pair(1, 1), feedback(1))]
    with store.ingestion() as ingestion:
        assert ingestion.add_pairs([pair(1, 1)]) == []
        assert ingestion.add_pairs([pair(1, 2)]) == [(pair(1, 2), feedback(1))]


def test_a_pair_and_its_label_in_one_transaction_are_credited_once(store: Store) -> None:
    with store.ingestion() as ingestion:
        early = ingestion.add_pairs([pair(1, 1)])
        _, matched = ingestion.add_feedback([feedback(1)])
    assert early + matched == [(pair(1, 1), feedback(1))]


def test_feedback_counts_once_by_assignment_and_metric_and_the_first_one_stands(store: Store) -> None:
    with store.ingestion() as ingestion:
        new, _ = ingestion.add_feedback(
            [feedback(1, value=0.0), feedback(1, value=1.0), feedback(1, metric="liked"), feedback(1, lane=4)]
        )
        assert len(new) == 3
        assert [row.value for row in new if (row.metric, row.lane) == ("correct", 3)] == [0.0]
    with store.ingestion() as ingestion:
        new, _ = ingestion.add_feedback([feedback(1, value=1.0), feedback(2)])
        assert new == [feedback(2)]


def test_more_rows_than_one_statement_takes_are_all_kept(store: Store) -> None:
    many = 2_500
    with store.ingestion() as ingestion:
        ingestion.add_pairs([pair(sequence, 1) for sequence in range(many)])
        new, matched = ingestion.add_feedback([feedback(sequence) for sequence in range(many)])
        units, _ = ingestion.add_units([unit(b"%d" % index, index) for index in range(many)])
    assert len(new) == len(matched) == len(units) == many
    assert {row.sequence for _, row in matched} == set(range(many))


def test_outcomes_of_an_earlier_spec_version_that_are_appended_late_are_no_evidence_of_the_next(
    store: Store, write_document: Write
) -> None:
    kept = store.experiment("exp")
    over = replace(kept.state, phase=Phase.ROLLED_BACK, epoch=3)
    store.save(
        "exp",
        expected=kept.state_version,
        state=over,
        evidence=Evidence(experiment="exp"),
        decision=None,
    )
    later = store.apply(write_document(weight=20), "ada", 9.0)
    with store.ingestion() as ingestion:
        ingestion.add_delta(
            1, [Cell(epoch=3, variant="a", requests=7)], [PairCell(epoch=3, variant="a", pairs=1)]
        )
        ingestion.add_delta(1, [Cell(epoch=later.first_epoch, variant="a", requests=1)], [])
    evidence = store.load_evidence("exp", 0)
    assert [cell.requests for cell in evidence.cells] == [1]
    assert evidence.pairs == ()
