import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anabranch.router.journal_upkeep import EVERY_S, JournalUpkeep
from anabranch.store.ingest import Ingested, ingest
from anabranch.store.journal import JournalWriter, segments
from anabranch.store.journal_upkeep import Pruned, prune
from anabranch.store.memory import MemoryStore
from anabranch.store.records import Flag, routed_body

EVERYTHING = 1 << 40
NEVER = 0.0
LATER = 1e12


def request(sequence: int) -> bytes:
    return routed_body(1.0, 1, 0, 0, Flag.EVIDENCE, 0, 5.0, 0.0, 4.0, 1, 0.5, sequence, bytes(16))


def write(folder: Path, lane: int, records: int) -> JournalWriter:
    """A writer that is still open, with a segment for each record and an empty one."""
    writer = JournalWriter(folder, lane, segment_bytes=80)
    for sequence in range(records):
        writer.append_body(request(sequence))
        writer.commit()
    return writer


@pytest.fixture
def store(small_document: dict[str, Any]) -> MemoryStore:
    store = MemoryStore()
    store.apply(small_document, "ada", 0.0)
    return store


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[JournalWriter]:
    writer = write(tmp_path, 1, 3)
    yield writer
    writer.close()


def names(folder: Path) -> list[tuple[int, int]]:
    return [(name.lane, name.index) for name in segments(folder)]


def test_what_is_not_read_stays_however_old_it_is(
    store: MemoryStore, tmp_path: Path, writer: JournalWriter
) -> None:
    assert prune(store, tmp_path, changed_before_s=LATER, keep_bytes=0) == Pruned()
    assert len(names(tmp_path)) == 4


def test_what_is_read_and_old_goes_and_the_open_segment_stays(
    store: MemoryStore, tmp_path: Path, writer: JournalWriter
) -> None:
    ingest(store, tmp_path)
    assert prune(store, tmp_path, changed_before_s=LATER, keep_bytes=EVERYTHING) == Pruned(
        segments=3, size_bytes=3 * 96
    )
    assert names(tmp_path) == [(1, 3)]
    writer.append_body(request(9))
    writer.commit()
    assert ingest(store, tmp_path) == Ingested(records=1)


def test_what_is_young_stays_while_there_is_room(
    store: MemoryStore, tmp_path: Path, writer: JournalWriter
) -> None:
    ingest(store, tmp_path)
    assert prune(store, tmp_path, changed_before_s=NEVER, keep_bytes=EVERYTHING) == Pruned()


def test_beyond_the_room_the_oldest_go(store: MemoryStore, tmp_path: Path, writer: JournalWriter) -> None:
    ingest(store, tmp_path)
    for name in segments(tmp_path):
        os.utime(name.path(tmp_path), (1000.0 - name.index, 1000.0 - name.index))
    assert prune(store, tmp_path, changed_before_s=NEVER, keep_bytes=200).segments == 2
    # By age, not by name; the open one is the oldest here, and stays all the same.
    assert names(tmp_path) == [(1, 0), (1, 3)]


def test_what_a_killed_writer_left_goes_with_its_torn_end(store: MemoryStore, tmp_path: Path) -> None:
    write(tmp_path, 2, 0).close()
    path = segments(tmp_path)[0].path(tmp_path)
    writer = JournalWriter(tmp_path, 3)
    writer.append_body(request(1))
    writer.close()
    torn = segments(tmp_path)[1].path(tmp_path)
    torn.write_bytes(torn.read_bytes() + b"\1\2\3")
    ingest(store, tmp_path)
    assert prune(store, tmp_path, changed_before_s=LATER, keep_bytes=EVERYTHING).segments == 2
    assert not path.exists()
    assert not torn.exists()


def test_a_damaged_segment_stays(store: MemoryStore, tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, 1)
    for sequence in range(2):
        writer.append_body(request(sequence))
        writer.commit()
    writer.close()
    path = segments(tmp_path)[0].path(tmp_path)
    spoiled = bytearray(path.read_bytes())
    spoiled[-1] ^= 1
    path.write_bytes(spoiled)
    ingest(store, tmp_path)
    assert prune(store, tmp_path, changed_before_s=LATER, keep_bytes=0) == Pruned()


def test_removed_segments_are_forgotten_and_the_others_are_not(
    store: MemoryStore, tmp_path: Path, writer: JournalWriter
) -> None:
    ingest(store, tmp_path)
    last = segments(tmp_path)[-1]
    writer.append_body(request(9))
    writer.commit()
    ingest(store, tmp_path)
    prune(store, tmp_path, changed_before_s=LATER, keep_bytes=EVERYTHING)
    with store.ingestion() as transaction:
        assert {name.index for name in transaction.offsets({1})} <= {last.index, last.index + 1}
    assert ingest(store, tmp_path) == Ingested()


def test_it_is_looked_at_now_and_then_also_after_the_clock_was_set_back(
    store: MemoryStore, tmp_path: Path
) -> None:
    at = [1e6]
    upkeep = JournalUpkeep(store, tmp_path, keep_days=0.001, keep_bytes=EVERYTHING, wall_clock=lambda: at[0])

    def removed_with_one_to_remove() -> int:
        lane = 1 + len(list(tmp_path.iterdir())) + int(at[0])
        JournalWriter(tmp_path, lane % 10**8).close()
        return upkeep.run().segments

    assert (
        removed_with_one_to_remove() == 0
    )  # written now, by the machine's clock: it is younger than the manual one
    for name in segments(tmp_path):
        os.utime(name.path(tmp_path), (1.0, 1.0))
    assert upkeep.run() == Pruned()
    at[0] += EVERY_S
    assert upkeep.run().segments == 1
    JournalWriter(tmp_path, 99).close()
    os.utime(segments(tmp_path)[0].path(tmp_path), (1.0, 1.0))
    at[0] -= 5 * EVERY_S
    assert upkeep.run().segments == 1
