"""Keeps a worker in every place: starts, watches, replaces, ends.

A worker is *starting* until it reports that it serves, then *serving*, until it ends. One that ends by itself, or gives
no sign of life and is killed for it, is followed by another, at once if it had served and after a growing pause if not.
To replace one, the next is started first; the old one is asked to end, and drains, once the new one serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from anabranch.router.link import WorkerReport

RESTART_S: Final = 1.0
"""Pause before a worker is started again."""
LONGEST_RESTART_S: Final = 60.0
"""The pause doubles from start to failed start, up to this."""
LONGEST_START_S: Final = 900.0
"""Time in which a worker that replaces another must serve: large models are slow to load."""
_LOOK_S: Final = 0.5
_log = logging.getLogger(__name__)


class Process(Protocol):
    """A worker's process."""

    async def wait(self) -> int:
        """Return the exit status once it has ended."""

    def terminate(self) -> None:
        """Ask it to end; raises ProcessLookupError when it has."""

    def kill(self) -> None:
        """End it now; raises ProcessLookupError when it has ended."""


class Worker:
    """One worker's process, as the supervisor knows it.

    Args:
        lane: Its number, which no other worker of this installation ever has.
        process: Its process.
        loop: Waits for its end.
    """

    def __init__(self, lane: int, process: Process, loop: asyncio.AbstractEventLoop) -> None:
        self.lane = lane
        self.process = process
        self.serving = asyncio.Event()
        self.heard_at: float | None = None
        """When it last reported, on the loop's clock; None before the first time."""
        self.ended = loop.create_task(process.wait())

    async def begin(self) -> bool:
        """Wait until it serves; False when it ended first, or took so long that it was killed."""
        serving = asyncio.ensure_future(self.serving.wait())
        done, _ = await asyncio.wait(
            (serving, self.ended), timeout=LONGEST_START_S, return_when=asyncio.FIRST_COMPLETED
        )
        serving.cancel()
        if not done:
            _log.error("worker %d does not serve after %g s: killing it", self.lane, LONGEST_START_S)
            self.kill()
        return self.serving.is_set() and not self.ended.done()

    async def end(self, grace_s: float) -> None:
        """Ask it to end, and see to it that it does.

        Args:
            grace_s: Seconds after which it is killed.
        """
        if self.ended.done():
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        done, _ = await asyncio.wait((self.ended,), timeout=grace_s)
        if not done:
            _log.error("worker %d did not end within %g s: killing it", self.lane, grace_s)
            self.kill()
            await self.ended

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


class _Place:
    """Where one worker after another runs."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: Worker | None = None
        self.pause_s = RESTART_S
        # Held while the place gets another worker, whoever starts it.
        self.lock = asyncio.Lock()


class Workers:
    """The workers of one server.

    Args:
        places: Workers that run side by side.
        start: Starts a process for a place, and answers its lane.
        silence_s: A worker that was heard of once is killed when it is silent for this long.
        grace_s: Time a worker has to end once it is asked to.
        on_ready: Called once, when every place has a worker that serves.
        on_hopeless: Called when a worker ends before that.

    Attributes:
        restarts: Workers that ended by themselves, or hung.
    """

    def __init__(
        self,
        places: int,
        *,
        start: Callable[[int], Awaitable[tuple[int, Process]]],
        silence_s: float,
        grace_s: float,
        on_ready: Callable[[], None],
        on_hopeless: Callable[[], None],
    ) -> None:
        self._start = start
        self._silence_s = silence_s
        self._grace_s = grace_s
        self._on_ready = on_ready
        self._on_hopeless = on_hopeless
        self._loop = asyncio.get_running_loop()
        self._looked_at = self._loop.time()
        self._places = [_Place(number) for number in range(places)]
        self._workers: dict[int, Worker] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.is_ready = False
        self.restarts = 0

    @property
    def lanes(self) -> tuple[int, ...]:
        """The lanes of the workers that run."""
        return tuple(self._workers)

    def open(self) -> None:
        """Fill every place, and keep it filled."""
        self._tasks = [self._loop.create_task(self._keep(place)) for place in self._places]
        self._tasks.append(self._loop.create_task(self._watch()))

    def heard(self, report: WorkerReport) -> None:
        """A worker gave a sign of life."""
        worker = self._workers.get(report.lane)
        if worker is None:
            return
        worker.heard_at = self._loop.time()
        if report.is_serving:
            worker.serving.set()
        if not self.is_ready and all(self._serves(place) for place in self._places):
            self.is_ready = True
            self._on_ready()

    async def replace(self) -> bool:
        """Replace every worker, one place after the other.

        Returns:
            False when a new worker could not begin: those not yet replaced go on.
        """
        for place in self._places:
            async with place.lock:
                old = place.worker
                fresh = await self._begin(place)
                if fresh is None or not await fresh.begin():
                    _log.error("a new worker could not begin to serve, the present ones go on")
                    return False
                place.worker = fresh
                place.pause_s = RESTART_S
            if old is not None:
                await old.end(self._grace_s)
        return True

    def look(self, now: float) -> None:
        """Kill workers that hang: their places are filled again. Called twice a second.

        Args:
            now: The loop's time.
        """
        late_s, self._looked_at = now - self._looked_at, now
        if late_s > 2 * _LOOK_S:
            # This process itself was held up, and may have reports that it has not read.
            return
        for worker in self._workers.values():
            if worker.heard_at is not None and now - worker.heard_at > self._silence_s:
                _log.error(
                    "worker %d gave no sign of life for %g s: killing it", worker.lane, self._silence_s
                )
                worker.heard_at = None
                worker.kill()

    async def close(self) -> None:
        """End every worker, and start none any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(worker.end(self._grace_s) for worker in list(self._workers.values())))

    async def _keep(self, place: _Place) -> None:
        """Run one worker after another in one place."""
        while True:
            async with place.lock:
                worker = place.worker
                if worker is None or worker.ended.done():
                    worker = place.worker = await self._begin(place)
            if worker is None:
                await self._rest(place)
                continue
            code = await asyncio.shield(worker.ended)
            if place.worker is not worker:
                # Another has taken its place.
                continue
            if not self.is_ready:
                # What cannot begin now cannot begin a second later: say so instead of trying for ever.
                self._on_hopeless()
                return
            self.restarts += 1
            if worker.serving.is_set():
                place.pause_s = RESTART_S
            _log.error(
                "worker %d ended with code %d: starting another in %g s", worker.lane, code, place.pause_s
            )
            await self._rest(place)

    async def _begin(self, place: _Place) -> Worker | None:
        """Start a worker; None when not even that is possible."""
        try:
            lane, process = await self._start(place.number)
        except Exception:  # noqa: BLE001  # whatever hinders a start now, the place must not stay empty
            _log.exception("a worker cannot be started: trying again in %g s", place.pause_s)
            return None
        worker = self._workers[lane] = Worker(lane, process, self._loop)
        worker.ended.add_done_callback(lambda _: self._workers.pop(lane))
        return worker

    async def _rest(self, place: _Place) -> None:
        pause_s, place.pause_s = place.pause_s, min(2 * place.pause_s, LONGEST_RESTART_S)
        await asyncio.sleep(pause_s)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self.look(self._loop.time())

    def _serves(self, place: _Place) -> bool:
        return place.worker is not None and place.worker.serving.is_set() and not place.worker.ended.done()
