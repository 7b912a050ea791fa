"""One worker process: the composition root of the request path.

Started as `python -m anabranch.router.worker` with its settings and lane on standard input.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
import uvloop

from anabranch.proto import feedback_pb2, open_inference_pb2
from anabranch.proto.native import describe_native
from anabranch.router.access.authenticator import Rules
from anabranch.router.access.worker_access import WorkerAccess
from anabranch.router.assignment_id import AssignmentIds
from anabranch.router.backends import Backend, LocalBackend, RemoteBackend, queue_name
from anabranch.router.classes import targets
from anabranch.router.express import ExpressPath
from anabranch.router.feedback import FeedbackService
from anabranch.router.generation import GenerationBackend
from anabranch.router.hedge import Hedge
from anabranch.router.infer import Inference
from anabranch.router.link import LinkClient, WorkerReport
from anabranch.router.logs import set_up_logging
from anabranch.router.metrics.lag import LagProbe
from anabranch.router.metrics.readings import Readings
from anabranch.router.mirror import Mirror
from anabranch.router.models import Models, load_models
from anabranch.router.oip import SERVICE, OpenInference
from anabranch.router.ports import hand_on
from anabranch.router.recorder import Recorder
from anabranch.router.routes import Routes
from anabranch.router.settings import Settings, assignment_key, settings_from
from anabranch.router.traced import TracedInference
from anabranch.router.traces import Traces
from anabranch.store.journal import JournalWriter
from anabranch.variants.batcher import Dispatcher
from anabranch.variants.batching import BatchPolicy
from anabranch.variants.llm.batch_thread import BatchThread
from anabranch.variants.llm.generator import Generator
from anabranch.variants.llm.pool import GenerationPool, ThreadRunner
from anabranch.variants.remote import RemoteVariant
from anabranch.variants.runtime import LoadedVariant, suitable_placement
from anabranch.wire.choice import WireKind, new_wire
from anabranch.wire.deadlines import DeadlineWheel
from anabranch.wire.express import has_express
from anabranch.wire.health import Health, Serving
from anabranch.wire.reflection import Reflection
from anabranch.wire.seam import Handlers

REPORT_S = 1.0
_log = logging.getLogger(__name__)


class Worker:
    """Serves the inference port until it is told to stop, or the supervisor hangs up."""

    def __init__(
        self,
        settings: Settings,
        lane: int,
        port: int,
        listeners: list[socket.socket],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._port = port
        self._models: Models = load_models(settings.models, generation_threads=settings.model_threads)
        self._journal = JournalWriter(settings.journal, lane)
        self._recorder = Recorder(self._journal, lane)
        self._dispatcher = Dispatcher(settings.model_threads, loop)
        self._routes = Routes(settings.baselines, loop_time=loop.time, max_age_s=settings.snapshot_max_age_s)
        self._health = Health()
        self._wire = new_wire(settings.wire)
        self._stop = asyncio.Event()
        self._routed = asyncio.Event()
        self._is_serving = False
        ids = AssignmentIds(assignment_key(settings))
        self._backends: dict[tuple[str, str], Backend] = {}
        self._generations: GenerationPool | None = None
        self._batches: list[GenerationPool] = []
        self._mirror = Mirror(self._backends, self._recorder, wall_clock=time.time, loop_time=loop.time)
        self._traces = None
        new_inference: Callable[..., Inference] = Inference
        if settings.trace_share > 0:
            # Seeded by the operating system, apart from the draws of experiments.
            self._traces = Traces(settings, "worker", draw=random.Random().random)
            new_inference = partial(TracedInference, self._traces)
        self._inference = new_inference(
            models=self._models,
            routes=self._routes,
            backends=self._backends,
            recorder=self._recorder,
            mirror=self._mirror,
            ids=ids,
            hedge=Hedge(settings.candidate_timeout_s),
            wheel=DeadlineWheel(loop),
            loop_time=loop.time,
            wall_clock=time.time,
            stopwatch=time.perf_counter,
            # Seeded by the operating system, in each worker anew.
            draw=random.Random().random,
            targets_ms=targets(settings.class_targets_ms),
        )
        self._service = OpenInference(self._models, self._routes, self._inference)
        self._access = WorkerAccess(settings, loop)
        self._feedback = FeedbackService(
            ids=ids,
            routes=self._routes,
            recorder=self._recorder,
            wall_clock=time.time,
            guard=self._access.guard,
            may_report=self._access.may_report,
        )
        self._express: ExpressPath | None = None
        if settings.wire is WireKind.NGH2 and self._traces is None and has_express():
            self._express = ExpressPath(
                inference=self._inference,
                recorder=self._recorder,
                ids=ids,
                stats=self._wire.stats,
                loop=loop,
                is_guarded=self._access.guard is not None,
            )
            self._inference.express = self._routes.express = self._express
        self._lag = LagProbe(loop)
        self._readings = Readings(
            inference=self._inference,
            backends=self._backends,
            mirror=self._mirror,
            recorder=self._recorder,
            journal=self._journal,
            routes=self._routes,
            wire=self._wire,
            feedback=self._feedback.counts,
            access=self._access.refused,
            lag=self._lag,
        )

    async def run(self) -> None:
        """Serve; returns after a drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        self._add_queues()
        # One that cannot be reached does not hinder the others: its requests go to the baseline.
        table = None if self._express is None else self._express.table
        await asyncio.gather(*(variant.start(table) for variant in self._remotes()))
        link = await LinkClient.connect(self._settings.socket)
        listening = asyncio.create_task(self._listen(link))
        reporting = asyncio.create_task(self._report(link))
        # Without a snapshot a restarted worker would send sticky users elsewhere: wait for the first one.
        await self._routed.wait()
        await self._open()
        self._lag.start()
        self._say(link)
        await self._stop.wait()
        self._health.shut_down()
        self._service.shut_down()
        await self._wire.drain(self._settings.drain_s)
        reporting.cancel()
        listening.cancel()
        # What was answered while draining is counted too.
        self._say(link)
        await link.flush()
        self._lag.stop()
        await self._dispatcher.close()
        if self._generations is not None:
            for pool in (self._generations, *self._batches):
                pool.close()
            for generator in self._generators():
                generator.close()
        await asyncio.gather(*(variant.close() for variant in self._remotes()))
        self._journal.close()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)

    def _remotes(self) -> list[RemoteVariant]:
        found = [variant for model in self._models for variant in model.variants.values()]
        return [variant for variant in found if isinstance(variant, RemoteVariant)]

    def _add_queues(self) -> None:
        policy = BatchPolicy(
            max_batch_size=self._settings.max_batch_size,
            max_queue_size=self._settings.max_queue_size,
            max_queue_delay_microseconds=self._settings.max_queue_delay_microseconds,
        )
        for model in self._models:
            for name, variant in model.variants.items():
                if isinstance(variant, RemoteVariant):
                    self._backends[(model.name, name)] = RemoteBackend(variant)
                    continue
                if isinstance(variant, Generator):
                    self._backends[(model.name, name)] = GenerationBackend(
                        self._generation_pool(), variant, self._new_batch(variant)
                    )
                    continue
                assert isinstance(variant, LoadedVariant)
                placement = suitable_placement(variant, policy.max_batch_size)
                queue = queue_name(model.name, name)
                self._dispatcher.add(queue, variant.infer, policy, placement=placement)
                self._backends[(model.name, name)] = LocalBackend(self._dispatcher, queue)

    def _generators(self) -> list[Generator]:
        found = [variant for model in self._models for variant in model.variants.values()]
        return [variant for variant in found if isinstance(variant, Generator)]

    def _generation_pool(self) -> GenerationPool:
        """The threads of all generating variants, once there is one: for copies, and for what shares no steps."""
        if self._generations is None:
            self._generations = GenerationPool(
                ThreadRunner(self._settings.model_threads),
                asyncio.get_running_loop(),
                most_waiting=self._settings.max_queue_size,
            )
        return self._generations

    def _new_batch(self, generator: Generator) -> GenerationPool | None:
        """The answers of one variant that share its decoder's steps; None where they cannot."""
        batch = generator.new_batch(self._settings.max_batch_size, time.perf_counter)
        if batch is None:
            return None
        loop, most_waiting = asyncio.get_running_loop(), self._settings.max_queue_size
        pool = GenerationPool(BatchThread(batch), loop, most_waiting=most_waiting)
        self._batches.append(pool)
        return pool

    async def _open(self) -> None:
        descriptors = [open_inference_pb2.DESCRIPTOR, feedback_pb2.DESCRIPTOR]
        handlers = (
            self._access.guarded(self._service.handlers())
            | self._feedback.handlers()
            | self._health.handlers()
            | Reflection(descriptors).handlers()
        )
        if self._express is not None:
            handlers |= Handlers(express={f"/{SERVICE}/ModelInfer": self._express.table})
        await self._wire.start(
            host=self._settings.host,
            port=self._port,
            handlers=handlers,
            limits=self._settings.limits,
            tls=self._settings.tls,
            before_flush=self._commit,
            reuse_port=True,
            listeners=self._listeners,
        )
        _spare_the_collector()
        self._is_serving = True
        _log.info("serving on %s:%d", self._settings.host, self._port)
        _log.info("the request path runs %s", describe_native())
        self._health.set(SERVICE, Serving.SERVING)

    async def _listen(self, link: LinkClient) -> None:
        def on_snapshot(snapshot: Any) -> None:
            self._routes.publish(snapshot)
            self._routed.set()

        try:
            await link.listen(
                on_snapshot=on_snapshot, on_heartbeat=self._routes.heard, on_access=self._follow
            )
        except (OSError, ValueError) as error:
            # A supervisor that was killed with something of ours unread resets the line instead of closing it.
            _log.warning("the line to the supervisor broke: %s", error)
        _log.info("the supervisor is gone: draining")
        self._routed.set()
        self._stop.set()

    def _follow(self, rules: Rules) -> None:
        self._access.follow(rules)
        if self._express is not None:
            self._express.forget()

    async def _report(self, link: LinkClient) -> None:
        while True:
            # Mirrored pairs are recorded outside any reply: they become durable here at the latest.
            self._commit()
            self._say(link)
            await asyncio.sleep(REPORT_S)

    def _commit(self) -> None:
        if self._express is None:
            self._recorder.commit()
        else:
            self._express.commit()

    def _say(self, link: LinkClient) -> None:
        link.report(
            WorkerReport(
                lane=self._recorder.lane,
                version=self._routes.version,
                is_serving=self._is_serving,
                counts=self._counts(),
                metrics=self._readings.take(self._remotes(), is_serving=self._is_serving),
                tokens_used=self._access.take_uses(),
            )
        )

    def _counts(self) -> dict[str, int]:
        counts = {f"requests {name}": count for name, count in self._inference.counts.items()}
        counts |= {f"mirror dropped: {name}": count for name, count in self._mirror.drops.items()}
        for variant in self._remotes():
            name = f"{variant.manifest.model}/{variant.manifest.variant}"
            counts[f"remote ejections: {name}"] = variant.ejections
            counts[f"remote refused: {name}"] = variant.refused
        counts |= {f"feedback {name}": count for name, count in self._feedback.counts.items()}
        counts |= {f"access refused: {name}": count for name, count in self._access.refused.items()}
        return {**counts, "records dropped": self._recorder.dropped}


def _spare_the_collector() -> None:
    """Keep the garbage collector from looking through what stays, and from running for what goes by itself.

    A request's objects are freed by their counts, so that a collection finds nothing of theirs: at Python's own threshold of
    700 objects it ran with every read of a busy connection, for 8 % of a worker's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


async def _main(settings: Settings, lane: int, port: int, listeners: list[int], line: int) -> None:
    loop = asyncio.get_running_loop()
    sockets = [socket.socket(fileno=descriptor) for descriptor in listeners]
    hand_on(loop, socket.socket(fileno=line), sockets)
    worker = Worker(settings, lane, port, sockets, loop)
    await worker.run()


if __name__ == "__main__":
    # A terminal that closes tells every process in it: the supervisor decides what it means.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    told: dict[str, Any] = orjson.loads(sys.stdin.buffer.read())
    settings = settings_from(told["settings"])
    set_up_logging(settings.log_format, "worker", lane=told["lane"])
    uvloop.run(_main(settings, told["lane"], told["port"], told["listeners"], told["line"]))
