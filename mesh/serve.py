"""The control plane of Envoy: the composition root of `serve --dataplane envoy`.

No router of ours is on the path: Envoy assigns by the script it is sent, sends requests to the variants' servers, and
reports each by its access log. The controller, the store and the journal are those of every other server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from anabranch.bandit.snapshot import Snapshot
from anabranch.mesh import refusals, resources
from anabranch.mesh.access_log import AccessLog
from anabranch.mesh.discovery import Discovery
from anabranch.mesh.ejections import Arm, Ejections
from anabranch.mesh.encode import CLUSTER_TYPE, LISTENER_TYPE, ROUTE_TYPE, pack, type_url
from anabranch.mesh.metrics import MeshMetrics
from anabranch.mesh.passport import guarded, passport, write_private
from anabranch.mesh.process import EnvoyFailed, EnvoyProcess
from anabranch.mesh.routes import caller_of, route_configuration, script_routes
from anabranch.mesh.settings import CONTROL_HOST, MeshSettings, mesh_problems
from anabranch.proto import feedback_pb2
from anabranch.router.access.rates import FeedbackRates
from anabranch.router.assignment_id import AssignmentIds
from anabranch.router.complaints import Complaints
from anabranch.router.controller import Controller
from anabranch.router.feedback import FeedbackService
from anabranch.router.leadership import leadership_of
from anabranch.router.metrics.lag import LagProbe
from anabranch.router.metrics.port import open_metrics_port
from anabranch.router.metrics.server import ServerMetrics
from anabranch.router.models import find_manifests
from anabranch.router.ports import check_port
from anabranch.router.recorder import Recorder
from anabranch.router.routes import Routes
from anabranch.router.served import baselines_of, check_promotions, reload_problems
from anabranch.router.settings import InvalidSettings, assignment_key, check_tls, hold_state
from anabranch.router.shared_key import check_key
from anabranch.router.standalone import complain
from anabranch.router.upkeep import Upkeep
from anabranch.store.journal import JournalWriter
from anabranch.store.sql import open_store
from anabranch.variants.manifest import Manifest
from anabranch.wire.choice import WireKind, new_wire
from anabranch.wire.health import Health
from anabranch.wire.reflection import Reflection
from anabranch.wire.seam import Limits, Status

_LOOK_S: Final = 0.05
_QUIET_S: Final = 0.5
_log = logging.getLogger(__name__)


class MeshServer:
    """One control plane.

    Args:
        settings: How it runs.
        on_ready: Called with the port once an Envoy serves.
        on_metrics: Called with the address of the metrics, once they can be read.
        say: Takes a line for the person who started it.

    Raises:
        InvalidSettings: If a variant is no remote one, Envoy's program is missing, or the files of TLS make no server.
        OSError: If a port is taken.
        LookupError: If a baseline was given, or promoted, that is not served.
        KeyMismatch: If other replicas of the store sign with another key.
    """

    def __init__(
        self,
        settings: MeshSettings,
        *,
        on_ready: Callable[[int], None],
        on_metrics: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        server = settings.server
        check_tls(server)
        manifests = find_manifests(server.models)
        if problems := mesh_problems(settings, manifests):
            raise InvalidSettings("\n".join(problems))
        check_port(CONTROL_HOST, settings.xds_port)
        self._settings = settings
        self._manifests: Mapping[str, Mapping[str, Manifest]] = manifests
        self._baselines = baselines_of(server.baselines, manifests)
        self._on_ready = on_ready
        self._on_metrics = on_metrics
        self._say = say
        server.journal.mkdir(parents=True, exist_ok=True)
        key = assignment_key(server)
        self._secret = passport(key)
        self._store = open_store(server.store_url)
        check_key(server, self._store.replicas)
        check_promotions(self._store, manifests, server.models)
        self._loop = asyncio.get_running_loop()
        self._stop, self._reload = asyncio.Event(), asyncio.Event()
        self._taken: dict[str, asyncio.Event] = {}
        self._snapshot: Snapshot | None = None
        self._ejected: frozenset[Arm] = frozenset()
        self._ejections = Ejections()
        self._lag = LagProbe(self._loop)
        self._metrics = ServerMetrics(self._lag, certificate=server.tls_certificate)
        self._store.watch(self._metrics.stated)
        self._version = 0
        self._has_served = False
        lane = self._store.next_lane()
        self._journal = JournalWriter(server.journal, lane)
        self._recorder = Recorder(self._journal, lane)
        # For feedback only; it is this process that would be too old.
        self._routes = Routes(self._baselines, loop_time=self._loop.time)
        self._discovery = Discovery(on_taken=self._was_taken)
        self._complaints = Complaints(self._loop.time)
        self._access_log = AccessLog(self._recorder, on_outcome=self._heard, complaints=self._complaints)
        self._feedback = FeedbackService(
            ids=AssignmentIds(key),
            routes=self._routes,
            recorder=self._recorder,
            wall_clock=time.time,
            may_report=FeedbackRates(server.max_feedback_per_s, self._loop.time).may_report,
            caller_of=caller_of,
        )
        self._mesh_metrics = MeshMetrics(
            self._metrics,
            recorder=self._recorder,
            journal=self._journal,
            access_log=self._access_log,
            ejections=self._ejections,
            feedback=self._feedback.counts,
        )
        self._health = Health()
        self._wire = new_wire(WireKind.NGH2)
        self._controller = Controller(
            self._store,
            server.journal,
            manifests=manifests,
            baselines=self._baselines,
            wall_clock=time.time,
            publish=self._decided,
            leadership=leadership_of(server, self._store.replicas),
            upkeep=Upkeep(self._store.upkeep, keep_days=server.keep_days, wall_clock=time.time),
            refuses=refusals.problems,
        )
        self._process = (
            None
            if settings.envoy is None
            else EnvoyProcess(
                settings.envoy,
                settings.bootstrap.resolve(),
                concurrency=server.workers,
                drain_s=server.drain_s,
            )
        )
        if self._process is None or not self._process.find():
            check_port(server.host, server.port)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain.

        Raises:
            OSError: If a port is taken.
            StateInUse: If another server uses the state folder.
            EnvoyFailed: If Envoy ended before it served.
        """
        settings = self._settings
        held = hold_state(settings.server)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        envoys = self._discovery.handlers() | self._access_log.handlers()
        public = self._feedback.handlers() | self._health.handlers()
        await self._wire.start(
            host=CONTROL_HOST,
            port=settings.xds_port,
            handlers=guarded(envoys, self._secret, self._stranger)
            | public
            | Reflection([feedback_pb2.DESCRIPTOR]).handlers(),
            limits=Limits(),
            before_flush=self._recorder.commit,
        )
        admin = settings.server.state.resolve() / "envoy-admin.sock"
        start = resources.bootstrap(
            control_host=CONTROL_HOST, control_port=settings.xds_port, secret=self._secret, admin=admin
        )
        write_private(settings.bootstrap, json.dumps(start, indent=2))
        self._publish_servers()
        self._controller.publish()
        self._lag.start()
        metrics_port = open_metrics_port(
            settings.server.metrics_host, settings.server.metrics_port, self._metrics.registry()
        )
        if metrics_port is not None:
            self._on_metrics(metrics_port.address)
        tasks = [asyncio.create_task(work) for work in (self._tick(), self._watch(), self._announce())]
        if self._process is not None:
            keeping = asyncio.create_task(self._process.keep(lambda: self._has_served))
            # An Envoy that cannot begin ends this process, with its reason.
            keeping.add_done_callback(lambda _task: self._stop.set())
            tasks.append(keeping)
        else:
            self._say(f"waiting for Envoy: start it with `envoy -c {settings.bootstrap}`")
        await self._stop.wait()
        ended = await self._shut_down(tasks)
        self._lag.stop()
        if metrics_port is not None:
            await asyncio.to_thread(metrics_port.close)
        os.close(held)
        for error in ended:
            if isinstance(error, EnvoyFailed):
                raise error

    async def _announce(self) -> None:
        """Say that the port is open, once an Envoy has a listener and its routes."""
        server = self._settings.server
        for name in (LISTENER_TYPE, ROUTE_TYPE):
            await self._event(type_url(name)).wait()
        while not await asyncio.to_thread(_is_open, server.host, server.port):
            await asyncio.sleep(_LOOK_S)
        self._has_served = True
        self._on_ready(server.port)

    async def _tick(self) -> None:
        period_s = self._settings.server.tick_s
        while True:
            begun = self._loop.time()
            try:
                await asyncio.to_thread(self._controller.run_once)
                self._routes.heard()
                self._metrics.ticked(
                    self._loop.time() - begun,
                    self._controller.ingested,
                    self._controller.experiments,
                    own=self._controller.lease,
                    leader=await asyncio.to_thread(self._store.replicas.leader),
                )
            except Exception as error:  # noqa: BLE001  # it is tried again: Envoy routes on
                self._metrics.tick_failed()
                complain(self._complaints, error)
            self._mesh_metrics.take_stock(self._ejected)
            await asyncio.sleep(max(0.0, period_s - (self._loop.time() - begun)))

    async def _watch(self) -> None:
        """Let candidates back when their time is over; read the models again when asked to."""
        while True:
            self._eject()
            if self._reload.is_set():
                self._reload.clear()
                try:
                    await self._reload_now()
                except Exception as error:  # noqa: BLE001  # what is served now goes on being served
                    _log.error("nothing was reloaded, everything goes on as before: %s", error)
            await asyncio.sleep(_LOOK_S)

    async def _reload_now(self) -> None:
        server = self._settings.server
        manifests = await asyncio.to_thread(find_manifests, server.models)
        baselines = baselines_of(server.baselines, manifests)
        check_promotions(self._store, manifests, server.models)
        found = mesh_problems(self._settings, manifests)
        found += reload_problems(self._store.experiments(), self._manifests, manifests)
        if found:
            raise LookupError("; ".join(found))
        self._manifests, self._baselines = manifests, baselines
        self._publish_servers()
        await asyncio.to_thread(self._controller.serve, manifests, baselines)
        _log.info("reloaded: Envoy is told")

    def _heard(self, model: str, variant: str, status: Status, seconds: float) -> None:
        self._mesh_metrics.meter.heard(model, variant, status, seconds)
        self._ejections.heard(model, variant, status, self._loop.time(), seconds)
        self._eject()

    def _eject(self) -> None:
        ejected = self._ejections.at(self._loop.time())
        if ejected == self._ejected:
            return
        for model, variant in ejected - self._ejected:
            _log.warning("%s/%s fails too often and is left alone: the baseline stands in", model, variant)
        for model, variant in self._ejected - ejected:
            _log.info("%s/%s is asked again", model, variant)
        self._ejected = ejected
        self._publish_routes()

    def _decided(self, snapshot: Snapshot) -> None:
        # From the controller's thread.
        self._loop.call_soon_threadsafe(self._publish, snapshot)

    def _publish(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._routes.publish(snapshot)
        self._ejections.watch(snapshot, self._manifests)
        self._ejected = self._ejections.at(self._loop.time())
        self._publish_routes()

    def _publish_routes(self) -> None:
        if self._snapshot is None:
            return
        version = self._next_version()
        metadata = script_routes(
            self._snapshot,
            self._manifests,
            lane=self._recorder.lane,
            version=version,
            ejected=self._ejected,
        )
        routes = pack(ROUTE_TYPE, route_configuration(metadata))
        self._discovery.publish({ROUTE_TYPE: (version, [routes])})

    def _publish_servers(self) -> None:
        server, version = self._settings.server, self._next_version()
        listener = resources.listener(
            host=server.host,
            port=server.port,
            key_file=server.key_file.resolve(),
            secret=self._secret,
            max_message_bytes=server.max_message_bytes,
            tls=server.tls,
        )
        known = resources.clusters(self._manifests, server.models)
        self._discovery.publish(
            {
                CLUSTER_TYPE: (version, [pack(CLUSTER_TYPE, cluster) for cluster in known]),
                LISTENER_TYPE: (version, [pack(LISTENER_TYPE, listener)]),
            }
        )

    def _next_version(self) -> str:
        # Versions differ over restarts too: an Envoy that was left running compares them.
        self._version = max(self._version + 1, int(time.time() * 1000))
        return str(self._version)

    def _stranger(self, method: str) -> None:
        self._complaints.say(
            "the port of Envoy", f"{method} was refused to somebody who does not know its secret"
        )

    def _was_taken(self, url: str, _version: str) -> None:
        self._event(url).set()

    def _event(self, url: str) -> asyncio.Event:
        return self._taken.setdefault(url, asyncio.Event())

    async def _shut_down(self, tasks: list[asyncio.Task[Any]]) -> list[Any]:
        """Drain and let go of everything; answers how the tasks ended."""
        self._health.shut_down()
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        if self._process is not None:
            await self._drain()
            await self._process.end()
        self._discovery.shut_down()
        await self._wire.drain(1.0)
        self._journal.close()
        # What was recorded last is read now, so that a later look at the database shows all of it.
        await asyncio.to_thread(self._read_to_the_end)
        self._store.close()
        return ended

    async def _drain(self) -> None:
        """Take the listener away, and wait for what is in flight and for its entries in the log."""
        self._discovery.publish({LISTENER_TYPE: (self._next_version(), [])})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.server.drain_s):
                heard, quiet_since = -1, self._loop.time()
                while self._access_log.missing or self._loop.time() - quiet_since < _QUIET_S:
                    if heard != (heard := self._access_log.counts.total()):
                        quiet_since = self._loop.time()
                    await asyncio.sleep(_LOOK_S)

    def _read_to_the_end(self) -> None:
        self._controller.run_once()
        while self._controller.ingested.records:
            self._controller.run_once()
        self._controller.step_down()


def _is_open(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False
