"""A control port over a store in memory, in a thread of the test, and everybody who calls it."""

import asyncio
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from anabranch.bandit.decision import Verb
from anabranch.bandit.step import tick
from anabranch.client.sync import Client
from anabranch.client.target import Credentials
from anabranch.router.access.guard import Guard
from anabranch.router.control.port import ControlPort, PortSettings
from anabranch.router.control.verbs import Served, Verbs
from anabranch.store.access import Role
from anabranch.store.document import parse
from anabranch.store.memory import MemoryStore
from anabranch.store.port import Revision
from anabranch.store.tokens import issue
from anabranch.wire.choice import WireKind
from anabranch.wire.seam import Handlers, Tls

TLS = Path(__file__).parents[1] / "wire" / "tls"
PATIENCE_S = 30.0


def document(name: str = "exp", model: str = "m", weight: int = 10) -> dict[str, Any]:
    return {
        "apiVersion": "anabranch/v1",
        "kind": "Experiment",
        "metadata": {"name": name},
        "spec": {
            "model": model,
            "baseline": "base",
            "candidates": ["a", "b"],
            "metrics": [{"name": "errors", "source": "error", "role": "guardrail", "max": 0.1}],
            "steps": [{"setWeight": weight}, {"analysis": {}}],
        },
    }


@dataclass
class Bench:
    """One control port, and its store."""

    settings: PortSettings = field(default_factory=PortSettings)
    store: MemoryStore = field(default_factory=MemoryStore)
    served: Served | None = None
    now: float = 1_000_000.0
    more: Callable[[Guard], Handlers] | None = None
    address: str = ""

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.on_loop(self._open())

    async def _open(self) -> None:
        verbs = Verbs(self.store, served=lambda: self.served, wall_clock=lambda: self.now, version="1.2.3")
        self.port = ControlPort(self.settings, self.store, verbs, wall_clock=lambda: self.now, more=self.more)
        self.address = f"127.0.0.1:{await self.port.open()}"

    def on_loop(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE_S)

    def stop(self) -> None:
        if self.address:
            self.on_loop(self.port.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    def token(self, name: str, role: Role, *models: str, life_s: float = 3600.0) -> str:
        """Make a token, and have the port know it."""
        kept, text = issue(
            name=name,
            role=role,
            models=models,
            now=self.now,
            expires_s=self.now + life_s,
            created_by="ada",
            entropy=secrets.token_bytes,
        )
        self.store.access.save_token(kept, verb="token create", actor="ada", now=self.now)
        if self.address:
            self.port.refresh()
        return text

    def client(self, token: str | None = None, **given: Any) -> Client:
        credentials = Credentials(token=token, **given)
        scheme = "grpc" if self.settings.tls is None else "grpcs"
        return Client(f"{scheme}://{self.address}", credentials, timeout_s=PATIENCE_S)

    def tick(self) -> None:
        """What a controller does: answer requests, without traffic."""
        self.now += 1.0
        for kept in self.store.experiments():
            evidence = self.store.load_evidence(kept.name, kept.state.cursor)
            pending = [
                replace(asked, revision=parse(json.loads(asked.argument)))
                if asked.verb is Verb.REVISE
                else asked
                for asked in self.store.pending(kept.name)
            ]
            result = tick(parse(kept.document), kept.state, evidence, pending, self.now)
            taken = [asked for asked in pending if asked.revision and asked.revision is result.revised]
            self.store.save(
                kept.name,
                expected=kept.state_version,
                state=result.state,
                evidence=evidence,
                decision=result.decision,
                revision=Revision(document=json.loads(taken[0].argument), actor=taken[0].actor)
                if taken
                else None,
            )


@pytest.fixture(scope="session")
def write() -> Callable[..., dict[str, Any]]:
    """Writes small documents: by name, model and traffic share."""
    return document


@pytest.fixture
def start() -> Iterator[Callable[..., Bench]]:
    """Start control ports; they end with the test."""
    begun: list[Bench] = []

    def begin(prepare: Callable[[Bench], None] = lambda _: None, **given: Any) -> Bench:
        bench = Bench(**given)
        prepare(bench)
        begun.append(bench)
        bench.start()
        return bench

    yield begin
    for bench in begun:
        bench.stop()


@pytest.fixture(params=list(WireKind))
def bench(request: pytest.FixtureRequest, start: Callable[..., Bench]) -> Bench:
    """A plain port on loopback, on either wire."""
    return start(settings=PortSettings(wire=request.param))


@pytest.fixture(scope="session")
def tls_files() -> Tls:
    """A certificate for 127.0.0.1, and the authority of clients."""
    return Tls(
        certificate_file=TLS / "server.pem", key_file=TLS / "server.key", client_ca_file=TLS / "ca.pem"
    )
