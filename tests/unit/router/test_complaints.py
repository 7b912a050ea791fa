import logging

import pytest

from anabranch.router import complaints as module
from anabranch.router.complaints import INTERVAL_S, Complaints


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_subject_is_named_once_an_interval_with_what_was_left_out(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    complaints = Complaints(clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            complaints.say("variant a", "it broke")
        complaints.say("variant b", "it is gone")
        clock.now += INTERVAL_S
        complaints.say("variant a", "it broke again")
    assert [record.getMessage() for record in caplog.records] == [
        "variant a: it broke",
        "variant b: it is gone",
        "variant a: it broke again (and 4 more failures since the last line)",
    ]


def test_what_is_remembered_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_MOST_SUBJECTS", 2)
    complaints = Complaints(Clock())
    for name in "abca":
        complaints.say(name, "it broke")
    assert len(caplog.records) == 4
