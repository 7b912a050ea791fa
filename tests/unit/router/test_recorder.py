import logging
from typing import Any

import pytest

from anabranch.router import recorder as module
from anabranch.router.recorder import Recorder
from anabranch.store.records import Feedback, Flag

Bench = Any


def outcome(sequence: int) -> Feedback:
    return Feedback(
        at_s=1.0,
        experiment=1,
        epoch=1,
        arm=0,
        flags=Flag.EVIDENCE,
        lane=1,
        sequence=sequence,
        top1=0,
        is_label=False,
        value=1.0,
        metric="correct",
    )


def test_sequences_are_never_given_twice(bench: Bench) -> None:
    assert [bench.recorder.next_sequence() for _ in range(3)] == [1, 2, 3]


def test_what_is_recorded_is_durable_after_the_commit(bench: Bench) -> None:
    bench.recorder.record(outcome(1))
    assert bench.journal.durable == []
    bench.recorder.commit()
    assert bench.journal.durable == [outcome(1)]


def test_a_full_disk_keeps_the_records_and_says_so_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    recorder: Recorder = bench.recorder
    bench.journal.is_full = True
    with caplog.at_level(logging.WARNING):
        for sequence in range(3):
            recorder.record(outcome(sequence))
            recorder.commit()
        assert not recorder.is_able()
        assert len(caplog.records) == 1
        bench.journal.is_full = False
        recorder.commit()
    assert recorder.is_able()
    assert bench.journal.durable == [outcome(0), outcome(1), outcome(2)]
    assert recorder.dropped == 0
    assert "can be written again; 0 records were dropped" in caplog.messages[-1]


def test_an_unable_recorder_tries_again_at_every_commit_without_new_records(bench: Bench) -> None:
    bench.journal.is_full = True
    bench.recorder.record(outcome(0))
    bench.recorder.commit()
    bench.journal.is_full = False
    bench.recorder.commit()
    assert bench.recorder.is_able()


def test_beyond_its_bound_it_drops_and_counts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_WAITING", 2)
    bench.journal.is_full = True
    for sequence in range(5):
        bench.recorder.record(outcome(sequence))
        bench.recorder.commit()
    assert bench.recorder.dropped == 3
    bench.journal.is_full = False
    bench.recorder.commit()
    assert bench.journal.durable == [outcome(0), outcome(1)]
    bench.recorder.record(outcome(9))
    bench.recorder.commit()
    assert bench.journal.durable[-1] == outcome(9)
