"""The supervisor: the composition root of a server. It owns the workers, the controller and the snapshot.

Workers are spawned, never forked, and share one port. One that dies is started again; only its requests in
flight are lost, and what it had answered is in its journal.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import orjson

from anabranch.bandit.decision import Decision
from anabranch.bandit.snapshot import Snapshot
from anabranch.router.controller import Controller
from anabranch.router.link import LinkServer, WorkerReport
from anabranch.router.models import default_baseline, find_manifests
from anabranch.router.settings import Settings, assignment_key, hold_state, settings_text
from anabranch.store.sql import open_store
from anabranch.variants.manifest import Manifest

RESTART_S = 1.0
_log = logging.getLogger(__name__)


class WorkerFailed(Exception):
    """A worker could not begin to serve: its own messages in the log say why."""


class Server:
    """One process tree that serves models and moves their experiments on.

    Args:
        settings: How it runs.
        on_ready: Called with the port once every worker serves.
        on_decision: Called with every decision, on the event loop.

    Raises:
        LookupError: If a baseline was given, or promoted, that is not served.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_ready: Callable[[int], None],
        on_decision: Callable[[Decision], None] | None = None,
    ) -> None:
        manifests = find_manifests(settings.models)
        settings.journal.mkdir(parents=True, exist_ok=True)
        assignment_key(settings)
        baselines = _baselines(settings.baselines, manifests)
        self._settings = replace(settings, baselines=baselines)
        self._on_ready = on_ready
        self._on_decision = on_decision or (lambda _decision: None)
        self._store = open_store(settings.store_url)
        for model, variants in manifests.items():
            promoted = self._store.baseline(model)
            if promoted is not None and promoted not in variants:
                raise LookupError(
                    f"{promoted} was promoted to the baseline of {model}, but is not in {settings.models}: "
                    "build it again, or take the promotion back with `anabranch undo`"
                )
        self._link = LinkServer(settings.socket, on_report=self._heard)
        self._reports: dict[int, WorkerReport] = {}
        self._workers: dict[int, asyncio.subprocess.Process] = {}
        self._port = settings.port
        self._is_ready = False
        self._has_failed = False
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._controller = Controller(
            self._store,
            settings.journal,
            manifests=manifests,
            baselines=baselines,
            wall_clock=time.time,
            publish=self._publish,
        )

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain.

        Raises:
            OSError: If the port is taken.
            StateInUse: If another server uses the state folder.
            WorkerFailed: If a worker ended before all of them served for the first time.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        held = hold_state(self._settings)
        reserved = _reserve(self._settings.host, self._settings.port)
        self._port = reserved.getsockname()[1]
        await self._link.start()
        self._controller.publish()
        tasks = [asyncio.create_task(self._keep_worker()) for _ in range(self._settings.workers)]
        tasks.append(asyncio.create_task(self._tick()))
        await self._stop.wait()
        await self._shut_down(tasks)
        reserved.close()
        os.close(held)
        if self._has_failed:
            raise WorkerFailed("a worker could not begin to serve: its messages in the log above say why")

    async def _tick(self) -> None:
        while True:
            begun = self._loop.time()
            try:
                for decision in await asyncio.to_thread(self._controller.run_once):
                    self._on_decision(decision)
                self._link.heartbeat()
            except Exception:  # noqa: BLE001  # a tick that fails is tried again: routing goes on by the last snapshot
                _log.exception("a tick failed")
            await asyncio.sleep(max(0.0, self._settings.tick_s - (self._loop.time() - begun)))

    async def _keep_worker(self) -> None:
        """Run one worker after another in one place."""
        while not self._stop.is_set():
            try:
                await self._run_worker()
            except Exception:  # noqa: BLE001  # whatever hinders a start now, the place must not stay empty
                _log.exception("a worker cannot be started: trying again in %g s", RESTART_S)
            await asyncio.sleep(RESTART_S)

    async def _run_worker(self) -> None:
        """Start a worker and return after its end."""
        lane = await asyncio.to_thread(self._store.next_lane)
        told = {"settings": settings_text(self._settings), "lane": lane, "port": self._port}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "anabranch.router.worker", stdin=asyncio.subprocess.PIPE
        )
        self._workers[lane] = process
        assert process.stdin is not None
        process.stdin.write(orjson.dumps(told))
        process.stdin.close()
        code = await process.wait()
        del self._workers[lane]
        self._reports.pop(lane, None)
        if self._stop.is_set():
            return
        if not self._is_ready:
            # What cannot begin now cannot begin a second later: say so instead of trying for ever.
            self._has_failed = True
            self._stop.set()
        else:
            _log.error("worker %d ended with code %d: starting another in %g s", lane, code, RESTART_S)

    async def _shut_down(self, tasks: list[asyncio.Task[None]]) -> None:
        for process in self._workers.values():
            process.terminate()
        grace_s = self._settings.drain_s + 5.0
        ended = [process.wait() for process in self._workers.values()]
        try:
            await asyncio.wait_for(asyncio.gather(*ended), grace_s)
        except TimeoutError:
            _log.error("workers did not end within %g s: killing them", grace_s)
            for process in self._workers.values():
                process.kill()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # What the workers recorded last is read now, so that a later look at the database shows all of it.
        await asyncio.to_thread(self._read_to_the_end)
        await self._link.close()
        self._store.close()

    def _read_to_the_end(self) -> None:
        self._controller.run_once()
        while self._controller.ingested.records:
            self._controller.run_once()

    def _publish(self, snapshot: Snapshot) -> None:
        self._loop.call_soon_threadsafe(self._link.publish, snapshot)

    def _heard(self, report: WorkerReport) -> None:
        self._reports[report.lane] = report
        serving = [known for known in self._reports.values() if known.is_serving]
        if not self._is_ready and len(serving) == self._settings.workers:
            self._is_ready = True
            self._on_ready(self._port)


def _baselines(given: Mapping[str, str], manifests: Mapping[str, Mapping[str, Manifest]]) -> dict[str, str]:
    """By model, what serves until a promotion says otherwise."""
    for model, variant in given.items():
        if model not in manifests:
            raise LookupError(
                f"baseline given for {model!r}; served models are {', '.join(sorted(manifests))}"
            )
        if variant not in manifests[model]:
            raise LookupError(
                f"{model} has no variant {variant!r} to be its baseline; there are {', '.join(sorted(manifests[model]))}"
            )
    return {model: given.get(model) or default_baseline(variants) for model, variants in manifests.items()}


def _reserve(host: str, port: int) -> socket.socket:
    """Hold the port before the workers share it, so that two servers do not share one by accident.

    Raises:
        OSError: If the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # Without SO_REUSEPORT this fails where any other server listens.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        taken = probe.getsockname()[1]
    held = socket.socket(family)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((host, taken))
    return held
