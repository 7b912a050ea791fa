"""Real servers of others behind the router: Triton's own (by PyTriton's wheel) and Ray Serve. `make engines` installs and runs this."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from anabranch.store.records import Pair, Routed
from anabranch.variants.errors import VariantError
from anabranch.variants.manifest import Manifest
from anabranch.variants.remote_add import add_remote
from anabranch.variants.remote_target import RemoteTarget

pytestmark = pytest.mark.peers

Serve = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Wait = Callable[..., None]
REPOSITORY = Path(__file__).parents[2]
ENGINES = Path(__file__).parent / "engines"
START_S = 180.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Engine:
    """A running server of somebody else's."""

    name: str
    process: "subprocess.Popen[bytes]"
    address: str
    log: Path

    def added(self, root: Path) -> Manifest | None:
        """Taken in as a variant; None while it is not ready."""
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        remote = RemoteTarget(target=self.address, model="theirs", connections=1)
        try:
            return asyncio.run(add_remote(root, "digits", self.name, remote))
        except VariantError:
            return None


@pytest.fixture(scope="module", params=["triton", "ray"])
def engine(
    request: pytest.FixtureRequest,
    digits_module: ModuleType,
    digits: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Engine]:
    name = request.param
    python = REPOSITORY / ".cache" / "engines" / name / "bin" / "python"
    assert python.exists(), f"{name} is not installed: `make engines` does that"
    folder = tmp_path_factory.mktemp(name)
    weights = digits_module.train_digits(digits)
    np.savez(folder / "weights.npz", **{f"w{index}": array for index, array in enumerate(weights)})
    ports = [_free_port() for _ in range(3 if name == "triton" else 2)]
    log = folder / "engine.log"
    path = os.pathsep.join((str(ENGINES), str(REPOSITORY / "src"))) if name == "ray" else ""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python, ENGINES / f"{name}_digits.py", *map(str, ports), folder / "weights.npz"],
            cwd=folder,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"},
            start_new_session=True,
        )
    yield Engine(name, process, f"127.0.0.1:{ports[0]}", log)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


@pytest.fixture(scope="module")
def mixed(models: Path, engine: Engine, wait_until: Wait, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `wide` and `plain`, built here, and the engine's, taken in from there."""
    root = tmp_path_factory.mktemp(f"mixed-{engine.name}")
    for name in ("wide", "plain"):
        shutil.copytree(models / "digits" / name, root / "digits" / name)
    wait_until(lambda: engine.added(root) is not None, f"{engine.name} has the model's tensors", START_S)
    return root


def test_what_was_taken_in_says_so_and_answers_as_here(serve: Serve, mixed: Path, engine: Engine) -> None:
    made = engine.added(mixed)
    assert made is not None
    assert made.remote is not None
    assert engine.name in made.remote.server
    assert made.outputs[0].shape == (-1, 10)
    client = serve(models=mixed).client()
    here = client.infer(5, model_version="plain")
    there = client.infer(5, model_version=engine.name, id="mine")
    np.testing.assert_allclose(here.logits, there.logits, atol=1e-4)


def test_it_shares_an_experiment_and_its_copies_are_compared(
    serve: Serve, mixed: Path, engine: Engine, experiment: Make, wait_until: Wait
) -> None:
    served = serve(models=mixed)
    fidelity = {"name": "fidelity", "source": "mirror.top1_agreement", "role": "guardrail", "min": 0.5}
    steps: list[dict[str, Any]] = [
        {"mirror": {"percent": 100, "until": {"fidelity": "decided"}, "maxDuration": "1h"}},
        {"setWeight": 50},
        {"pause": {}},
        {"promote": {}},
    ]
    served.apply(experiment("mixed", [engine.name], steps, [fidelity]))
    with served.traffic(clients=3) as traffic:
        wait_until(
            lambda: sum(reply.variant == engine.name for reply in traffic.answered()) >= 50,
            "the candidate gets its share after its copies agreed",
            START_S,
        )
    assert all(reply.is_ok for reply in traffic.replies), [r.detail for r in traffic.replies if not r.is_ok]
    assert served.stop() == 0
    records = [record for _, record in served.records()]
    routed = [record for record in records if isinstance(record, Routed)]
    pairs = [record for record in records if isinstance(record, Pair)]
    assert {record.arm for record in routed} == {0, 1}
    assert {record.status for record in routed} == {0}
    assert pairs
    assert all(pair.status == 0 and pair.max_abs < 1e-3 for pair in pairs)
