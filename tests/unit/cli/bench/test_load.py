"""The load generator against a channel and a clock that a test holds in its hands."""

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from anabranch.cli.bench.load import Load, Outcome, Plan
from anabranch.cli.bench.report import load_report
from anabranch.wire.client import Channel, ChannelStats, ClientCall, ClientStreamCall, Done, Reply
from anabranch.wire.seam import Metadata, Status


class HeldChannel(Channel):
    """A channel whose calls a test answers."""

    def __init__(self) -> None:
        self.waiting: list[Done] = []
        self.metadata: list[Metadata] = []

    @property
    def stats(self) -> ChannelStats:
        return ChannelStats()

    @property
    def open_calls(self) -> int:
        return len(self.waiting)

    @property
    def writable(self) -> bool:
        return True

    def unary(
        self,
        method: str,
        message: bytes,
        *,
        done: Done,
        tail: bytes = b"",
        metadata: Metadata = (),
        deadline: float | None = None,
    ) -> ClientCall:
        assert message + tail == b"request"
        assert deadline is not None
        self.waiting.append(done)
        self.metadata.append(metadata)
        return _Call()

    def stream(self, method: str, **_: Any) -> ClientStreamCall:
        raise NotImplementedError

    async def ready(self, timeout_s: float) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    def answer(self, number: int, status: Status = Status.OK) -> None:
        """Answer the first calls that wait."""
        answered, self.waiting = self.waiting[:number], self.waiting[number:]
        for done in answered:
            done(Reply(status))


class _Call:
    def cancel(self) -> None:
        raise NotImplementedError


class Bench:
    """A run in hand: its channel, its clock, its timer."""

    def __init__(self, **plan: Any) -> None:
        self.now_s = 100.0
        self.at_s = math.inf
        self.callback: Callable[[], None] = lambda: None
        self.channel = HeldChannel()
        defaults = {
            "message": b"request",
            "rate_per_s": 100.0,
            "concurrency": 4,
            "warm_up_s": 0.0,
            "duration_s": 10.0,
            "deadline_s": 5.0,
        }
        self.plan = Plan(**{**defaults, **plan})
        self.load = Load(self.channel, self.plan, self, now=lambda: self.now_s)
        self.running = asyncio.create_task(self.load.run())

    def arm(self, at_s: float, callback: Callable[[], None]) -> None:
        self.at_s, self.callback = at_s, callback

    def advance(self, to_s: float) -> None:
        """Let the time pass, with every moment on its way."""
        while self.at_s <= to_s:
            self.now_s, at_s = self.at_s, self.at_s
            self.at_s = math.inf
            self.callback()
            assert self.at_s > at_s
        self.now_s = to_s

    async def end(self) -> Outcome:
        return await asyncio.wait_for(self.running, 5)


def _run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def test_an_open_loop_sends_at_its_rate_whether_or_not_answers_come() -> None:
    async def scenario() -> None:
        bench = Bench()
        await asyncio.sleep(0)
        bench.advance(110.0)
        sent = len(bench.channel.waiting)
        assert abs(sent - 1000) < 5 * math.sqrt(1000)
        bench.now_s = 112.0
        bench.channel.answer(sent)
        outcome = await bench.end()
        assert outcome.tally.sent == outcome.tally.ended[Status.OK] == sent
        assert outcome.elapsed_s == 12.0
        # The first request has waited since its own moment, though it left without delay.
        assert outcome.tally.latency.longest_s == pytest.approx(12.0, abs=0.2)
        assert outcome.tally.lag.longest_s == 0.0

    _run(scenario)


def test_a_generator_that_is_held_up_charges_itself() -> None:
    async def scenario() -> None:
        bench = Bench()
        await asyncio.sleep(0)
        # The process stood still for three seconds, and wakes once.
        bench.now_s = 103.0
        bench.callback()
        bench.channel.answer(10_000)
        assert bench.load.tally.lag.longest_s == pytest.approx(3.0, abs=0.2)
        assert bench.load.tally.latency.longest_s == pytest.approx(3.0, abs=0.2)
        bench.advance(110.0)
        bench.channel.answer(10_000)
        report = load_report("here:1", 1, bench.plan, await bench.end())
        assert not report.kept_up
        assert report.is_clean

    _run(scenario)


def test_the_warm_up_is_sent_and_not_counted() -> None:
    async def scenario() -> None:
        bench = Bench(warm_up_s=5.0)
        await asyncio.sleep(0)
        bench.advance(105.0)
        warm = len(bench.channel.waiting)
        assert warm > 300
        bench.advance(115.0)
        total = len(bench.channel.waiting)
        bench.channel.answer(total)
        outcome = await bench.end()
        assert outcome.tally.sent == outcome.tally.ended.total() == total - warm

    _run(scenario)


def test_a_closed_loop_keeps_its_number_in_flight_until_the_time_is_up() -> None:
    async def scenario() -> None:
        bench = Bench(rate_per_s=None, concurrency=4)
        await asyncio.sleep(0)
        for second in range(10):
            assert len(bench.channel.waiting) == 4
            bench.now_s = 100.0 + second + 0.5
            bench.channel.answer(3)
        bench.now_s = 110.0
        bench.channel.answer(4)
        assert bench.channel.waiting == []
        outcome = await bench.end()
        assert outcome.tally.sent == outcome.tally.ended[Status.OK] == 34
        # The one that was passed over nine times.
        assert outcome.tally.latency.longest_s >= 0.5

    _run(scenario)


def test_failures_are_counted_by_status_and_make_a_run_unclean() -> None:
    async def scenario() -> None:
        bench = Bench()
        await asyncio.sleep(0)
        bench.advance(110.0)
        bench.channel.answer(3, Status.RESOURCE_EXHAUSTED)
        bench.channel.answer(10_000)
        report = load_report("here:1", 2, bench.plan, await bench.end())
        assert report.by_status == {"OK": report.sent - 3, "RESOURCE_EXHAUSTED": 3}
        assert not report.is_clean
        assert report.achieved_per_s == pytest.approx(report.sent / 10)

    _run(scenario)


def test_a_server_that_does_not_keep_up_is_not_sent_more_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anabranch.cli.bench.load.MAX_IN_FLIGHT", 50)

    async def scenario() -> None:
        bench = Bench()
        await asyncio.sleep(0)
        bench.advance(110.0)
        assert len(bench.channel.waiting) == 50
        bench.channel.answer(50)
        report = load_report("here:1", 1, bench.plan, await bench.end())
        assert (report.sent, report.ok) == (50, 50)
        assert report.skipped > 800
        assert not report.is_clean
        assert not report.kept_up

    _run(scenario)


def test_units_are_drawn_evenly_and_alike_for_a_seed() -> None:
    async def scenario() -> list[Metadata]:
        bench = Bench(metadata=(("x-own", "1"),), unit_field="x-user-id", units=10)
        await asyncio.sleep(0)
        bench.advance(110.0)
        seen = bench.channel.metadata
        bench.channel.answer(len(seen))
        await bench.end()
        return seen

    first, second = asyncio.run(scenario()), asyncio.run(scenario())
    assert first == second
    drawn = [dict(each)["x-user-id"] for each in first]
    assert {dict(each)["x-own"] for each in first} == {"1"}
    counts = [drawn.count(f"unit-{number}") for number in range(10)]
    assert sum(counts) == len(drawn)
    # 100 expected of each; five standard deviations.
    assert all(50 < number < 150 for number in counts)
