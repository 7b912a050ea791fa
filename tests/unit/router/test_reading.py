import logging
from pathlib import Path

import pytest

from anabranch.router.reading import MOST_BATCHES, JournalReader
from anabranch.store.ingest import Ingested, Ingester
from anabranch.store.memory import MemoryStore


class Script:
    """Answers what each ingestion is to find."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *found: Ingested) -> None:
        self.left = list(found)
        monkeypatch.setattr(Ingester, "ingest", lambda _: self.left.pop(0))


@pytest.fixture
def reader(tmp_path: Path) -> JournalReader:
    return JournalReader(MemoryStore(), tmp_path)


def test_a_round_reads_batches_until_nothing_waits(
    reader: JournalReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(
        monkeypatch,
        Ingested(records=5, duplicates=1, waiting_bytes=9),
        Ingested(records=5, strangers=2, waiting_bytes=4),
        Ingested(records=3),
        Ingested(records=100),
    )
    assert reader.read() == Ingested(records=13, duplicates=1, strangers=2)
    assert len(script.left) == 1


def test_a_round_ends_with_a_backlog_left_and_says_so_once(
    reader: JournalReader, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    behind = Ingested(records=10, waiting_bytes=3 << 20)
    script = Script(monkeypatch, *[behind] * (2 * MOST_BATCHES), Ingested(records=1), Ingested())
    with caplog.at_level(logging.INFO):
        assert reader.read().records == 10 * MOST_BATCHES
        assert len(script.left) == MOST_BATCHES + 2
        reader.read()
        assert len(caplog.records) == 1
        assert "3.0 MiB wait after 100 records" in caplog.text
        reader.read()
        reader.read()
    assert "read to its end again" in caplog.messages[-1]
    assert len(caplog.records) == 2


def test_damage_is_said_once(
    reader: JournalReader, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Script(monkeypatch, *[Ingested(corrupt=("segment 7 is bad",))] * 3)
    for _ in range(3):
        reader.read()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "segment 7 is bad" in caplog.text
