"""Parts of a worker that a test moves by hand: a call, a journal, a dispatcher, clocks and draws."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest

from anabranch.bandit.assignment import lay_out
from anabranch.bandit.snapshot import FeedbackRule, MirrorPlan, Route, Snapshot
from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import encode_inputs
from anabranch.router.assignment_id import AssignmentIds
from anabranch.router.backends import LocalBackend, queue_name
from anabranch.router.hedge import Hedge
from anabranch.router.infer import Inference
from anabranch.router.mirror import Mirror
from anabranch.router.models import Models, ServedModel, Variant
from anabranch.router.recorder import Recorder
from anabranch.router.routes import Routes
from anabranch.store.records import Feedback, Kind, Pair, Record, Routed, unpack
from anabranch.variants.batching import Answer, Done, Failure, FailureKind, QueueFull, Timing
from anabranch.variants.errors import VariantError, VariantInputError
from anabranch.variants.manifest import VERSION, Manifest
from anabranch.variants.recipes import Engine
from anabranch.variants.tensors import Array, Datatype, Signature, TensorSpec
from anabranch.wire.deadlines import DeadlineWheel
from anabranch.wire.seam import Metadata, Status

KEY = bytes(range(32))
LANE = 7


@dataclass
class RecordingCall:
    """A call that remembers how it ended."""

    method: str = "/inference.GRPCInferenceService/ModelInfer"
    metadata: Metadata = ()
    deadline: float | None = None
    peer: str = "ipv4:127.0.0.1:1"
    peer_identity: str | None = None
    cancelled: bool = False
    callbacks: list[Callable[[], None]] = field(default_factory=list)
    replies: list[bytes] = field(default_factory=list)
    sent: dict[str, str | bytes] = field(default_factory=dict)
    failures: list[tuple[Status, str]] = field(default_factory=list)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        if self.cancelled:
            callback()
        else:
            self.callbacks.append(callback)

    def cancel(self) -> None:
        self.cancelled = True
        for callback in self.callbacks:
            callback()

    def reply(
        self, message: bytes, metadata: Metadata = (), trailing: Metadata = (), tail: bytes = b""
    ) -> None:
        self.replies.append(message + tail)
        self.sent = dict(metadata)

    def fail(self, status: Status, message: str, metadata: Metadata = ()) -> None:
        self.failures.append((status, message))
        self.sent = dict(metadata)

    @property
    def response(self) -> pb.ModelInferResponse:
        (message,) = self.replies
        return pb.ModelInferResponse.FromString(message)


@dataclass
class ListJournal:
    """A journal in memory, whose disk can be full."""

    durable: list[Record] = field(default_factory=list)
    pending: list[Record] = field(default_factory=list)
    is_full: bool = False

    def append(self, record: Record) -> None:
        self.pending.append(record)

    def append_body(self, body: bytes) -> None:
        self.pending.append(unpack(Kind.ROUTED, body))

    def append_bodies(self, bodies: Iterable[bytes]) -> None:
        for body in bodies:
            self.append_body(body)

    def commit(self) -> None:
        if self.is_full:
            raise OSError(28, "No space left on device")
        self.durable += self.pending
        self.pending = []

    def all(self, kind: type[Any]) -> list[Any]:
        return [record for record in (*self.durable, *self.pending) if isinstance(record, kind)]

    @property
    def routed(self) -> list[Routed]:
        return self.all(Routed)

    @property
    def pairs(self) -> list[Pair]:
        return self.all(Pair)

    @property
    def feedback(self) -> list[Feedback]:
        return self.all(Feedback)


@dataclass
class Work:
    """One submitted request."""

    name: str
    inputs: Mapping[str, Array]
    rows: int
    priority: int
    deadline: float | None
    done: Done
    is_cancelled: bool = False

    def cancel(self) -> bool:
        self.is_cancelled = True
        return True

    def answer(self, logits: Sequence[float] = (0.0, 1.0, 0.0), **outputs: Array) -> None:
        array = np.array([logits], np.float32)
        self.done(Answer({"logits": array, **outputs} if logits else outputs, Timing(0.001, 0.002, 4)))

    def fail(self, kind: FailureKind, message: str = "it broke") -> None:
        self.done(Failure(kind=kind, message=message, timing=Timing(0.001, 0.002, 1)))


@dataclass
class ManualDispatcher:
    """Takes work that the test answers."""

    taken: list[Work] = field(default_factory=list)
    full: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    hanging: set[str] = field(default_factory=set)
    late: list[str] = field(default_factory=list)

    def overdue(self, name: str) -> None:
        self.late.append(name)

    def hangs(self, name: str) -> bool:
        return name in self.hanging

    def submit(
        self,
        name: str,
        inputs: Mapping[str, Array],
        rows: int,
        *,
        priority: int,
        deadline: float | None,
        done: Done,
    ) -> Work:
        if name in self.full:
            raise QueueFull("256 requests wait")
        if name in self.gone:
            raise VariantError(f"variant {name!r} is not served")
        self.taken.append(Work(name, inputs, rows, priority, deadline, done))
        return self.taken[-1]

    @property
    def last(self) -> Work:
        return self.taken[-1]


class _Manifest:
    outputs = (
        TensorSpec(name="logits", datatype=Datatype.FP32, shape=(-1, 3)),
        TensorSpec(name="extra", datatype=Datatype.FP32, shape=(-1, 3)),
    )


class _Variant:
    """Takes `x` with one to nine rows."""

    manifest = _Manifest()
    outputs = manifest.outputs
    keeps_no_state = True
    reads_contents = False

    def check_inputs(self, inputs: Mapping[str, Array]) -> int:
        if set(inputs) != {"x"}:
            raise VariantInputError(f"inputs {sorted(inputs)} given, must be x")
        return len(inputs["x"])


class ManualTimers:
    """The timers of a loop whose time is the bench's; `Bench.pass_time` runs those that are due."""

    def __init__(self, bench: "Bench") -> None:
        self._bench = bench
        self._due: list[tuple[float, _Timer]] = []

    def time(self) -> float:
        return self._bench.now

    def call_at(self, when: float, callback: Callable[[], None]) -> "_Timer":
        timer = _Timer(callback)
        self._due.append((when, timer))
        return timer

    def run(self) -> None:
        while due := [entry for entry in self._due if entry[0] <= self._bench.now]:
            entry = min(due, key=lambda entry: entry[0])
            self._due.remove(entry)
            entry[1].run()


class _Timer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self._callback = None

    def run(self) -> None:
        if self._callback is not None:
            self._callback()


class Bench:
    """One worker's request path over manual parts: model `m` with `base`, `a` and `b`."""

    def __init__(self) -> None:
        self.now = 100.0
        self.within_turn = 0.0
        self.wall = 5_000.0
        self.draws: list[float] = []
        self.journal = ListJournal()
        self.recorder = Recorder(self.journal, LANE)
        self.dispatcher = ManualDispatcher()
        self.ids = AssignmentIds(KEY)
        self.routes = Routes({"m": "base"}, loop_time=lambda: self.now, max_age_s=60.0)
        variants = {name: cast(Variant, _Variant()) for name in ("base", "a", "b")}
        self.models = Models({"m": ServedModel(name="m", variants=variants)})
        self.backends = {
            ("m", name): LocalBackend(cast(Any, self.dispatcher), queue_name("m", name)) for name in variants
        }
        self.mirror = Mirror(
            self.backends, self.recorder, wall_clock=lambda: self.wall, loop_time=lambda: self.now
        )
        self.hedge = Hedge(candidate_timeout_s=10.0)
        self.timers = ManualTimers(self)
        self.inference = Inference(
            models=self.models,
            routes=self.routes,
            backends=self.backends,
            recorder=self.recorder,
            mirror=self.mirror,
            ids=self.ids,
            hedge=self.hedge,
            wheel=DeadlineWheel(cast(Any, self.timers)),
            loop_time=lambda: self.now,
            wall_clock=lambda: self.wall,
            stopwatch=lambda: self.now + self.within_turn,
            draw=lambda: self.draws.pop(0),
        )

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and what is due happen."""
        self.now += seconds
        self.timers.run()

    def route(self, *weights: float, mirror: MirrorPlan | None = None, unit: str | None = None) -> Route:
        """The route of an experiment with the candidates `a` and `b`."""
        return Route(
            model="m",
            arms=("base", "a", "b"),
            layout=lay_out(weights or (0.0, 0.0)),
            experiment="exp",
            experiment_id=3,
            epoch=9,
            salt="5a17",
            unit_metadata=unit,
            mirror=mirror,
            feedback={"correct": FeedbackRule(), "stars": FeedbackRule(low=1, high=5, is_graded=True)},
        )

    def publish(self, route: Route, version: int = 1) -> None:
        self.routes.publish(Snapshot(version=version, published_s=self.wall, routes={"m": route}))

    def request(self, rows: int = 1, **fields: Any) -> pb.ModelInferRequest:
        request = pb.ModelInferRequest(**{"model_name": "m", **fields})
        encode_inputs(request, {"x": np.zeros((rows, 2), np.float32)})
        return request

    def infer(
        self,
        request: pb.ModelInferRequest | None = None,
        metadata: Mapping[str, str] | None = None,
        deadline: float | None = None,
        call: RecordingCall | None = None,
    ) -> RecordingCall:
        call = call or RecordingCall(metadata=list((metadata or {}).items()), deadline=deadline)
        self.inference.infer(call, (request or self.request()).SerializeToString())
        return call


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def new_call() -> Callable[..., RecordingCall]:
    return RecordingCall


@pytest.fixture
def mirror_plan() -> Callable[..., MirrorPlan]:
    def make(fraction: float = 1.0, arms: tuple[int, ...] = (1, 2), noise_floor: float = 0.0) -> MirrorPlan:
        return MirrorPlan(fraction=fraction, arms=arms, noise_floor=noise_floor)

    return make


@pytest.fixture(scope="session")
def describe() -> Callable[..., Manifest]:
    """Describes variants of `m`, with as many classes as asked for."""

    def manifest(variant: str, *, classes: int = 3) -> Manifest:
        return Manifest(
            version=VERSION,
            model="m",
            variant=variant,
            engine=Engine.ONNX,
            recipe={},
            artifact="m.onnx",
            files=(),
            signatures=(
                Signature(
                    name="inputs", inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 2)),)
                ),
            ),
            outputs=(TensorSpec(name="logits", datatype=Datatype.FP32, shape=(-1, classes)),),
            text=None,
            sources={},
            tools={},
            cache_key="",
            size_bytes=0,
            build_s=0.0,
            parity=None,
            task=None,
            latency=(),
        )

    return manifest
