"""Real servers, real clients and a real command line: what the end-to-end tests share.

A server is `anabranch serve` in a process tree of its own, on a free port, with its state in a folder of the test.
It serves the four variants of `digit_variants.py`.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import psutil
import pytest

from anabranch.router.assignment_id import Assignment, AssignmentIds
from anabranch.store.journal import SegmentName, read_records, segments
from anabranch.store.port import StoredExperiment
from anabranch.store.records import Record
from anabranch.store.sql import open_store
from anabranch.variants.build import build
from anabranch.variants.minilm import minilm_source
from anabranch.variants.own_models import import_onnx

REPOSITORY = Path(__file__).parents[2]
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


class Served:
    """A running server, its files, and what a person can ask of it.

    Args:
        models: Folder of its variants.
        state: Its folder.
        digits: What clients ask about.
        clients: The module of the clients.
        within: What to put in front of its command, as to run it on another host.
        options: Of `serve`, by name.
    """

    def __init__(
        self,
        models: Path,
        state: Path,
        digits: Any,
        clients: ModuleType,
        *,
        within: Sequence[str] = (),
        **options: Any,
    ) -> None:
        self.state = state
        self.metrics = ""
        self.control = ""
        self._digits = digits
        self._clients = clients
        self.store_url = str(options.get("store", f"sqlite:///{state / 'anabranch.db'}"))
        self._key_file = Path(options.get("assignment-key", state / "assignment.key"))
        state.mkdir(parents=True, exist_ok=True)
        settings = {"models": models, "state": state, "port": 0, "tick": 0.1, "threads": 1}
        settings |= {"baseline": "digits=wide", **options}
        flags = [
            str(part)
            for name, value in settings.items()
            for part in ((f"--{name}",) if value is True else (f"--{name}", value))
        ]
        self.log = state / "serve.log"
        with self.log.open("ab") as errors:
            self.process = subprocess.Popen(
                [*within, sys.executable, "-m", "anabranch.cli.main", "serve", *flags],
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
                if line.startswith("metrics on "):
                    self.metrics = line.removeprefix("metrics on ").strip()
                if line.startswith("control on "):
                    self.control = line.removeprefix("control on ").strip()
                if line.startswith("serving on "):
                    return line.removeprefix("serving on ").strip()
        finally:
            watchdog.cancel()
        raise AssertionError(f"the server did not start:\n{self.log.read_text()[-3000:]}")

    def client(self) -> Any:
        return self._clients.Client(self.address, self._digits.test_pixels)

    def traffic(self, **options: Any) -> Any:
        return self._clients.Traffic(
            self.address, self._digits.test_pixels, self._digits.test_labels.tolist(), **options
        )

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
        """Apply an experiment, as `anabranch apply` does."""
        store = open_store(self.store_url)
        try:
            store.apply(document, "ada", time.time())
        finally:
            store.close()

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
        return AssignmentIds(self._key_file.read_bytes()).open(assignment_id)

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


@pytest.fixture(scope="session")
def clients(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    return load_module(Path(__file__).with_name("clients.py"))


@pytest.fixture
def serve(models: Path, digits: Any, clients: ModuleType, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Start servers; a second one on the same state continues where the first ended."""
    yield from _servers(models, tmp_path, digits, clients)


@pytest.fixture(scope="module")
def serve_all(
    models: Path, digits: Any, clients: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Served]]:
    """The same, for servers that a module's tests share."""
    yield from _servers(models, tmp_path_factory.mktemp("servers"), digits, clients)


def _servers(models: Path, folder: Path, digits: Any, clients: ModuleType) -> Iterator[Callable[..., Served]]:
    running: list[Served] = []

    def start(state: str = "state", **options: Any) -> Served:
        running.append(Served(options.pop("models", models), folder / state, digits, clients, **options))
        return running[-1]

    yield start
    for served in running:
        served.stop()


@pytest.fixture(scope="module", params=["ngh2", "grpcio"])
def shared(
    request: pytest.FixtureRequest,
    models: Path,
    digits: Any,
    clients: ModuleType,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """One server of each wire without an experiment, for the tests that leave it as it was."""
    served = Served(models, tmp_path_factory.mktemp("shared"), digits, clients, wire=request.param)
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
