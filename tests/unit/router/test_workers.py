"""The keeper of workers, over processes that end when the test says so."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from anabranch.router import workers as module
from anabranch.router.link import WorkerReport
from anabranch.router.workers import Workers


@dataclass
class FakeProcess:
    """A process that ends when it is told, or only when it is killed."""

    is_stubborn: bool = False
    told: list[str] = field(default_factory=list)
    end: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def wait(self) -> int:
        return await asyncio.shield(self.end)

    def exit(self, code: int) -> None:
        if not self.end.done():
            self.end.set_result(code)

    def terminate(self) -> None:
        self.told.append("terminate")
        if not self.is_stubborn:
            self.exit(0)

    def kill(self) -> None:
        self.told.append("kill")
        self.exit(-9)


class Fleet:
    """A keeper of workers, and all it did."""

    def __init__(self, places: int = 2, silence_s: float = 60.0, grace_s: float = 60.0) -> None:
        self.started: list[tuple[int, FakeProcess]] = []
        self.said: list[str] = []
        self.broken = False
        self.workers = Workers(
            places,
            start=self._start,
            silence_s=silence_s,
            grace_s=grace_s,
            on_ready=lambda: self.said.append("ready"),
            on_hopeless=lambda: self.said.append("hopeless"),
        )
        self.workers.open()

    async def _start(self, place: int) -> tuple[int, FakeProcess]:
        if self.broken:
            raise OSError("no memory")
        self.started.append((place, FakeProcess()))
        return len(self.started) - 1, self.started[-1][1]

    def process(self, lane: int) -> FakeProcess:
        return self.started[lane][1]

    def report(self, lane: int, *, is_serving: bool = True) -> None:
        self.workers.heard(WorkerReport(lane=lane, is_serving=is_serving))

    def look(self, now: float) -> None:
        """Look twice: after a long time without, the first look only notes the time."""
        self.workers.look(now)
        self.workers.look(now)

    async def turns(self, count: int = 100) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await asyncio.sleep(0)

    async def count(self, started: int) -> None:
        await self.until(lambda: len(self.started) == started)

    async def ready(self) -> None:
        await self.until(lambda: len(self.started) == len(self.workers._places))
        for lane in range(len(self.started)):
            self.report(lane)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses, short enough to be lived through."""
    monkeypatch.setattr(module, "RESTART_S", 0.001)


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(body(), 30)

    asyncio.run(limited())


def test_it_is_ready_once_when_every_place_has_a_worker_that_serves() -> None:
    async def body() -> None:
        fleet = Fleet()
        await fleet.until(lambda: len(fleet.started) == 2)
        fleet.report(0, is_serving=False)
        fleet.report(0)
        assert fleet.said == []
        fleet.report(1)
        fleet.report(1)
        assert fleet.said == ["ready"]
        await fleet.workers.close()
        assert [process.told for _, process in fleet.started] == [["terminate"], ["terminate"]]

    run(body)


def test_a_worker_that_ends_before_all_serve_ends_the_attempt() -> None:
    async def body() -> None:
        fleet = Fleet()
        await fleet.until(lambda: len(fleet.started) == 2)
        fleet.process(1).exit(1)
        await fleet.until(lambda: fleet.said)
        assert fleet.said == ["hopeless"]
        await fleet.workers.close()

    run(body)


def test_a_worker_that_ends_is_followed_by_another_in_its_place() -> None:
    async def body() -> None:
        fleet = Fleet()
        await fleet.ready()
        place = fleet.started[1][0]
        fleet.process(1).exit(-11)
        await fleet.until(lambda: len(fleet.started) == 3)
        assert fleet.started[2][0] == place
        await fleet.workers.close()

    run(body)


def test_pauses_grow_while_workers_cannot_begin_and_shrink_once_one_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LONGEST_RESTART_S", 0.004)

    async def body() -> None:
        fleet = Fleet(places=1)
        await fleet.ready()
        (place,) = fleet.workers._places
        pauses = []
        for lane in range(4):
            fleet.process(lane).exit(1)
            await fleet.count(lane + 2)
            pauses.append(place.pause_s)
        assert pauses == [0.002, 0.004, 0.004, 0.004]
        fleet.report(4)
        fleet.process(4).exit(1)
        await fleet.until(lambda: len(fleet.started) == 6)
        assert place.pause_s == 0.002
        await fleet.workers.close()

    run(body)


def test_a_process_that_cannot_be_started_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        fleet = Fleet(places=1)
        await fleet.ready()
        fleet.broken = True
        fleet.process(0).exit(1)
        await fleet.until(lambda: "no memory" in caplog.text)
        fleet.broken = False
        await fleet.until(lambda: len(fleet.started) == 2)
        await fleet.workers.close()

    run(body)


def test_a_silent_worker_is_killed_and_replaced() -> None:
    async def body() -> None:
        fleet = Fleet(silence_s=60.0)
        await fleet.ready()
        now = asyncio.get_running_loop().time()
        fleet.look(now + 59)
        assert fleet.process(0).told == []
        fleet.workers._workers[1].heard_at = now + 50
        fleet.look(now + 61)
        assert (fleet.process(0).told, fleet.process(1).told) == (["kill"], [])
        await fleet.until(lambda: len(fleet.started) == 3)
        await fleet.workers.close()

    run(body)


def test_a_supervisor_that_was_held_up_itself_first_reads_what_came() -> None:
    async def body() -> None:
        fleet = Fleet(silence_s=60.0)
        await fleet.ready()
        fleet.workers.look(asyncio.get_running_loop().time() + 3600)
        assert fleet.process(0).told == fleet.process(1).told == []
        await fleet.workers.close()

    run(body)


def test_a_worker_that_has_not_reported_yet_may_take_its_time() -> None:
    async def body() -> None:
        fleet = Fleet(places=1, silence_s=60.0)
        await fleet.until(lambda: fleet.started)
        fleet.look(asyncio.get_running_loop().time() + 3600)
        assert fleet.process(0).told == []
        await fleet.workers.close()

    run(body)


def test_replacing_starts_the_next_before_it_ends_the_old_place_after_place() -> None:
    async def body() -> None:
        fleet = Fleet()
        await fleet.ready()
        replacing = asyncio.create_task(fleet.workers.replace())
        await fleet.until(lambda: len(fleet.started) == 3)
        assert fleet.process(0).told == fleet.process(1).told == []
        fleet.report(2)
        await fleet.until(lambda: len(fleet.started) == 4)
        assert (fleet.process(0).told, fleet.process(1).told) == (["terminate"], [])
        fleet.report(3)
        assert await replacing
        assert fleet.process(1).told == ["terminate"]
        assert [place for place, _ in fleet.started] == [0, 1, 0, 1]
        await fleet.workers.close()

    run(body)


def test_a_replacement_that_cannot_begin_leaves_the_old_ones_at_work() -> None:
    async def body() -> None:
        fleet = Fleet()
        await fleet.ready()
        replacing = asyncio.create_task(fleet.workers.replace())
        await fleet.until(lambda: len(fleet.started) == 3)
        fleet.process(2).exit(1)
        assert not await replacing
        assert fleet.process(0).told == fleet.process(1).told == []
        assert len(fleet.started) == 3
        await fleet.workers.close()

    run(body)


def test_a_worker_that_dies_while_it_is_replaced_is_not_started_twice() -> None:
    async def body() -> None:
        fleet = Fleet(places=1)
        await fleet.ready()
        replacing = asyncio.create_task(fleet.workers.replace())
        await fleet.until(lambda: len(fleet.started) == 2)
        fleet.process(0).exit(-11)
        await fleet.turns()
        fleet.report(1)
        assert await replacing
        await fleet.turns()
        assert len(fleet.started) == 2
        await fleet.workers.close()

    run(body)


def test_a_worker_that_does_not_end_is_killed_after_its_grace() -> None:
    async def body() -> None:
        fleet = Fleet(places=1, grace_s=0.05)
        await fleet.ready()
        fleet.process(0).is_stubborn = True
        await fleet.workers.close()
        assert fleet.process(0).told == ["terminate", "kill"]

    run(body)
