"""The servers that run a model in their own process: each the way its documentation shows, with the same ONNX file.

Each runs the session of `servers/onnx_model.py`: one thread, so that a server pinned to one core has no threads too many.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.dataplane.environments import PINNED, is_installed
from bench.dataplane.load_plan import Dialect
from bench.dataplane.messages import INFER
from bench.dataplane.peers import Peer, Running, Unavailable
from bench.dataplane.places import SERVERS, environment, peer_python
from bench.dataplane.processes import Tree, free_port

MAX_BATCH = 16
"""Rows that a batching server may join; the same for all of them."""


def pytriton(work: Path, model: str, file: Path, *, delay_us: int = 100) -> Running:
    """Triton with its Python backend, the only one that its package brings, and its dynamic batcher."""
    ports = [free_port() for _ in range(3)]
    command: list[object] = [
        peer_python("pytriton"),
        SERVERS / "pytriton_model.py",
        *map(str, ports),
        model,
        file,
    ]
    return _start(work, "pytriton", [*command, str(MAX_BATCH), str(delay_us)], ports[:2])


def mlserver(work: Path, model: str, file: Path, *, batch_s: float = 0.0) -> Running:
    """MLServer without parallel workers, over gRPC; adaptive batching where a time for it is given."""
    ports = [free_port() for _ in range(3)]
    settings = {
        "parallel_workers": 0,
        "host": "127.0.0.1",
        "grpc_port": ports[0],
        "http_port": ports[1],
        "metrics_port": ports[2],
        "debug": False,
        "logging_settings": None,
    }
    model_settings: dict[str, Any] = {
        "name": model,
        "implementation": "bench.dataplane.servers.mlserver_model.Model",
        "parameters": {"uri": str(file)},
    }
    if batch_s:
        model_settings |= {"max_batch_size": MAX_BATCH, "max_batch_time": batch_s}
    (work / "settings.json").write_text(json.dumps(settings))
    (work / "model-settings.json").write_text(json.dumps(model_settings))
    return _start(work, "mlserver", [environment("mlserver") / "bin" / "mlserver", "start", work], ports[:2])


def kserve(work: Path, model: str, file: Path) -> Running:
    """KServe's SDK, over gRPC."""
    ports = [free_port() for _ in range(2)]
    command = [peer_python("kserve"), SERVERS / "kserve_model.py", *map(str, ports), model, file]
    return _start(work, "kserve", command, ports)


def litserve(work: Path, _model: str, file: Path) -> Running:
    """LitServe, JSON over HTTP: it has no gRPC."""
    port = free_port()
    command = [peer_python("litserve"), SERVERS / "litserve_model.py", str(port), file]
    return _start(work, "litserve", command, [port], dialect=Dialect.JSON, path="/infer")


def bentoml(work: Path, _model: str, file: Path) -> Running:
    """BentoML, JSON over HTTP: its gRPC went with version 1.2."""
    port = free_port()
    target = "bench.dataplane.servers.bentoml_model:Model"
    command = [environment("bentoml") / "bin" / "bentoml", "serve", target, "--port", str(port)]
    env = {"BENCH_ONNX": str(file), "BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(work / "bentoml")}
    return _start(
        work, "bentoml", [*command, "--host", "127.0.0.1"], [port], Dialect.JSON, path="/infer", env=env
    )


def ray_serve(work: Path, _model: str, file: Path) -> Running:
    """Ray Serve's gRPC proxy with one replica."""
    ports = [free_port() for _ in range(2)]
    command = [peer_python("ray"), SERVERS / "ray_model.py", *map(str, ports), file]
    env = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
    running = _start(work, "ray", command, ports, env=env)
    running.tree.wait_until(lambda: "ready" in running.tree.log_text(), "deploy")
    return running


def _start(
    work: Path,
    name: str,
    command: Iterable[object],
    ports: Sequence[int],
    dialect: Dialect = Dialect.GRPC,
    path: str = INFER,
    env: Mapping[str, str] | None = None,
) -> Running:
    if not is_installed(name):
        raise Unavailable(f"{', '.join(PINNED[name].requirements)}: `python -m bench.dataplane install`")
    tree = Tree(command, log=work / f"{name}.log", env=env, cwd=work)
    tree.wait_until_listening(*ports)
    version = PINNED[name].requirements[0].replace("==", " ")
    return Running(tree=tree, port=ports[0], version=version, dialect=dialect, path=path)


def model_servers(model: str, file: Path) -> tuple[Peer, ...]:
    """Every peer that runs a model itself."""
    return (
        Peer("Triton (PyTriton)", partial(pytriton, model=model, file=file)),
        Peer("MLServer", partial(mlserver, model=model, file=file)),
        Peer("KServe SDK", partial(kserve, model=model, file=file)),
        Peer("LitServe", partial(litserve, _model=model, file=file)),
        Peer("BentoML", partial(bentoml, _model=model, file=file)),
        Peer("Ray Serve", partial(ray_serve, _model=model, file=file)),
    )
