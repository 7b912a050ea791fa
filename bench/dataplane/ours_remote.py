"""The project's own server in front of two remote variants: the same split as the proxies', as an experiment."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.dataplane.measuring import MeasurementFailed
from bench.dataplane.messages import IDENTITY, identity_message
from bench.dataplane.models import BASELINE, CANDIDATE
from bench.dataplane.ours import anabranch, experiment
from bench.dataplane.peers import Running
from bench.dataplane.places import OUR_PYTHON, environment
from bench.dataplane.processes import LOAD_CORE, free_port
from bench.dataplane.proxies import identity_server, require


def envoy_split(work: Path) -> Running:
    """The same with Envoy on the path, which `anabranch serve` drives and hears: both processes count."""
    require("envoy")
    envoy = environment("envoy") / "bin" / "envoy"
    return anabranch_split(
        work, further=("--dataplane", "envoy", "--envoy", envoy, "--xds-port", str(free_port()))
    )


def anabranch_split(work: Path, *, has_experiment: bool = True, further: Sequence[object] = ()) -> Running:
    """Start it with its backends.

    Args:
        work: Folder of its state.
        has_experiment: Without one every request goes to the baseline and nothing is recorded: a bare forwarder.
        further: More flags of `serve`.

    Raises:
        MeasurementFailed: If a backend is not accepted as a variant.
    """
    models = work / "models"
    helpers = []
    for name in (BASELINE, CANDIDATE):
        tree, port = identity_server(work, name, LOAD_CORE)
        helpers.append(tree)
        _add_remote(models, name, port)
    return anabranch(
        work,
        models,
        model=IDENTITY,
        documents=(experiment(IDENTITY),) if has_experiment else (),
        probe=identity_message(16),
        helpers=tuple(helpers),
        further=further,
    )


def _add_remote(models: Path, name: str, port: int) -> None:
    verb = [
        "variants",
        "add-remote",
        IDENTITY,
        name,
        "--target",
        f"127.0.0.1:{port}",
        "--models",
        str(models),
    ]
    done = subprocess.run(
        [str(OUR_PYTHON), "-m", "anabranch.cli.main", *verb],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise MeasurementFailed(f"the backend was refused as a variant: {done.stdout}{done.stderr}")
