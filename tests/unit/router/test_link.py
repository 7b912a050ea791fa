import asyncio
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from anabranch.bandit.snapshot import MirrorPlan, Snapshot
from anabranch.router.link import LinkClient, LinkServer, WorkerReport
from anabranch.store.codec import snapshot_from, snapshot_text

Bench = Any


@pytest.fixture
def snapshot(bench: Bench) -> Callable[[int], Snapshot]:
    def make(version: int) -> Snapshot:
        mirror = MirrorPlan(fraction=0.25, arms=(1, 2), noise_floor=0.1)
        route = bench.route(0.123456789012345678, 1 / 3, mirror=mirror, unit="x-user-id")
        return Snapshot(version=version, published_s=1.5, routes={"m": route})

    return make


class Heard:
    """What a worker hears, as events that a test can wait for."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[Snapshot | str] = asyncio.Queue()

    async def listen(self, client: LinkClient) -> None:
        await client.listen(
            on_snapshot=self.said.put_nowait, on_heartbeat=lambda: self.said.put_nowait("heartbeat")
        )
        self.said.put_nowait("the end")

    async def next(self) -> Snapshot | str:
        return await asyncio.wait_for(self.said.get(), 30)


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(body(), 60)

    asyncio.run(limited())


def test_a_snapshot_survives_its_text_exactly(snapshot: Callable[[int], Snapshot]) -> None:
    text = snapshot_text(snapshot(5))
    assert "\n" not in text
    assert snapshot_from(text) == snapshot_from(text.encode()) == snapshot(5)


def test_snapshots_and_heartbeats_go_down_and_reports_come_up(
    tmp_path: Path, snapshot: Callable[[int], Snapshot]
) -> None:
    async def body() -> None:
        reports: asyncio.Queue[WorkerReport] = asyncio.Queue()
        path = tmp_path / "workers.sock"
        server = LinkServer(path, on_report=reports.put_nowait)
        await server.start()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        server.publish(snapshot(1))

        client, heard = await LinkClient.connect(path), Heard()
        listening = asyncio.create_task(heard.listen(client))
        assert await heard.next() == snapshot(1), "a worker that comes later gets the current one"
        server.publish(snapshot(2))
        server.heartbeat()
        assert await heard.next() == snapshot(2)
        assert await heard.next() == "heartbeat"

        report = WorkerReport(lane=4, version=2, is_serving=True, counts={"requests answered": 9})
        client.report(report)
        assert await asyncio.wait_for(reports.get(), 30) == report

        await server.close()
        assert await heard.next() == "the end"
        await listening
        assert not path.exists()

    run(body)


def test_every_worker_hears_and_one_that_dies_does_not_disturb_the_others(
    tmp_path: Path, snapshot: Callable[[int], Snapshot]
) -> None:
    async def body() -> None:
        path = tmp_path / "workers.sock"
        server = LinkServer(path, on_report=lambda _: None)
        await server.start()
        server.publish(snapshot(1))
        ears = [Heard() for _ in range(3)]
        tasks = [asyncio.create_task(heard.listen(await LinkClient.connect(path))) for heard in ears]
        for heard in ears:
            assert await heard.next() == snapshot(1)
        tasks[0].cancel()
        server.publish(snapshot(2))
        server.publish(snapshot(3))
        for heard in ears[1:]:
            assert await heard.next() == snapshot(2)
            assert await heard.next() == snapshot(3)
        await server.close()
        await asyncio.gather(*tasks[1:])

    run(body)


def test_a_worker_that_talks_nonsense_is_hung_up_on(tmp_path: Path) -> None:
    async def body() -> None:
        path = tmp_path / "workers.sock"
        server = LinkServer(path, on_report=lambda _: None)
        await server.start()
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"nonsense\n")
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
        await server.close()

    run(body)


def test_a_socket_that_a_killed_supervisor_left_is_replaced(tmp_path: Path) -> None:
    async def body() -> None:
        path = tmp_path / "workers.sock"
        path.touch()
        server = LinkServer(path, on_report=lambda _: None)
        await server.start()
        await LinkClient.connect(path)
        await server.close()

    run(body)
