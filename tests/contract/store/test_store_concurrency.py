import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anabranch.bandit.decision import Verb
from anabranch.bandit.evidence import Cell, Evidence
from anabranch.bandit.lifecycle import Phase
from anabranch.router.reading import JournalReader
from anabranch.store.ingest import Ingester
from anabranch.store.ingestion_port import FeedbackRow, Ingestion, PairRow, UnitRow
from anabranch.store.journal import JournalWriter, SegmentName
from anabranch.store.port import Conflict, Store
from anabranch.store.records import Flag, routed_body
from anabranch.store.sql import open_store

Write = Callable[..., dict[str, Any]]
ROUNDS = 20


def both(work: Callable[[int], object]) -> None:
    """Run two writers to the end; what one of them raises is raised here."""
    failures: list[BaseException] = []
    start = threading.Barrier(2)

    def writer(number: int) -> None:
        start.wait()
        try:
            work(number)
        except BaseException as failure:  # noqa: BLE001  # handed over to the test below
            failures.append(failure)

    threads = [threading.Thread(target=writer, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def save_until_done(store: Store, conflicts: list[int]) -> None:
    done = 0
    while done < ROUNDS:
        kept = store.experiment("exp")
        try:
            store.save(
                "exp",
                expected=kept.state_version,
                state=kept.state,
                evidence=Evidence(experiment="exp"),
                decision=None,
            )
        except Conflict:
            conflicts.append(kept.state_version)
        else:
            done += 1


def test_two_writers_never_save_over_each_other(store: Store, write_document: Write) -> None:
    first = store.apply(write_document(), "ada", 1.0)
    both(lambda _: save_until_done(store, []))
    assert store.experiment("exp").state_version == first.state_version + 2 * ROUNDS


def test_two_openers_of_one_database_never_save_over_each_other(
    store_url: str, write_document: Write
) -> None:
    stores = [open_store(store_url), open_store(store_url)]
    first = stores[0].apply(write_document(), "ada", 1.0)
    both(lambda number: save_until_done(stores[number], []))
    assert stores[0].experiment("exp").state_version == first.state_version + 2 * ROUNDS
    for opened in stores:
        opened.close()


def test_two_ingesters_lose_nothing_and_see_every_unit_once(store: Store, write_document: Write) -> None:
    kept = store.apply(write_document(), "ada", 1.0)
    new: list[bytes] = []

    def ingest(number: int) -> None:
        segment = SegmentName(lane=number, index=0)
        for turn in range(ROUNDS):
            with store.ingestion() as ingestion:
                before = ingestion.offset(segment)
                ingestion.advance(segment, before + 1, since=before)
                rows = [
                    UnitRow(experiment=kept.id, unit=b"%d" % (turn + offset), lane=number, sequence=turn)
                    for offset in range(3)
                ]
                new.extend(row.unit for row in ingestion.add_units(rows)[0])
                ingestion.add_delta(kept.id, [Cell(epoch=0, variant="a", requests=1)], [])

    both(ingest)
    assert sorted(new) == sorted(b"%d" % number for number in range(ROUNDS + 2))
    assert [cell.requests for cell in store.load_evidence("exp", 0).cells] == [2 * ROUNDS]
    with store.ingestion() as ingestion:
        assert [ingestion.offset(SegmentName(lane=lane, index=0)) for lane in (0, 1)] == [ROUNDS, ROUNDS]


def test_two_readers_of_one_journal_count_every_record_once(
    store_url: str, write_document: Write, tmp_path: Path
) -> None:
    """As a controller does whose killed predecessor's transaction is still on its way in the database."""
    stores = [open_store(store_url), open_store(store_url)]
    stores[0].apply(write_document(), "ada", 1.0)
    writer = JournalWriter(tmp_path, 1, segment_bytes=10_000)
    readers = [JournalReader(store, tmp_path) for store in stores]
    for turn in range(ROUNDS):
        for number in range(50):
            writer.append_body(
                routed_body(
                    1.0, 1, 0, 0, Flag.EVIDENCE, 0, 5.0, 0.0, 4.0, 1, 0.5, turn * 50 + number, bytes(16)
                )
            )
        writer.commit()
        both(lambda number: readers[number].read())
    writer.close()
    while readers[0].read().records:
        pass
    assert sum(cell.requests for cell in stores[0].load_evidence("exp", 0).cells) == ROUNDS * 50
    for opened in stores:
        opened.close()


def test_two_workers_never_get_one_lane(store: Store) -> None:
    lanes: list[int] = []
    both(lambda _: lanes.extend(store.next_lane() for _ in range(ROUNDS)))
    assert len(set(lanes)) == 2 * ROUNDS


def test_of_two_experiments_applied_to_one_model_at_once_one_is_refused(
    store_url: str, write_document: Write
) -> None:
    stores = [open_store(store_url), open_store(store_url)]
    refused: list[Conflict] = []

    def apply(number: int) -> None:
        for turn in range(ROUNDS):
            try:
                stores[number].apply(write_document(name=f"exp{number}", model=f"m{turn}"), "ada", 1.0)
            except Conflict as conflict:
                refused.append(conflict)

    both(apply)
    models = [kept.document["spec"]["model"] for kept in stores[0].experiments()]
    assert len(models) == len(set(models))
    assert refused
    for opened in stores:
        opened.close()


@contextmanager
def while_an_ingestion_is_open(first: Store, work: Callable[[], object]) -> Iterator[Ingestion]:
    """Lets another router begin an ingestion within ours; it has to wait for the end of ours."""
    done = threading.Event()

    def other() -> None:
        work()
        done.set()

    thread = threading.Thread(target=other)
    with first.ingestion() as ingestion:
        yield ingestion
        thread.start()
        # Long enough for one that does not wait.
        assert not done.wait(0.3)
    thread.join()
    assert done.is_set()


def test_a_reply_and_its_label_that_come_through_two_routers_at_once_meet(
    store_url: str, write_document: Write
) -> None:
    stores = [open_store(store_url), open_store(store_url)]
    kept = stores[0].apply(write_document(), "ada", 1.0)
    pair = PairRow(experiment=kept.id, lane=1, sequence=5, arm=1, epoch=1, baseline_top1=1, top1=1)
    label = FeedbackRow(
        experiment=kept.id,
        lane=1,
        sequence=5,
        metric="correct",
        epoch=1,
        arm=0,
        sampled=True,
        top1=1,
        is_label=True,
        value=1.0,
        at_s=1.0,
    )
    met: list[tuple[PairRow, FeedbackRow]] = []

    def give_label() -> None:
        with stores[1].ingestion() as ingestion:
            met.extend(ingestion.add_feedback([label])[1])

    with while_an_ingestion_is_open(stores[0], give_label) as ingestion:
        assert ingestion.add_pairs([pair]) == []
    assert met == [(pair, label)]
    for opened in stores:
        opened.close()


def test_outcomes_become_visible_in_the_order_of_their_numbers(store_url: str, write_document: Write) -> None:
    stores = [open_store(store_url), open_store(store_url)]
    kept = stores[0].apply(write_document(), "ada", 1.0)
    seen: list[int] = []

    def append_and_look() -> None:
        with stores[1].ingestion() as ingestion:
            ingestion.add_delta(kept.id, [Cell(epoch=0, variant="b", requests=1)], [])
        evidence = stores[1].load_evidence("exp", 0)
        seen.append(sum(cell.requests for cell in evidence.cells))

    with while_an_ingestion_is_open(stores[0], append_and_look) as ingestion:
        ingestion.add_delta(kept.id, [Cell(epoch=0, variant="a", requests=1)], [])
    assert seen == [2], "whoever had read the second alone would have missed the first"
    for opened in stores:
        opened.close()


def _end(store: Store) -> None:
    kept = store.experiment("exp")
    store.save(
        "exp",
        expected=kept.state_version,
        state=replace(kept.state, phase=Phase.ABORTED, epoch=3),
        evidence=Evidence(experiment="exp"),
        decision=None,
    )


class AppliedBefore:
    """A store to which somebody applies another document just before an ingestion begins."""

    def __init__(self, store: Store, document: dict[str, Any]) -> None:
        self._store = store
        self._document = document

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def ingestion(self) -> Any:
        self._store.apply(self._document, "bob", 9.0)
        return self._store.ingestion()


def test_records_count_by_the_document_that_stands_when_they_are_counted(
    store: Store, write_document: Write, tmp_path: Path
) -> None:
    kept = store.apply(write_document(), "ada", 1.0)
    _end(store)
    unit = b"u" * 16
    sticky = Flag.EVIDENCE | Flag.STICKY
    writer = JournalWriter(tmp_path, 1)
    writer.append_body(routed_body(1.0, kept.id, 1, 0, sticky, 0, 5.0, 0.0, 4.0, 1, 0.5, 1, unit))
    writer.close()
    other: Any = AppliedBefore(store, write_document(weight=20))
    found = Ingester(other, tmp_path).ingest()
    assert (found.records, found.strangers) == (1, 1)
    again = store.experiment("exp")
    assert again.spec_version == 2
    with store.ingestion() as ingestion:
        first = UnitRow(experiment=kept.id, unit=unit, lane=2, sequence=1)
        assert ingestion.add_units([first])[0] == [first], "a unit of the version before is new to this one"


def test_no_spec_version_begins_while_records_are_counted_by_the_one_before(
    store_url: str, write_document: Write
) -> None:
    stores = [open_store(store_url), open_store(store_url)]
    kept = stores[0].apply(write_document(), "ada", 1.0)
    _end(stores[0])
    row = UnitRow(experiment=kept.id, unit=b"u" * 16, lane=1, sequence=1)
    with while_an_ingestion_is_open(
        stores[0], lambda: stores[1].apply(write_document(weight=20), "bob", 9.0)
    ) as ingestion:
        assert [each.spec_version for each in ingestion.specs()] == [1]
        ingestion.add_units([row])
    assert stores[0].experiment("exp").spec_version == 2
    with stores[0].ingestion() as ingestion:
        assert ingestion.add_units([row])[0] == [row]
    for opened in stores:
        opened.close()


def test_a_model_is_not_free_while_an_undo_of_its_last_promotion_waits(
    store: Store, write_document: Write
) -> None:
    store.apply(write_document(), "ada", 1.0)
    _end(store)
    store.request("exp", Verb.UNDO, "", "ada", 2.0)
    with pytest.raises(Conflict, match="exp, which is about to be retried or undone"):
        store.apply(write_document(name="other"), "bob", 3.0)
    with pytest.raises(Conflict, match="exp is about to be retried or undone"):
        store.apply(write_document(weight=20), "bob", 3.0)
