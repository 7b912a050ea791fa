"""One worker's path from its port to two remote variants and its journal. Load this file by its path.

Everything runs on one event loop in a thread of its own; a test drives it from outside with grpcio's client.
"""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import grpc
import numpy as np
import uvloop

from anabranch.bandit.assignment import lay_out
from anabranch.bandit.routing import plain_route
from anabranch.bandit.snapshot import Route, Snapshot
from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import encode_inputs
from anabranch.router.access.authenticator import Authenticator, Rules
from anabranch.router.access.guard import Guard, Refusals
from anabranch.router.access.inference import guarded
from anabranch.router.assignment_id import Assignment, AssignmentIds
from anabranch.router.backends import Backend, LocalBackend, RemoteBackend, queue_name
from anabranch.router.express import ExpressPath
from anabranch.router.hedge import Hedge
from anabranch.router.infer import Inference
from anabranch.router.metrics.samples import Tally
from anabranch.router.mirror import Mirror
from anabranch.router.models import Models, ServedModel
from anabranch.router.oip import SERVICE, OpenInference
from anabranch.router.recorder import Recorder
from anabranch.router.routes import Routes
from anabranch.store.records import Kind, Record, Routed, unpack
from anabranch.variants.batcher import Dispatcher
from anabranch.variants.batching import BatchPolicy
from anabranch.variants.remote import RemoteVariant
from anabranch.wire.deadlines import DeadlineWheel
from anabranch.wire.ngh2_server import Ngh2Wire
from anabranch.wire.seam import Handlers, Limits, Tls

KEY = bytes(range(32))
LANE = 7
METHOD = f"/{SERVICE}/ModelInfer"
_T = TypeVar("_T")


@dataclass
class FullableJournal:
    """A journal in memory, whose disk can be full."""

    durable: list[Record] = field(default_factory=list)
    pending: list[Record] = field(default_factory=list)
    is_full: bool = False

    def append(self, record: Record) -> None:
        self.pending.append(record)

    def append_body(self, body: bytes) -> None:
        self.pending.append(unpack(Kind.ROUTED, body))

    def append_bodies(self, bodies: Iterable[bytes]) -> None:
        self.pending += [unpack(Kind.ROUTED, body) for body in bodies]

    def commit(self) -> None:
        if self.is_full:
            raise OSError(28, "No space left on device")
        self.durable += self.pending
        self.pending = []


@dataclass
class Result:
    """How a call ended, as its client sees it."""

    status: grpc.StatusCode
    details: str
    body: bytes
    initial: dict[str, Any]
    trailing: dict[str, Any]

    @property
    def response(self) -> pb.ModelInferResponse:
        assert self.status is grpc.StatusCode.OK, (self.status, self.details)
        return pb.ModelInferResponse.FromString(self.body)

    @property
    def variant(self) -> str:
        return str(self.initial.get("x-invoked-variant") or self.trailing.get("x-invoked-variant"))


class Router:
    """The assembly, as `router/worker.py` wires it.

    Args:
        scripted: The module of the variants' servers.
        local: Makes variants in this process of their manifests; None: they are on those servers.
        is_local: Which ones are.
        server: Makes servers of another kind.
        has_express: On which of the two paths.
        journal: Where records go.
        seed: Of what is drawn.
        tokens: Callers have to prove who they are, by these.
        tls: What clients speak; plain text by default.
    """

    def __init__(
        self,
        scripted: ModuleType,
        has_express: bool,
        *,
        local: Callable[[Any], Any] | None = None,
        is_local: Sequence[str] = ("base", "cand"),
        server: Callable[[], Any] | None = None,
        policy: BatchPolicy | None = None,
        journal: Any = None,
        seed: int = 1,
        candidate_timeout_s: float = 10.0,
        max_age_s: float = 60.0,
        tokens: Rules | None = None,
        limits: Limits | None = None,
        tls: Tls | None = None,
        **remote: Any,
    ) -> None:
        self.has_express = has_express
        self.journal = journal or FullableJournal()
        self.ids = AssignmentIds(KEY)
        self.version = 0
        self.settings = (candidate_timeout_s, max_age_s, remote)
        self.tokens = tokens
        self.tls = tls
        self.limits = limits or Limits()
        self.draw = random.Random(seed).random
        self.local, self.is_local, self.policy = local, is_local, policy
        self.servers = {name: (server or scripted.ScriptedServer)() for name in ("base", "cand")}
        self.loop = uvloop.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.run(self._start())
        self.channel = self.connect()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def do(self, work: Callable[[], _T]) -> _T:
        """Call something on the loop's thread."""

        async def call() -> _T:
            return work()

        return self.run(call())

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        candidate_timeout_s, max_age_s, remote = self.settings
        for server in self.servers.values():
            await server.start()
        manifests = {name: server.manifest(name, **remote) for name, server in self.servers.items()}
        self.variants = {}
        self.locals = {}
        for name, manifest in manifests.items():
            if self.local is not None and name in self.is_local:
                self.locals[name] = self.local(manifest)
            else:
                self.variants[name] = RemoteVariant(manifest, Path())
        served: Any = {**self.variants, **self.locals}
        self.models = Models({"m": ServedModel(name="m", variants=served)})
        self.recorder = Recorder(self.journal, LANE)
        self.routes = Routes({"m": "base"}, loop_time=loop.time, max_age_s=max_age_s)
        self.backends: dict[tuple[str, str], Backend] = {
            ("m", name): RemoteBackend(variant) for name, variant in self.variants.items()
        }
        self.dispatcher = Dispatcher(4, loop)
        for name, variant in self.locals.items():
            self.dispatcher.add(queue_name("m", name), variant.infer, self.policy)
            self.backends[("m", name)] = LocalBackend(self.dispatcher, queue_name("m", name))
        self.mirror = Mirror(self.backends, self.recorder, wall_clock=time.time, loop_time=loop.time)
        self.hedge = Hedge(candidate_timeout_s)
        self.inference = Inference(
            models=self.models,
            routes=self.routes,
            backends=self.backends,
            recorder=self.recorder,
            mirror=self.mirror,
            ids=self.ids,
            hedge=self.hedge,
            wheel=DeadlineWheel(loop),
            loop_time=loop.time,
            wall_clock=time.time,
            stopwatch=time.perf_counter,
            draw=lambda: self.draw(),
        )
        handlers = OpenInference(self.models, self.routes, self.inference).handlers()
        self.wire = Ngh2Wire()
        self.guard = None
        if self.tokens is not None:
            self.guard = Guard(Authenticator(self.tokens, time.time), Refusals(lambda *_: None, loop.time))
            handlers = guarded(handlers, self.guard)
        self.express: ExpressPath | None = None
        if self.has_express:
            self.express = ExpressPath(
                inference=self.inference,
                recorder=self.recorder,
                ids=self.ids,
                stats=self.wire.stats,
                loop=loop,
                is_guarded=self.guard is not None,
            )
            self.inference.express = self.routes.express = self.express
            handlers |= Handlers(express={METHOD: self.express.table})
        table = None if self.express is None else self.express.table
        for remote_variant in self.variants.values():
            await remote_variant.start(table)
        self.routes.heard()
        self.port = await self.wire.start(
            host="127.0.0.1",
            port=0,
            handlers=handlers,
            limits=self.limits,
            tls=self.tls,
            before_flush=self.commit,
        )

    def commit(self) -> None:
        if self.express is None:
            self.recorder.commit()
        else:
            self.express.commit()

    def follow(self, rules: Rules) -> None:
        """Let in others from now on."""

        def change() -> None:
            assert self.guard is not None
            cast(Any, self.guard)._authenticator.rules = rules
            if self.express is not None:
                self.express.forget()

        self.do(change)

    def publish(self, *weights: float, arms: tuple[str, ...] = ("base", "cand"), **fields: Any) -> Route:
        """Route by an experiment from now on; without weights there is none."""
        self.version += 1
        route = plain_route("m", arms[0])
        if weights:
            named = {"experiment": "exp", "experiment_id": 3, "epoch": self.version, "salt": "5a17", **fields}
            route = Route(model="m", arms=arms, layout=lay_out(weights), **named)
        snapshot = Snapshot(version=self.version, published_s=time.time(), routes={"m": route})
        self.do(lambda: self.routes.publish(snapshot))
        return route

    # From clients.

    def connect(self, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
        """A connection of its own."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        if credentials is not None:
            return grpc.secure_channel(f"localhost:{self.port}", credentials, options=options)
        return grpc.insecure_channel(f"127.0.0.1:{self.port}", options=options)

    def request(self, rows: int = 1, *, names: Sequence[str] = ("x",), **fields: Any) -> bytes:
        request = pb.ModelInferRequest(**{"model_name": "m", **fields})
        encode_inputs(
            request, {name: np.arange(2 * rows, dtype=np.float32).reshape(rows, 2) for name in names}
        )
        return request.SerializeToString()

    def begin(
        self,
        message: bytes | None = None,
        *metadata: tuple[str, str | bytes],
        timeout: float | None = None,
        channel: grpc.Channel | None = None,
    ) -> Any:
        """A call that goes on by itself."""
        call: Any = (channel or self.channel).unary_unary(METHOD)
        return call.future(message or self.request(), metadata=metadata or None, timeout=timeout)

    def ask(self, message: bytes | None = None, *metadata: tuple[str, str | bytes], **options: Any) -> Result:
        return self.end(self.begin(message, *metadata, **options))

    def end(self, call: Any) -> Result:
        """Wait for a call's end."""
        failure = call.exception(timeout=12)
        body = b"" if failure is not None else call.result()
        initial, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
        return Result(call.code(), call.details() or "", body, initial, trailing)

    # What was done.

    @property
    def taken(self) -> int:
        """Requests that the express path took."""

        def settled() -> int:
            if self.express is None:
                return 0
            self.express.settle()
            return self.express.taken

        return self.do(settled)

    def takes(self, count: int) -> Any:
        """A context in which the express path, where there is one, takes so many requests."""
        return _Taking(self, count)

    def records(self, kind: Any = Routed) -> list[Any]:
        """All records of a kind."""
        self.do(self.commit)
        return [r for r in (*self.journal.durable, *self.journal.pending) if isinstance(r, kind)]

    def opened(self, result: Result) -> Assignment:
        return self.ids.open(result.initial["x-assignment-id"])

    def record_of(self, result: Result) -> Routed:
        """The one record of an answer."""
        sequence = self.opened(result).sequence
        found: list[Routed] = [record for record in self.records() if record.sequence == sequence]
        assert len(found) == 1
        return found[0]

    def counts(self) -> dict[str, int]:
        """Requests by what became of them."""
        return self.do(self.counts_now)

    def counts_now(self) -> dict[str, int]:
        """The same, on the loop's thread."""
        self.commit()
        return {name: count for name, count in self.inference.counts.items() if count}

    def metered(self) -> dict[str, tuple[int, int, int]]:
        """By variant, what Prometheus is told: answered, failed and masked."""

        def read() -> dict[str, tuple[int, int, int]]:
            self.inference.meters.report(Tally())
            meters = self.inference.meters["m"]
            return {
                name: (meter.answered, sum(meter.failed.values()), meter.masked)
                for name, meter in meters.items()
            }

        self.do(self.commit)
        return self.do(read)

    def eventually(self, condition: Callable[[], object], within_s: float = 5.0) -> None:
        """Wait until something is true of what is on the loop."""
        give_up = time.monotonic() + within_s
        while not self.do(condition):
            assert time.monotonic() < give_up, self.left()
            time.sleep(0.005)

    def left(self) -> dict[str, int]:
        """What requests have left behind; without any, all is 0."""
        channels = [cast(Any, variant)._channel for variant in self.variants.values()]
        connections = list(self.wire._connections.values())
        loads = [self.dispatcher.load(queue_name("m", name)) for name in self.locals]
        return {
            "queued": sum(load.queued for load in loads),
            "running": sum(load.running for load in loads),
            "crossings": 0 if self.express is None else self.express.table.crossings,
            "upstreams": sum(variant.in_flight for variant in self.variants.values()),
            "calls to variants": sum(channel.open_calls for channel in channels),
            "streams to variants": sum(each.open_streams for c in channels for each in c._connections),
            "crossings to variants": sum(
                abs(each.http2.crossings) for c in channels for each in c._connections
            ),
            "bytes to variants": sum(channel.buffered_bytes for channel in channels),
            "calls of clients": sum(each.open_calls() for each in connections),
            "bytes of clients": self.wire.buffered_bytes,
            "copies": self.mirror.in_flight,
        }

    def check(self) -> None:
        """Nothing is left, and nothing was recorded twice."""
        self.eventually(lambda: not any(self.left().values()))
        sequences = [record.sequence for record in self.records(Routed)]
        assert len(sequences) == len(set(sequences))

    def stop(self) -> None:
        self.channel.close()
        self.run(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def _stop(self) -> None:
        await self.wire.close()
        await self.dispatcher.close()
        for variant in self.variants.values():
            await variant.close()
        for server in self.servers.values():
            server.stop()
        await asyncio.sleep(0)


class _Taking:
    def __init__(self, router: Router, count: int) -> None:
        self.router, self.count = router, count

    def __enter__(self) -> None:
        self.before = self.router.taken

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and self.router.has_express:
            assert self.router.taken - self.before == self.count
