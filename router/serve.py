"""The supervisor: the composition root of a server. It owns the workers, the controller and the snapshot.

Workers are spawned, never forked, and share one port. One that dies or hangs is replaced; only its requests in flight
are lost, and what it had answered is in its journal. SIGHUP replaces them all, one by one, and loses none.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import orjson

from anabranch.bandit.decision import Decision
from anabranch.bandit.snapshot import Snapshot
from anabranch.router.classes import targets
from anabranch.router.complaints import Complaints
from anabranch.router.control.beside import ServerControl
from anabranch.router.control.verbs import Served
from anabranch.router.controller import Controller
from anabranch.router.forecast.runner import Forecaster, require_forecast
from anabranch.router.journal_upkeep import JournalUpkeep
from anabranch.router.lanes import Lanes
from anabranch.router.leadership import leadership_of
from anabranch.router.link import LinkServer, WorkerReport
from anabranch.router.metrics.lag import LagProbe
from anabranch.router.metrics.port import MetricsPort, open_metrics_port
from anabranch.router.metrics.server import ServerMetrics
from anabranch.router.models import find_manifests
from anabranch.router.ports import Ports, check_port
from anabranch.router.served import baselines_of, check_promotions, reload_problems
from anabranch.router.settings import (
    Settings,
    assignment_key,
    check_tls,
    hold_state,
    settings_text,
)
from anabranch.router.shared_key import check_key
from anabranch.router.standalone import complain
from anabranch.router.terminal import has_terminal
from anabranch.router.traces import Traces, require_traces
from anabranch.router.upkeep import Upkeep
from anabranch.router.volumes import VolumeKeeper
from anabranch.router.webhooks.policy import policy_from
from anabranch.router.webhooks.runner import Webhooks
from anabranch.router.workers import Process, Workers
from anabranch.store.sql import open_store

_log = logging.getLogger(__name__)


class WorkerFailed(Exception):
    """A worker could not begin to serve: its own messages in the log say why."""


class Server:
    """One process tree that serves models and moves their experiments on.

    Args:
        settings: How it runs.
        on_ready: Called with the port once every worker serves.
        on_decision: Called with every decision, on the event loop.
        on_metrics: Called with the address of the metrics, once they can be read.
        on_control: Called with the address of the control port, once it is open.

    Raises:
        InvalidSettings: If the files of TLS make no server.
        OSError: If the port is taken.
        LookupError: If a baseline was given, or promoted, that is not served.
        KeyMismatch: If other replicas of the store sign with another key.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_ready: Callable[[int], None],
        on_decision: Callable[[Decision], None] | None = None,
        on_metrics: Callable[[str], None] | None = None,
        on_control: Callable[[str], None] | None = None,
    ) -> None:
        check_tls(settings)
        require_traces(settings)
        require_forecast(settings)
        check_port(settings.host, settings.port)
        manifests = find_manifests(settings.models)
        baselines = baselines_of(settings.baselines, manifests)
        settings.journal.mkdir(parents=True, exist_ok=True)
        assignment_key(settings)
        self._given = settings
        self._manifests = manifests
        self._settings = replace(settings, baselines=baselines)
        self._on_ready = on_ready
        self._on_decision = on_decision or (lambda _decision: None)
        self._on_metrics = on_metrics or (lambda _address: None)
        self._on_control = on_control or (lambda _address: None)
        self._store = open_store(settings.store_url)
        check_key(settings, self._store.replicas)
        check_promotions(self._store, manifests, settings.models)
        self._lanes = Lanes(self._store.next_lane, spare=settings.workers)
        self._has_failed = False
        self._had_terminal = has_terminal()
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ports = Ports(self._loop, settings.host, settings.workers)
        self._workers = Workers(
            settings.workers,
            start=self._start_worker,
            silence_s=settings.worker_silence_s,
            grace_s=settings.drain_s + 5.0,
            on_ready=lambda: self._on_ready(self._ports.port),
            on_hopeless=self._give_up,
        )
        self._complaints = Complaints(self._loop.time)
        self._lag = LagProbe(self._loop)
        class_targets = targets(settings.class_targets_ms)
        self._metrics = ServerMetrics(
            self._lag, certificate=settings.tls_certificate, targets_ms=class_targets
        )
        self._volumes = VolumeKeeper(self._store.volumes, time.time)
        self._forecaster = Forecaster(self._store.volumes, time.time) if settings.forecast else None
        self._metrics_port: MetricsPort | None = None
        # Every decision has a span of its own: there are few.
        self._traces = Traces(settings, "supervisor", draw=lambda: 0.0) if settings.trace_share > 0 else None
        self._store.watch(self._metrics.stated)
        self._link = LinkServer(settings.socket, on_report=self._heard)
        self._control = ServerControl(
            self._settings,
            self._store,
            served=lambda: Served(manifests=self._manifests, baselines=self._settings.baselines),
            tell_workers=self._link.tell_access,
        )
        self._controller = Controller(
            self._store,
            settings.journal,
            manifests=manifests,
            baselines=baselines,
            wall_clock=time.time,
            publish=self._publish,
            decided=self._traces.decided if self._traces is not None else None,
            leadership=leadership_of(settings, self._store.replicas),
            upkeep=Upkeep(self._store.upkeep, keep_days=settings.keep_days, wall_clock=time.time),
            journal_upkeep=JournalUpkeep(
                self._store,
                settings.journal,
                keep_days=settings.journal_days,
                keep_bytes=settings.journal_bytes,
                wall_clock=time.time,
            ),
            webhooks=Webhooks(self._store, policy_from(os.environ), wall_clock=time.time),
            class_targets_ms=class_targets,
        )

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain.

        Raises:
            OSError: If the port is taken.
            InvalidSettings: If the port of the metrics is taken.
            StateInUse: If another server uses the state folder.
            WorkerFailed: If a worker ended before all of them served for the first time.
        """
        self._open_metrics()
        await self._ports.open(self._settings.port)
        held = hold_state(self._settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        self._loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        await self._link.start()
        await self._control.open()
        if self._control.address is not None:
            self._on_control(self._control.address)
        self._lag.start()
        self._controller.publish()
        self._workers.open()
        tasks = [asyncio.create_task(self._tick()), asyncio.create_task(self._reload_when_asked())]
        if self._forecaster is not None:
            tasks.insert(0, asyncio.create_task(self._forecaster.run()))
        await self._stop.wait()
        await self._shut_down(tasks)
        self._ports.close()
        os.close(held)
        if self._has_failed:
            raise WorkerFailed("a worker could not begin to serve: its messages in the log above say why")

    async def _tick(self) -> None:
        while True:
            begun = self._loop.time()
            try:
                for decision in await asyncio.to_thread(self._controller.run_once):
                    self._on_decision(decision)
                await self._control.refresh()
                self._link.heartbeat()
                await asyncio.to_thread(self._lanes.refill)
                await asyncio.to_thread(self._volumes.flush)
                await asyncio.to_thread(self._count_tick, self._loop.time() - begun)
            except Exception as error:  # noqa: BLE001  # it is tried again: routing goes on by the last snapshot
                self._metrics.tick_failed()
                complain(self._complaints, error)
            self._metrics.looked(self._workers.lanes, self._workers.restarts, self._control.refused)
            await asyncio.sleep(max(0.0, self._settings.tick_s - (self._loop.time() - begun)))

    async def _start_worker(self, place: int) -> tuple[int, Process]:
        """Start a worker's process, and tell it what it needs."""
        lane = await asyncio.to_thread(self._lanes.next)
        listeners = await self._ports.sockets(place)
        line = self._ports.line(place)
        inherited = [each.fileno() for each in (*listeners, line)]
        told = {
            "settings": settings_text(self._settings),
            "lane": lane,
            "port": self._ports.port,
            "listeners": inherited[:-1],
            "line": inherited[-1],
        }
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "anabranch.router.worker",
                stdin=asyncio.subprocess.PIPE,
                pass_fds=inherited,
            )
        finally:
            for each in (*listeners, line):
                each.close()
        assert process.stdin is not None
        process.stdin.write(orjson.dumps(told))
        process.stdin.close()
        return lane, process

    def _heard(self, report: WorkerReport) -> None:
        self._workers.heard(report)
        self._metrics.heard(report)
        self._volumes.heard(report.metrics)
        self._control.token_uses(dict(report.tokens_used))

    def _count_tick(self, took_s: float) -> None:
        controller = self._controller
        self._metrics.ticked(
            took_s,
            controller.ingested,
            controller.experiments,
            own=controller.lease,
            leader=self._store.replicas.leader(),
        )

    def _open_metrics(self) -> None:
        settings = self._settings
        more = () if self._forecaster is None else (self._forecaster.samples,)
        self._metrics_port = open_metrics_port(
            settings.metrics_host, settings.metrics_port, self._metrics.registry(*more)
        )
        if self._metrics_port is not None:
            self._on_metrics(self._metrics_port.address)

    def _give_up(self) -> None:
        self._has_failed = True
        self._stop.set()

    def _hung_up(self) -> None:
        """SIGHUP: somebody wants a reload, or closed the terminal that this runs in."""
        if self._had_terminal and not has_terminal():
            self._stop.set()
        elif self._workers.is_ready:
            self._reload.set()
        else:
            _log.warning("SIGHUP is ignored: the workers do not serve yet")

    async def _reload_when_asked(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            try:
                await self._reload_now()
            except Exception as error:  # noqa: BLE001  # what is served now goes on being served
                _log.error("nothing was reloaded, everything goes on as before: %s", error)

    async def _reload_now(self) -> None:
        """Serve what the models folder and the TLS files hold now.

        Raises:
            LookupError: If a baseline is not there any more, or an experiment needs what is not.
            InvalidSettings: If the files of TLS make no server.
        """
        check_tls(self._given)
        manifests = await asyncio.to_thread(find_manifests, self._given.models)
        baselines = baselines_of(self._given.baselines, manifests)
        check_promotions(self._store, manifests, self._given.models)
        if problems := reload_problems(self._store.experiments(), self._manifests, manifests):
            raise LookupError("; ".join(problems))
        before, self._settings = self._settings, replace(self._given, baselines=baselines)
        _log.info("reloading: replacing %d workers", self._settings.workers)
        if not await self._workers.replace():
            self._settings = before
            return
        self._manifests = manifests
        await asyncio.to_thread(self._controller.serve, manifests, baselines)
        _log.info("reloaded: every worker is replaced")

    async def _shut_down(self, tasks: list[asyncio.Task[None]]) -> None:
        tasks[-1].cancel()
        await self._control.close()
        await self._workers.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # What the workers recorded last is read now, so that a later look at the database shows all of it.
        await asyncio.to_thread(self._read_to_the_end)
        await self._link.close()
        self._lag.stop()
        if self._metrics_port is not None:
            await asyncio.to_thread(self._metrics_port.close)
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)
        self._store.close()

    def _read_to_the_end(self) -> None:
        self._controller.run_once()
        while self._controller.ingested.records:
            self._controller.run_once()
        self._controller.step_down()
        # Last: no decision rests on volumes, and what the store refuses of them must not keep evidence or the lease.
        self._volumes.flush(is_last=True)

    def _publish(self, snapshot: Snapshot) -> None:
        self._loop.call_soon_threadsafe(self._link.publish, snapshot)
        self._loop.call_soon_threadsafe(self._control.publish, snapshot)
