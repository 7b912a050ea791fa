"""Controllers as processes: one that is paused in the middle of its round, wakes up, and must not write."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from anabranch.router.controller import Controller
from anabranch.router.leadership import Candidate
from anabranch.router.models import find_manifests
from anabranch.store.sql import open_store

Make = Callable[..., dict[str, Any]]
Wait = Callable[..., None]
LEASE_S = 0.5


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    made: str = request.getfixturevalue("postgres_url")
    return made


def test_a_controller_that_was_stopped_before_its_save_wakes_up_and_writes_nothing(
    url: str, models: Path, experiment: Make, wait_until: Wait
) -> None:
    store = open_store(url)
    document = experiment("held", ["plain"], [{"setWeight": 50}, {"pause": {}}])
    applied = store.apply(document, "ada", 1_000.0)
    script = Path(__file__).with_name("paused_controller.py")
    paused = subprocess.Popen(
        [sys.executable, str(script), url, str(models), str(LEASE_S)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process = psutil.Process(paused.pid)
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "it has ticked, and stops before the save")
    leader = store.replicas.leader()
    assert leader is None or leader.holder == "paused#1"
    assert store.experiment("held").state_version == applied.state_version

    successor = Controller(
        store,
        None,
        manifests=find_manifests(models),
        baselines={},
        wall_clock=lambda: 3_000.0,
        publish=lambda _: None,
        leadership=Candidate(store.replicas, "successor#1", 60.0),
    )
    wait_until(successor.run_once, "another follows within the lease, and decides")
    saved = store.experiment("held")
    process.resume()
    said, log = paused.communicate(timeout=60)
    assert said == "decided 0, leads False\n"
    assert "paused#1 led with token 1, now successor#1 leads with token 2" in log
    assert store.experiment("held") == saved
    assert [row.decision.at_s for row in store.decisions("held")] == [3_000.0]
    store.close()
