"""The demo's four acts: build, serve, send traffic, watch the experiment to its end."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from anabranch.bandit.lifecycle import Phase
from anabranch.cli.building import BuildRequest, build_variants, variant_table
from anabranch.cli.demo.traffic import Labelled, Traffic
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.cli.live import LiveDashboard
from anabranch.cli.loading import load_decisions, load_view, view_loader
from anabranch.cli.report import report
from anabranch.cli.serving import READY, require_port
from anabranch.cli.story import outcome
from anabranch.cli.terminal import Terminal
from anabranch.cli.view_types import ExperimentView
from anabranch.router.settings import LOOPBACK
from anabranch.store.document import parse, read_document
from anabranch.store.port import Store
from anabranch.store.sql import open_store
from anabranch.variants.availability import available_recipes
from anabranch.variants.minilm import MODEL, sentiment_reviews
from anabranch.variants.reviews import Domain

LABEL_DELAY_S = 1.5
START_TIMEOUT_S = 120.0
_TORCH = ("torch-bf16", "torch-int8-dynamic")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """How the demo runs.

    Attributes:
        state: Folder of everything it leaves; its database and journal are made anew each time.
        is_fast: Fewer variants and coarser claims.
    """

    state: Path
    is_fast: bool
    keeps_serving: bool
    requests_per_s: float
    port: int

    @property
    def models(self) -> Path:
        """Where the variants are built; kept between runs."""
        return self.state / "models"

    @property
    def store_url(self) -> str:
        """The demo's database."""
        return f"sqlite:///{self.state / 'anabranch.db'}"


class Demo:
    """Runs the main job."""

    def __init__(self, settings: DemoSettings, terminal: Terminal) -> None:
        self._settings = settings
        self._terminal = terminal
        self._document = _document(settings.is_fast)
        self._experiment = parse(self._document)

    def run(self) -> ExitCode:
        """Run it; OK means that a variant was promoted."""
        require_port(LOOPBACK[0], self._settings.port)
        self._act(f"1. build {len(self._experiment.arms)} variants of {MODEL}, a real sentence classifier")
        request = BuildRequest(source=MODEL, root=self._settings.models, variants=self._experiment.arms)
        manifests = build_variants(request, self._terminal.note)
        self._terminal.out.print(variant_table(manifests))
        self._forget_earlier_run()
        self._act("2. serve them behind the router: gRPC, Open Inference Protocol, one port")
        with _server(self._settings) as address:
            self._terminal.say(f"{MODEL} is served on {address}; log: {self._settings.state / 'serve.log'}")
            store = open_store(self._settings.store_url)
            try:
                view = self._experiment_on(store, address)
                self._conclude(store, view)
                if self._settings.keeps_serving:
                    self._keep_serving(address)
            finally:
                store.close()
        return ExitCode.OK if view.phase == Phase.PROMOTED else ExitCode.FAILURE

    def _experiment_on(self, store: Store, address: str) -> ExperimentView:
        self._act("3. send held-out sentences as a client would; their true labels come late, as feedback")
        with _traffic(address, self._settings.requests_per_s) as traffic:
            self._act(f"4. run experiment {self._experiment.name}: mirror, 5 % canary, bandit, promotion")
            store.apply(self._document, self._terminal.actor, self._terminal.clock.now())
            load = view_loader(store, self._experiment.name, self._terminal.clock.now)
            with LiveDashboard(self._terminal.out) as dashboard:
                view = dashboard.watch(load, until=_has_ended, refresh_s=0.5)
        counts = ", ".join(f"{number:,} {name}" for name, number in sorted(traffic.counts.items()))
        self._terminal.note(f"the client saw: {counts}")
        return view

    def _conclude(self, store: Store, view: ExperimentView) -> None:
        self._act("5. what was decided, and why")
        name = self._experiment.name
        self._terminal.say(outcome(view))
        for arm in view.arms:
            if arm.removed_reason:
                self._terminal.say(f"removed {arm.name}: {arm.removed_reason}")
        path = self._settings.state / "report.md"
        final = load_view(store, name, self._terminal.clock.now())
        path.write_text(report(final, load_decisions(store, name), self._document), encoding="utf-8")
        url = self._settings.store_url
        self._terminal.note(f"report: {path}\nlook further:")
        for verb in ("get", "describe", "history", "verify"):
            self._terminal.note(f"  {sys.argv[0]} {verb} {name} --store {url}")

    def _keep_serving(self, address: str) -> None:
        self._terminal.note(f"still serving {MODEL} on {address}; stop with Ctrl-C")
        stopped = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        stopped.wait()

    def _forget_earlier_run(self) -> None:
        state = self._settings.state
        for path in (*state.glob("anabranch.db*"), *(state / "journal").glob("*.journal")):
            path.unlink()

    def _act(self, text: str) -> None:
        self._terminal.out.print(f"\n{text}", style="bold", markup=False, highlight=False)


def _document(is_fast: bool) -> dict[str, object]:
    """The experiment file; with the torch extra, its variants are candidates as well."""
    name = "minilm-fast.yaml" if is_fast else "minilm-int8.yaml"
    document = read_document(files("anabranch.cli.demo").joinpath(name).read_text("utf-8"))
    runnable = {status.spec.name for status in available_recipes() if status.runs_here}
    extra = [variant for variant in _TORCH if variant in runnable]
    document["spec"]["candidates"] += [] if is_fast else extra
    return document


def _has_ended(view: ExperimentView) -> bool:
    return view.phase not in (Phase.PENDING, Phase.PROGRESSING, Phase.PROMOTING)


@contextmanager
def _server(settings: DemoSettings) -> Iterator[str]:
    """A server in a process tree of its own; yields its address once it serves."""
    log = settings.state / "serve.log"
    command = [
        *(sys.executable, "-m", "anabranch.cli.main", "serve"),
        *("--models", str(settings.models), "--state", str(settings.state)),
        *("--port", str(settings.port), "--tick", "0.5"),
    ]
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)  # noqa: S603
    try:
        yield _address(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _address(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        for line in process.stdout:
            if line.startswith(READY):
                return line.removeprefix(READY).strip()
    finally:
        watchdog.cancel()
    tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-5:])
    raise CommandFailed(ExitCode.FAILURE, f"the server did not start:\n{tail}", f"the whole log: {log}")


@contextmanager
def _traffic(address: str, requests_per_s: float) -> Iterator[Traffic]:
    """Traffic from a thread of its own, for as long as the block lasts."""
    reviews = [review for review in sentiment_reviews().traffic if review.domain is Domain.MOVIES]
    texts = [Labelled(text=review.text, label=review.label) for review in reviews]
    loop = asyncio.new_event_loop()
    traffic = Traffic(address, MODEL, texts, requests_per_s=requests_per_s, label_delay_s=LABEL_DELAY_S)
    thread = threading.Thread(target=loop.run_until_complete, args=(traffic.run(),), daemon=True)
    thread.start()
    try:
        yield traffic
    finally:
        loop.call_soon_threadsafe(traffic.stop)
        thread.join(30.0)
