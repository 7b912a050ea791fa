"""The deadline wheel, on a clock of the test's own."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.wire.deadlines import TICK_S, DeadlineWheel


class Timer:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback = callback
        self.live = True

    def cancel(self) -> None:
        self.live = False


class Loop:
    """As much of an event loop as the wheel uses."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []
        self.armed = 0

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, callback: Callable[[], None]) -> Timer:
        self.armed += 1
        self.timers.append(Timer(at, callback))
        return self.timers[-1]

    def advance(self, to: float) -> None:
        while due := [timer for timer in self.timers if timer.live and timer.at <= to]:
            first = min(due, key=lambda timer: timer.at)
            self.now = max(self.now, first.at)
            self.timers.remove(first)
            first.callback()
        self.now = to


class Call:
    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.expired: list[float] = []

    def expire(self) -> None:
        self.expired.append(self.loop.now)


@pytest.fixture
def loop() -> Loop:
    return Loop()


def _wheel(loop: Any) -> DeadlineWheel:
    return DeadlineWheel(loop)


def test_a_call_ends_at_its_deadline_and_once(loop: Loop) -> None:
    wheel, call = _wheel(loop), Call(loop)
    wheel.add(call, 1001.0)
    loop.advance(1000.99)
    assert call.expired == []
    loop.advance(1010)
    assert len(call.expired) == 1
    assert 1001.0 - 0.001 <= call.expired[0] <= 1001.0 + TICK_S


def test_a_call_that_has_ended_is_forgotten(loop: Loop) -> None:
    wheel, call, other = _wheel(loop), Call(loop), Call(loop)
    tick = wheel.add(call, 1001.0)
    wheel.add(other, 1001.0)
    wheel.discard(call, tick)
    wheel.discard(call, tick)
    loop.advance(1002)
    assert call.expired == []
    assert len(other.expired) == 1
    wheel.discard(other, tick)


def test_a_deadline_in_the_past_ends_the_call_at_once(loop: Loop) -> None:
    wheel, call = _wheel(loop), Call(loop)
    wheel.add(call, 999.0)
    loop.advance(loop.now)
    assert call.expired == [1000.0]


def test_a_thousand_calls_share_few_timers(loop: Loop) -> None:
    wheel = _wheel(loop)
    calls = [Call(loop) for _ in range(1000)]
    for number, call in enumerate(calls):
        wheel.add(call, 1001.0 + number * 1e-6)
    assert loop.armed == 1
    loop.advance(1002)
    assert all(len(call.expired) == 1 for call in calls)
    assert loop.armed <= 2


def test_a_call_added_by_an_ending_call_is_watched(loop: Loop) -> None:
    wheel = _wheel(loop)
    late = Call(loop)

    class Adding(Call):
        def expire(self) -> None:
            super().expire()
            wheel.add(late, self.loop.now + 0.5)

    wheel.add(Adding(loop), 1001.0)
    wheel.add(Call(loop), 1003.0)
    loop.advance(1005)
    assert len(late.expired) == 1
    assert late.expired[0] < 1001.6


def test_a_closed_wheel_ends_nothing(loop: Loop) -> None:
    wheel, call = _wheel(loop), Call(loop)
    wheel.add(call, 1001.0)
    wheel.close()
    loop.advance(1002)
    assert call.expired == []


@given(
    st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=30), st.lists(st.floats(0, 6), max_size=6)
)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_every_call_that_is_kept_ends_within_a_tick_of_its_deadline(
    plans: list[tuple[float, bool]], stops: list[float]
) -> None:
    loop = Loop()
    wheel = _wheel(loop)
    calls = []
    for after_s, kept in plans:
        call = Call(loop)
        tick = wheel.add(call, 1000 + after_s)
        if not kept:
            wheel.discard(call, tick)
        calls.append((call, 1000 + after_s, kept))
    for stop in sorted(stops):
        loop.advance(1000 + stop)
    loop.advance(1010)
    for call, deadline, kept in calls:
        assert len(call.expired) == kept
        assert all(deadline - 0.002 <= at <= deadline + TICK_S + 1e-9 for at in call.expired)
