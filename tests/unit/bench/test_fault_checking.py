"""The checks of a drill find what they are there to find."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from anabranch.store.ingest import ingest
from anabranch.store.journal import JournalWriter
from anabranch.store.records import Flag, routed_body
from anabranch.store.sql import open_store
from bench.faults.checking import Found, check
from bench.faults.seen import Life, Publication, Seen
from bench.faults.world import World, document


def request(sequence: int) -> bytes:
    return routed_body(1.0, 1, 0, 0, Flag.EVIDENCE, 0, 5.0, 0.0, 4.0, 1, 0.5, sequence, bytes(16))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Three requests, answered, recorded and counted."""
    world = World(folder=tmp_path)
    world.journal.mkdir()
    store = open_store(world.url)
    store.apply(document(sticky=False), "drill", 0.0)
    writer = JournalWriter(world.journal, 1)
    for sequence in (1, 2, 3):
        writer.append_body(request(sequence))
    writer.close()
    ingest(store, world.journal)
    yield world
    store.close()


def found(world: World, seen: Seen) -> Found:
    return check(world, seen, sticky=False)


def test_what_is_well_is_found_well(world: World) -> None:
    result = found(world, Seen(answered={1: [1, 2, 3]}))
    assert (result.answered, result.recorded, result.counted, result.lost, result.duplicated) == (
        3,
        3,
        3,
        0,
        0,
    )
    assert result.problems == ()


def test_an_answer_without_a_record_is_lost(world: World) -> None:
    assert found(world, Seen(answered={1: [1, 2, 3, 4]})).lost == 1


def test_a_record_that_was_written_twice_is_a_duplicate(world: World) -> None:
    copy = next(world.journal.iterdir())
    (world.journal / "00000001-000001.journal").write_bytes(copy.read_bytes())
    assert found(world, Seen(answered={1: [1, 2, 3]})).duplicated == 3


def test_a_record_that_was_counted_twice_is_a_duplicate(world: World) -> None:
    with sqlite3.connect(world.database) as connection:
        connection.execute("DELETE FROM cursor")
    result = found(world, Seen(answered={1: [1, 2, 3]}))
    assert (result.duplicated, result.problems) == (3, ("the evidence is not what the journal says",))


def test_weights_that_were_never_saved_are_found(world: World) -> None:
    given = Publication(at_s=1.0, epoch=7, weights={"base": 0.5, "sound": 0.5})
    [problem] = found(world, Seen(lives=[Life(begun_s=0.0, publications=[given])])).problems
    assert "epoch 7 was published" in problem


def test_a_controller_that_forgot_what_was_published_is_found(world: World) -> None:
    with sqlite3.connect(world.database) as connection:
        for number in (1, 2):
            connection.execute("INSERT INTO epoch VALUES (1, ?, '{\"base\": 1.0}')", (number,))
    lives = [
        Life(begun_s=0.0, publications=[Publication(at_s=1.0, epoch=2, weights={"base": 1.0})]),
        Life(begun_s=2.0, publications=[Publication(at_s=3.0, epoch=1, weights={"base": 1.0})]),
    ]
    assert found(world, Seen(lives=lives)).problems == (
        "a controller began with epoch 1, 2 had been published",
    )


def test_a_harmful_variant_without_an_experiment_is_found(world: World) -> None:
    given = Publication(at_s=1.0, epoch=0, weights={"harmful": 1.0})
    [problem] = found(world, Seen(lives=[Life(begun_s=0.0, publications=[given])])).problems
    assert "served without an experiment" in problem


def test_a_leader_that_saved_after_its_successor_is_found(world: World) -> None:
    lives = [Life(begun_s=0.0, decisions=[(1, 1), (3, 1)]), Life(begun_s=1.0, decisions=[(2, 2)])]
    assert found(world, Seen(lives=lives)).problems == (
        "decision 3 was saved with token 1, decision 2 with 2 before",
    )


def test_a_decision_that_two_controllers_saved_is_found(world: World) -> None:
    lives = [Life(begun_s=0.0, decisions=[(1, 1)]), Life(begun_s=1.0, decisions=[(1, 1)])]
    assert found(world, Seen(lives=lives)).problems == ("decision 1 was saved 2 times",)
