"""A real MLServer behind the router.

python3 -m venv /tmp/venv-mlserver && /tmp/venv-mlserver/bin/pip install mlserver==1.7.1
ANABRANCH_MLSERVER=/tmp/venv-mlserver/bin/mlserver pytest -m peers tests/e2e/test_mlserver.py
"""

import asyncio
import json
import os
import shutil
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

# What a person writes for MLServer: a class, and the tensors that it takes and gives.
_RUNTIME = """
import pathlib

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Digits(MLModel):
    async def load(self) -> bool:
        arrays = np.load(pathlib.Path(__file__).with_name("weights.npz"))
        self._weights = [arrays[name] for name in sorted(arrays.files)]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        pixels = NumpyCodec.decode_input(payload.inputs[0])
        first, first_bias, second, second_bias = self._weights
        logits = np.maximum(pixels @ first + first_bias, 0.0) @ second + second_bias
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("logits", logits.astype(np.float32))]
        )
"""
_SETTINGS = {
    "name": "theirs",
    "implementation": "digits_runtime.Digits",
    "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}],
    "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class MlServer:
    """A running MLServer."""

    process: "subprocess.Popen[bytes]"
    address: str
    log: Path


@pytest.fixture(scope="module")
def mlserver(
    digits_module: ModuleType, digits: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlServer]:
    program = os.environ.get("ANABRANCH_MLSERVER", "")
    assert program, "name MLServer's program in ANABRANCH_MLSERVER: see the head of this file"
    folder = tmp_path_factory.mktemp("mlserver")
    weights = digits_module.train_digits(digits)
    np.savez(folder / "weights.npz", **{f"w{index}": array for index, array in enumerate(weights)})
    (folder / "digits_runtime.py").write_text(_RUNTIME)
    (folder / "model-settings.json").write_text(json.dumps(_SETTINGS))
    ports = [_free_port() for _ in range(3)]
    settings = {"http_port": ports[0], "grpc_port": ports[1], "metrics_port": ports[2], "parallel_workers": 0}
    (folder / "settings.json").write_text(json.dumps(settings))
    log = folder / "mlserver.log"
    with log.open("wb") as output:
        process = subprocess.Popen([program, "start", "."], cwd=folder, stdout=output, stderr=output)
    yield MlServer(process, f"127.0.0.1:{ports[1]}", log)
    process.terminate()
    process.wait(60)


def _added(server: MlServer, root: Path) -> Manifest | None:
    assert server.process.poll() is None, server.log.read_text()[-3000:]
    try:
        return asyncio.run(
            add_remote(
                root, "digits", "mlserver", RemoteTarget(target=server.address, model="theirs", connections=1)
            )
        )
    except VariantError:
        return None


@pytest.fixture(scope="module")
def mixed(
    models: Path, mlserver: MlServer, wait_until: Wait, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with `wide` and `plain`, built here, and `mlserver`, taken in from there."""
    root = tmp_path_factory.mktemp("mixed")
    for name in ("wide", "plain"):
        shutil.copytree(models / "digits" / name, root / "digits" / name)
    wait_until(lambda: _added(mlserver, root) is not None, "MLServer is ready and has the model's tensors")
    return root


def test_what_was_taken_in_says_so(mixed: Path, mlserver: MlServer) -> None:
    made = _added(mlserver, mixed)
    assert made is not None
    assert made.remote is not None
    assert "mlserver" in made.remote.server
    assert made.outputs[0].shape == (-1, 10)


@pytest.mark.parametrize(("baseline", "candidate"), [("wide", "mlserver"), ("mlserver", "plain")])
def test_mlserver_shares_an_experiment_as_candidate_and_as_baseline(
    serve: Serve, mixed: Path, experiment: Make, wait_until: Wait, baseline: str, candidate: str
) -> None:
    served = serve(models=mixed, baseline=f"digits={baseline}")
    metrics = [{"name": "correct", "source": "feedback.correct", "role": "signal"}]
    steps = [{"setWeight": 50}, {"pause": {}}, {"promote": {}}]
    document = experiment("mixed", [candidate], steps, metrics)
    document["spec"]["baseline"] = baseline
    served.apply(document)
    with served.traffic(clients=3) as traffic:
        wait_until(
            lambda: sum(reply.variant == candidate for reply in traffic.answered()) >= 50,
            "the candidate gets its share",
        )
    assert all(reply.is_ok for reply in traffic.replies), [r.detail for r in traffic.replies if not r.is_ok]
    assert traffic.problems == []
    assert served.stop() == 0
    routed = [record for _, record in served.records() if isinstance(record, Routed)]
    assert {record.arm for record in routed} == {0, 1}
    assert {record.status for record in routed} == {0}


@pytest.mark.parametrize(("baseline", "candidate"), [("wide", "mlserver"), ("mlserver", "plain")])
def test_copies_to_and_from_mlserver_are_compared(
    serve: Serve, mixed: Path, experiment: Make, wait_until: Wait, baseline: str, candidate: str
) -> None:
    served = serve(models=mixed, baseline=f"digits={baseline}")
    fidelity = {"name": "fidelity", "source": "mirror.top1_agreement", "role": "guardrail", "min": 0.5}
    steps = [{"mirror": {"percent": 100, "maxDuration": "1h"}}, {"promote": {}}]
    document = experiment("copied", [candidate], steps, [fidelity])
    document["spec"]["baseline"] = baseline
    served.apply(document)

    def pairs() -> list[Pair]:
        return [record for _, record in served.records() if isinstance(record, Pair)]

    with served.traffic(clients=2):
        wait_until(lambda: len(pairs()) >= 40, "copies are compared")
    assert all(pair.status == 0 and pair.agrees and pair.max_abs < 1e-3 for pair in pairs())


def test_mlservers_errors_and_typed_contents_pass_through(serve: Serve, mixed: Path) -> None:
    served = serve(models=mixed)
    client = served.client()
    here = client.infer(5, model_version="plain")
    there = client.infer(5, model_version="mlserver", id="mine")
    np.testing.assert_allclose(here.logits, there.logits, atol=1e-4)
    refused = client.infer(5, model_version="mlserver", outputs=[{"name": "absent"}])
    assert refused.detail == "output 'absent' is asked for, the model has logits"
