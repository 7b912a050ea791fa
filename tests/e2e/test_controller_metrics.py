"""A controller on its own tells Prometheus what it does and where the experiments stand."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from anabranch.store.sql import open_store

Make = Callable[..., dict[str, Any]]
Wait = Callable[[Callable[[], Any], str], None]


def told(address: str) -> dict[str, float]:
    """The series of a scrape, by name and labels as written."""
    with urlopen(address, timeout=30) as answer:  # an address of our own
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}


def test_a_controller_on_its_own_tells_what_it_does(
    models: Path, tmp_path: Path, experiment: Make, wait_until: Wait
) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    store = open_store(url)
    store.apply(experiment("held", ["plain"], [{"setWeight": 50}, {"pause": {}}]), "ada", 1.0)
    process = subprocess.Popen(
        [
            Path(sys.executable).with_name("anabranch"),
            *("controller", "--store", url, "--models", models, "--tick", "0.1", "--metrics-port", "0"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert said.startswith("metrics on http://127.0.0.1:"), said
        address = said.removeprefix("metrics on ").strip()
        paused = 'anabranch_experiment_phase{experiment="held",model="digits",phase="Paused"}'
        wait_until(lambda: told(address).get(paused) == 1.0, "the experiment reaches its pause")
        series = told(address)
        assert series["anabranch_leading"] == series["anabranch_led"] == 1.0
        assert series["anabranch_tick_duration_seconds_count"] > 0
        assert series["anabranch_store_statement_duration_seconds_count"] > 0
        assert (
            series['anabranch_experiment_weight_ratio{experiment="held",model="digits",variant="plain"}']
            == 0.5
        )
        # Routers read journals, and answer requests.
        assert not [
            name for name in series if "ingest" in name or "request_duration" in name or "lag" in name
        ]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        store.close()
