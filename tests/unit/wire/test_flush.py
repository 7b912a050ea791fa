"""The flush: what is made durable before what leaves."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from anabranch.wire.flush import Flusher
from anabranch.wire.seam import WireStats


class Loop:
    """As much of an event loop as the flusher uses."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def turn(self) -> None:
        ready, self.soon = self.soon, []
        for callback in ready:
            callback()


class Writer:
    def __init__(self, name: str, log: list[str], after: Callable[[], None] | None = None) -> None:
        self.name = name
        self.log = log
        self.after = after

    def write_out(self) -> None:
        self.log.append(f"write {self.name}")

    def after_write(self) -> None:
        self.log.append(f"after {self.name}")
        if self.after is not None:
            after, self.after = self.after, None
            after()


def _flusher(loop: Any, before: Callable[[], None] | None, stats: WireStats | None = None) -> Flusher:
    return Flusher(loop, before, stats or WireStats())


def test_replies_of_a_turn_are_committed_once_and_then_written() -> None:
    loop, log = Loop(), list[str]()
    flusher = _flusher(loop, lambda: log.append("commit"))
    for name in "ab":
        flusher.replied = True
        flusher.mark(Writer(name, log))
    assert log == []
    loop.turn()
    assert log == ["commit", "write a", "write b", "after a", "after b"]
    loop.turn()
    assert len(log) == 5


def test_nothing_is_committed_where_nothing_was_answered() -> None:
    loop, log = Loop(), list[str]()
    flusher = _flusher(loop, lambda: log.append("commit"))
    flusher.mark(Writer("a", log))
    loop.turn()
    assert log == ["write a", "after a"]


def test_a_reply_given_while_others_are_written_waits_for_a_commit_of_its_own() -> None:
    loop, log = Loop(), list[str]()
    flusher = _flusher(loop, lambda: log.append("commit"))
    late = Writer("late", log)

    def answer() -> None:
        flusher.replied = True
        flusher.mark(late)

    flusher.replied = True
    flusher.mark(Writer("a", log, after=answer))
    flusher.mark(Writer("b", log))
    loop.turn()
    assert log == ["commit", "write a", "write b", "after a", "after b"]
    loop.turn()
    assert log[5:] == ["commit", "write late", "after late"]


def test_a_reply_given_by_the_commit_itself_is_committed_before_it_leaves() -> None:
    loop, log = Loop(), list[str]()

    def commit() -> None:
        log.append("commit")
        if len(log) == 1:
            flusher.replied = True
            flusher.mark(Writer("second", log))

    flusher = _flusher(loop, commit)
    flusher.replied = True
    flusher.mark(Writer("first", log))
    loop.turn()
    assert log == ["commit", "commit", "write first", "write second", "after first", "after second"]


def test_replies_leave_where_the_commit_fails_and_the_failure_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop, log, stats = Loop(), list[str](), WireStats()

    def commit() -> None:
        raise OSError("no space left on device")

    flusher = _flusher(loop, commit, stats)
    flusher.replied = True
    flusher.mark(Writer("a", log))
    with caplog.at_level(logging.ERROR):
        loop.turn()
    assert log == ["write a", "after a"]
    assert stats.flush_errors == 1
    assert "leave unrecorded" in caplog.text


def test_a_flusher_without_a_commit_writes() -> None:
    loop, log = Loop(), list[str]()
    flusher = _flusher(loop, None)
    flusher.replied = True
    flusher.mark(Writer("a", log))
    loop.turn()
    assert log == ["write a", "after a"]


def test_a_connection_that_fails_to_write_does_not_keep_the_others(caplog: pytest.LogCaptureFixture) -> None:
    loop, log = Loop(), list[str]()

    class Broken(Writer):
        def write_out(self) -> None:
            raise OSError("broken")

    flusher = _flusher(loop, None)
    flusher.mark(Broken("a", log))
    flusher.mark(Writer("b", log))
    with caplog.at_level(logging.ERROR):
        loop.turn()
    assert log == ["write b", "after a", "after b"]
    assert "failed while it wrote" in caplog.text
