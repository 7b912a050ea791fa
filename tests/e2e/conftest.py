"""Real servers, real clients and a real command line: what the end-to-end tests share.

A server is `anabranch serve` in a process tree of its own, on a free port, with its state in a folder of the test.
It serves the four variants of `digit_variants.py`.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import grpc
import numpy as np
import onnx
import psutil
import pytest
from numpy.typing import NDArray

from anabranch.proto import feedback_pb2
from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import decode_outputs, encode_inputs
from anabranch.router.assignment_id import Assignment, AssignmentIds
from anabranch.store.journal import SegmentName, read_records, segments
from anabranch.store.port import StoredExperiment
from anabranch.store.records import Record
from anabranch.store.sql import open_store
from anabranch.variants.build import build
from anabranch.variants.minilm import minilm_source
from anabranch.variants.own_models import import_onnx

REPOSITORY = Path(__file__).parents[2]
SERVICE = "/inference.GRPCInferenceService/"
# A busy machine starts two interpreters with their libraries within this; an idle one in three seconds.
START_S = 90.0
PATIENCE_S = 90.0
_PAUSE = threading.Event()


def eventually(condition: Callable[[], object], what: str, within_s: float = PATIENCE_S) -> None:
    """Look at the running system until something is true, or fail with what was expected."""
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, f"not within {within_s:g} s: {what}"
        _PAUSE.wait(0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a client was answered.

    Attributes:
        code: gRPC's status.
        detail: The error's text.
        sent: Number of the digit that was sent.
    """

    code: grpc.StatusCode
    detail: str = ""
    sent: int = -1
    variant: str = ""
    assignment_id: str = ""
    experiment: str = ""
    logits: NDArray[np.float32] | None = None

    @property
    def is_ok(self) -> bool:
        return self.code is grpc.StatusCode.OK


class Client:
    """A connection of its own to the inference port."""

    def __init__(self, address: str, pixels: NDArray[np.float32]) -> None:
        self._pixels = pixels
        self.channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])

    def call(self, method: str, request: Any, response: type[Any], **options: Any) -> Any:
        """One unary call of the inference service."""
        path = method if method.startswith("/") else SERVICE + method
        stub: grpc.UnaryUnaryMultiCallable[Any, Any] = self.channel.unary_unary(
            path,
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=response.FromString,
        )
        return stub(request, **{"timeout": 30, **options})

    def request(self, sent: int = 0, **fields: Any) -> pb.ModelInferRequest:
        """A request for the class of one digit."""
        request = pb.ModelInferRequest(**{"model_name": "digits", **fields})
        encode_inputs(request, {"pixels": self._pixels[sent % len(self._pixels)][None]})
        return request

    def infer(
        self, sent: int = 0, *, metadata: Mapping[str, str] | None = None, timeout: float = 30, **fields: Any
    ) -> Reply:
        """Ask for the class of one digit; a failure is a reply too."""
        try:
            response = self.call(
                "ModelInfer",
                self.request(sent, **fields),
                pb.ModelInferResponse,
                metadata=list((metadata or {}).items()),
                timeout=timeout,
            )
        except grpc.RpcError as error:
            failed = cast("grpc.Call", error)
            return Reply(code=failed.code(), detail=failed.details() or "", sent=sent)
        said = {name: value.string_param for name, value in response.parameters.items()}
        return Reply(
            code=grpc.StatusCode.OK,
            sent=sent,
            variant=said["invoked_variant"],
            assignment_id=said.get("assignment_id", ""),
            experiment=said.get("experiment", ""),
            logits=decode_outputs(response)["logits"],
        )

    def give_feedback(self, outcomes: Sequence[feedback_pb2.Outcome]) -> list[feedback_pb2.Result]:
        """Report outcomes."""
        response = self.call(
            "/anabranch.v1.FeedbackService/Submit",
            feedback_pb2.SubmitRequest(outcomes=outcomes),
            feedback_pb2.SubmitResponse,
        )
        return list(response.results)

    def close(self) -> None:
        self.channel.close()


@dataclass(slots=True)
class Traffic:
    """Clients that ask again as soon as they are answered, and report the true classes some answers later.

    Attributes:
        replies: Every reply, in the order of arrival.
        unit: The user of a request, by the request's number; None sends none.
        labels_after: Labels of this many answers are reported together.
    """

    address: str
    pixels: NDArray[np.float32]
    labels: Sequence[int]
    clients: int = 3
    unit: Callable[[int], str] | None = None
    labels_after: int = 20
    replies: list[Reply] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Traffic":
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads), "a client never got an answer"

    def answered(self) -> list[Reply]:
        return [reply for reply in list(self.replies) if reply.is_ok]

    def _run(self, number: int) -> None:
        client = Client(self.address, self.pixels)
        waiting: list[Reply] = []
        sent = number
        while not self._stop.is_set():
            metadata = {"x-user-id": self.unit(sent)} if self.unit else {}
            reply = client.infer(sent, metadata=metadata)
            self.replies.append(reply)
            waiting += [reply] if reply.assignment_id else []
            if len(waiting) >= self.labels_after:
                self._label(client, waiting)
                waiting = []
            if not reply.is_ok:
                _PAUSE.wait(0.02)
            sent += self.clients
        client.close()

    def _label(self, client: Client, replies: list[Reply]) -> None:
        outcomes = [
            feedback_pb2.Outcome(
                assignment_id=reply.assignment_id, label=self.labels[reply.sent % len(self.labels)]
            )
            for reply in replies
        ]
        try:
            results = client.give_feedback(outcomes)
        except grpc.RpcError:
            return
        self.problems += [result.problem for result in results if not result.accepted]


class Served:
    """A running server, its files, and what a person can ask of it."""

    def __init__(self, models: Path, state: Path, digits: Any, **options: Any) -> None:
        self.state = state
        self._digits = digits
        self.store_url = f"sqlite:///{state / 'anabranch.db'}"
        state.mkdir(parents=True, exist_ok=True)
        settings = {"models": models, "state": state, "port": 0, "tick": 0.1, "threads": 1}
        settings |= {"baseline": "digits=wide", **options}
        flags = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
        self.log = state / "serve.log"
        with self.log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "anabranch.cli.main", "serve", *flags],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.address = self._wait_for_address()

    def _wait_for_address(self) -> str:
        assert self.process.stdout is not None
        watchdog = threading.Timer(START_S, self.process.kill)
        watchdog.start()
        try:
            for line in self.process.stdout:
                if line.startswith("serving on "):
                    return line.removeprefix("serving on ").strip()
        finally:
            watchdog.cancel()
        raise AssertionError(f"the server did not start:\n{self.log.read_text()[-3000:]}")

    def client(self) -> Client:
        return Client(self.address, self._digits.test_pixels)

    def traffic(self, **options: Any) -> Traffic:
        return Traffic(self.address, self._digits.test_pixels, self._digits.test_labels.tolist(), **options)

    def cli(self, *arguments: str, code: int = 0) -> str:
        """Run a command on this server's database and return what it printed."""
        ran = subprocess.run(
            [sys.executable, "-m", "anabranch.cli.main", *arguments],
            env={**os.environ, "ANABRANCH_STORE": self.store_url},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran.stdout

    def apply(self, document: Mapping[str, Any]) -> None:
        """Apply an experiment as a person would, and wait until it routes."""
        path = self.state / f"{document['metadata']['name']}.json"
        path.write_text(json.dumps(document))
        self.cli("apply", "-f", str(path))

    def experiment(self, name: str) -> StoredExperiment:
        store = open_store(self.store_url)
        try:
            return store.experiment(name)
        finally:
            store.close()

    def phase(self, name: str) -> str:
        return str(self.experiment(name).state.phase)

    def until_over(self, name: str, within_s: float = 120) -> str:
        """Wait until an experiment has ended; answers its phase."""
        eventually(
            lambda: self.experiment(name).state.phase.is_over or self.phase(name) == "Inconclusive",
            f"{name} ends",
            within_s,
        )
        return self.phase(name)

    def requests_in_evidence(self, name: str) -> int:
        """Requests that decisions were taken on so far."""
        return sum(total.requests for total in self.experiment(name).state.totals.values())

    def records(self) -> list[tuple[SegmentName, Record]]:
        """Everything in the journal."""
        folder = self.state / "journal"
        return [
            (name, record)
            for name in segments(folder)
            for record, _ in read_records(name.path(folder), 0, limit=10_000_000)
        ]

    def open_id(self, assignment_id: str) -> Assignment:
        """What an assignment id says."""
        return AssignmentIds((self.state / "assignment.key").read_bytes()).open(assignment_id)

    def workers(self) -> list[psutil.Process]:
        """The worker processes that run."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [child] if "anabranch.router.worker" in child.cmdline() else []
        return found

    def kill_tree(self) -> None:
        """As a crash of everything: no process gets to say goodbye."""
        for process in [psutil.Process(self.process.pid), *self.workers()]:
            process.kill()
        self.process.wait(30)

    def stop(self) -> int:
        """Ask it to end, and wait; answers its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="session")
def models(
    load_module: Callable[[Path], ModuleType],
    digits_module: ModuleType,
    digits: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with the four variants of `digits`."""
    root, drafts = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("drafts")
    graphs = load_module(Path(__file__).with_name("digit_variants.py")).graphs(digits_module, digits)
    for name, graph in graphs.items():
        onnx.save(graph, str(drafts / f"{name}.onnx"))
        import_onnx(drafts / f"{name}.onnx", "digits", name, root)
    return root


@pytest.fixture(scope="session")
def demo_state() -> Path:
    """Where the demo runs; its variants are kept from run to run, and built again when anything changed."""
    return REPOSITORY / ".cache" / "tests" / "demo"


@pytest.fixture(scope="session")
def minilm_models(demo_state: Path) -> Path:
    """A folder with the demo's short list of variants of the real sentence model."""
    build(minilm_source(), ["onnx-fp32", "onnx-int8-dynamic", "onnx-int8-static-kl"], demo_state / "models")
    return demo_state / "models"


@pytest.fixture
def serve(models: Path, digits: Any, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Start servers; a second one on the same state continues where the first ended."""
    running: list[Served] = []

    def start(state: str = "state", **options: Any) -> Served:
        running.append(Served(options.pop("models", models), tmp_path / state, digits, **options))
        return running[-1]

    yield start
    for served in running:
        served.stop()


@pytest.fixture(scope="module", params=["ngh2", "grpcio"])
def shared(
    request: pytest.FixtureRequest, models: Path, digits: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """One server of each wire without an experiment, for the tests that leave it as it was."""
    served = Served(models, tmp_path_factory.mktemp("shared"), digits, wire=request.param)
    yield served
    served.stop()


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    return eventually


@pytest.fixture(scope="session")
def experiment() -> Callable[..., dict[str, Any]]:
    """An experiment's document: fidelity of mirrored replies, and what else is given."""

    def make(
        name: str,
        candidates: Sequence[str],
        steps: Sequence[Mapping[str, Any]],
        metrics: Sequence[Mapping[str, Any]] = (),
        **fields: Any,
    ) -> dict[str, Any]:
        errors = {"name": "errors", "source": "error", "role": "guardrail", "max": 0.2}
        return {
            "apiVersion": "anabranch/v1",
            "kind": "Experiment",
            "metadata": {"name": name},
            "spec": {
                "model": "digits",
                "baseline": "wide",
                "candidates": list(candidates),
                "metrics": [errors, *metrics],
                "steps": list(steps),
                **fields,
            },
        }

    return make
