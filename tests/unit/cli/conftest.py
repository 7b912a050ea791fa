import functools
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console, RenderableType
from typer.testing import CliRunner

from anabranch.bandit import simulate
from anabranch.bandit.decision import Command
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.simulate import Arm
from anabranch.bandit.step import Tick, tick
from anabranch.cli.main import assemble
from anabranch.cli.terminal import PIPE_WIDTH, Terminal
from anabranch.cli.view_types import ExperimentView
from anabranch.cli.views import experiment_view
from anabranch.store import codec
from anabranch.store.document import parse, read_document
from anabranch.store.port import StoredDecision, StoredExperiment
from anabranch.store.sql import SqlStore, open_store

HERE = Path(__file__).parent
GOOD = Arm(median_ms=3.0, agreement=0.99)
WORLD = {"fp32": Arm(median_ms=6.0), "int8": GOOD, "kl": Arm(median_ms=3.0, agreement=0.7, accuracy=0.6)}
DOCUMENT = """
apiVersion: anabranch/v1
kind: Experiment
metadata: {name: tiny}
spec:
  model: digits
  baseline: fp32
  candidates: [int8, kl]
  metrics:
    - {name: latency, source: latency_ms, role: objective, statistic: p95, direction: min}
    - {name: fidelity, source: mirror.top1_agreement, role: guardrail, min: 0.9}
  steps:
    - mirror: {percent: 30, until: {fidelity: decided}, maxDuration: 5m}
    - setWeight: 20
    - pause: {}
    - bandit: {maxWeight: 50, updatePeriod: 10s, maxDuration: 10m}
    - promote: {steps: [75, 100], interval: 5s, bake: 5s}
"""


@dataclass(slots=True)
class ManualClock:
    """Time that passes only when somebody waits, with something to do meanwhile."""

    at_s: float = 1_000.0
    waits: list[float] = field(default_factory=list)
    on_wait: Callable[[int], None] = lambda _: None

    def now(self) -> float:
        return self.at_s

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.at_s += seconds
        self.on_wait(len(self.waits))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command answered."""

    code: int
    out: str
    err: str


@dataclass(slots=True, kw_only=True)
class Shell:
    """Runs commands against one database."""

    database: Path
    clock: ManualClock
    empty: Path

    @property
    def url(self) -> str:
        return f"sqlite:///{self.database}"

    def __call__(self, *arguments: str, typed: str | None = None) -> Ran:
        out, err = (Console(stderr=stderr, width=PIPE_WIDTH, no_color=True) for stderr in (False, True))
        terminal = Terminal(out=out, err=err, clock=self.clock, actor="ada")
        result = CliRunner().invoke(
            assemble(), list(arguments), input=typed, obj=terminal, env={"ANABRANCH_STORE": self.url}
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(code=result.exit_code, out=result.stdout, err=result.stderr)

    def store(self) -> SqlStore:
        if not self.database.exists():
            shutil.copy(self.empty, self.database)
        return open_store(self.url)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with tables and nothing in them: making one takes longer than most tests."""
    path = tmp_path_factory.mktemp("empty") / "anabranch.db"
    open_store(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def shell(tmp_path: Path, clock: ManualClock, empty_database: Path) -> Shell:
    return Shell(database=tmp_path / "anabranch.db", clock=clock, empty=empty_database)


@pytest.fixture
def document() -> dict[str, Any]:
    return read_document(DOCUMENT)


@pytest.fixture
def document_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(DOCUMENT, encoding="utf-8")
    return path


@pytest.fixture
def live(shell: Shell, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Apply the tiny experiment and take real ticks, until it waits for a person or `ticks` are over."""
    seen: list[Evidence] = []

    def remembering_tick(*arguments: Any) -> Tick:
        seen.append(arguments[2])
        return tick(*arguments)

    monkeypatch.setattr(simulate, "tick", remembering_tick)

    def begin(ticks: int = 1_000, commands: Mapping[int, list[Command]] | None = None) -> None:
        store = shell.store()
        store.apply(document, "ada", 0.0)
        world = simulate.World(arms=lambda _: WORLD, requests_per_s=60)
        asked = {
            number: [store.request("tiny", c.verb, c.argument, c.actor, float(number)) for c in listed]
            for number, listed in (commands or {}).items()
        }
        rng = np.random.default_rng(3)
        for version, result in enumerate(simulate.run(parse(document), world, rng, commands=asked)):
            store.save(
                "tiny",
                expected=version,
                state=result.state,
                evidence=seen[-1],
                decision=result.decision,
            )
            if version == ticks - 1:
                break
        store.close()

    return begin


@pytest.fixture(scope="session")
def recorded(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[StoredExperiment, list[StoredDecision]]]:
    """A recorded state and its decisions, as the store gives them back, by name: mirroring, bandit, promoted."""

    @functools.cache
    def load(name: str) -> tuple[StoredExperiment, list[StoredDecision]]:
        kept = json.loads((HERE / "states" / f"{name}.json").read_text(encoding="utf-8"))
        state = codec.state_from(json.dumps(kept["state"]))
        store = open_store(f"sqlite:///{tmp_path_factory.mktemp(name)}/recorded.db")
        store.apply(read_document((HERE / "states" / "minilm.yaml").read_text(encoding="utf-8")), "ada", 0.0)
        for version, body in enumerate(kept["decisions"]):
            store.save(
                "minilm-int8",
                expected=version,
                state=state,
                evidence=Evidence(experiment="minilm-int8"),
                decision=codec.decision_from(json.dumps(body)),
            )
        found = store.experiment("minilm-int8"), store.decisions("minilm-int8")
        store.close()
        return found

    return load


@pytest.fixture
def view_of(
    recorded: Callable[[str], tuple[StoredExperiment, list[StoredDecision]]],
) -> Callable[[str, float], ExperimentView]:
    """The view of a recorded state at a time."""

    def make(name: str, now: float) -> ExperimentView:
        stored, decisions = recorded(name)
        return experiment_view(stored, parse(stored.document), decisions, now)

    return make


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compare a text with a golden file; ANABRANCH_UPDATE_GOLDEN=1 rewrites the file and fails the test."""

    def compare(name: str, text: str) -> None:
        path = HERE / "golden" / name
        if os.environ.get("ANABRANCH_UPDATE_GOLDEN") == "1":
            path.write_text(text, encoding="utf-8")
            pytest.fail(
                f"{path.name} was rewritten: look at it, then run again without ANABRANCH_UPDATE_GOLDEN"
            )
        assert text == path.read_text(encoding="utf-8")

    return compare


@pytest.fixture
def painted() -> Callable[[RenderableType, int, int], str]:
    """What something looks like on a screen without colour, without blanks at the ends of lines."""

    def paint(renderable: RenderableType, width: int, height: int) -> str:
        console = Console(width=width, height=height, color_system=None, record=True, file=io.StringIO())
        console.print(renderable)
        return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"

    return paint
