"""The project's own server as a peer of the bench: `anabranch serve`, with or without an experiment."""

import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anabranch.proto.tensors import TensorError
from bench.dataplane.load_plan import UNIT_HEADER
from bench.dataplane.measuring import MeasurementFailed, ask_grpc
from bench.dataplane.messages import Message
from bench.dataplane.models import BASELINE, CANDIDATE
from bench.dataplane.peers import OUR_VERSION, Running
from bench.dataplane.places import OUR_PYTHON, SERVING_PYTHON
from bench.dataplane.processes import SERVER_CORE, Tree, free_port

_PATIENCE_S = 30.0
_UNITS = 400


def experiment(
    model: str, *, baseline: str = BASELINE, candidates: Sequence[str] = (CANDIDATE,)
) -> dict[str, Any]:
    """A document that keeps 5 % of the units on each candidate, for a day."""
    return {
        "apiVersion": "anabranch/v1",
        "kind": "Experiment",
        "metadata": {"name": f"bench-{model}"},
        "spec": {
            "model": model,
            "baseline": baseline,
            "candidates": list(candidates),
            "unit": {"metadata": UNIT_HEADER},
            "metrics": [
                {"name": "latency", "source": "latency_ms", "role": "objective", "statistic": "p95"},
                {"name": "errors", "source": "error", "role": "guardrail", "max": 0.05},
            ],
            "steps": [{"setWeight": 5}, {"pause": {"duration": "24h"}}],
        },
    }


def anabranch(
    work: Path,
    models: Path,
    *,
    model: str,
    documents: Sequence[dict[str, Any]] = (),
    baseline: str = BASELINE,
    workers: int = 1,
    core: int | None = SERVER_CORE,
    probe: Message | None = None,
    helpers: tuple[Tree, ...] = (),
    further: Sequence[object] = (),
) -> Running:
    """Start a server.

    Args:
        work: Folder of its state.
        models: Folder of variants.
        model: The model whose baseline is given.
        documents: Experiments to run; assignment, journal and controller are at work with the first one.
        baseline: The variant that serves without an experiment.
        workers: Worker processes.
        core: The core of the whole tree; None leaves it free.
        probe: A request; with it this returns when the experiment answers.
        helpers: Trees that end with the server.
        further: More flags of `serve`.

    Raises:
        MeasurementFailed: If a document is refused or no candidate ever answers.
    """
    port = free_port()
    state = work / "state"
    state.mkdir(parents=True, exist_ok=True)
    flags: list[object] = ["--models", models, "--state", state, "--port", str(port), "--threads", "1"]
    flags += ["--workers", str(workers), "--baseline", f"{model}={baseline}", *further]
    tree = Tree(
        [SERVING_PYTHON, "-m", "anabranch.cli.main", "serve", *flags], log=work / "anabranch.log", core=core
    )
    running = Running(tree=tree, port=port, version=OUR_VERSION, helpers=helpers)
    try:
        # Of every worker: connections that are opened before the last one listens all go to the others, for good.
        tree.wait_until(lambda: tree.log_text().count("serving on 127.0.0.1") >= workers, "serve")
        for document in documents:
            apply_document(document, work, state)
        if documents and probe is not None:
            _until_split(running, probe)
    except BaseException:
        running.stop()
        raise
    return running


def apply_document(document: dict[str, Any], work: Path, state: Path) -> None:
    """Apply an experiment to the database of a state folder, by the command line.

    Raises:
        MeasurementFailed: If it is refused.
    """
    path = work / f"{document['metadata']['name']}.json"
    path.write_text(json.dumps(document))
    done = subprocess.run(
        [OUR_PYTHON, "-m", "anabranch.cli.main", "apply", "-f", path],
        env={**os.environ, "ANABRANCH_STORE": f"sqlite:///{state / 'anabranch.db'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise MeasurementFailed(f"the experiment was refused: {done.stdout}{done.stderr}")


def _until_split(running: Running, probe: Message) -> None:
    """Wait until a candidate answers some unit."""
    give_up = time.monotonic() + _PATIENCE_S
    while time.monotonic() < give_up:
        for number in range(_UNITS):
            try:
                headers = ask_grpc(running, probe, {UNIT_HEADER: f"user-{number}"}).headers
            except TensorError as error:
                raise MeasurementFailed(f"not an answer: {error}") from error
            if headers.get("x-experiment") and headers.get("x-invoked-variant", "") != BASELINE:
                return
    raise MeasurementFailed("no unit was ever given to a candidate")
