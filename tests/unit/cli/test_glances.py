"""Lists of experiments from what was written: the same as from what was checked."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anabranch.bandit.lifecycle import Phase
from anabranch.cli.glances import glanced_row
from anabranch.cli.row_views import experiment_row
from anabranch.store import codec
from anabranch.store.document import parse, read_document
from anabranch.store.sql import open_store
from anabranch.store.sqlite_reader import Glance, SqliteReader

Shell = Any
ROOT = Path(__file__).parents[3]
STEPS = """
apiVersion: anabranch/v1
kind: Experiment
metadata: {name: steps}
spec:
  model: digits
  baseline: fp32
  candidates: [int8, kl]
  metrics:
    - {name: latency, source: latency_ms, role: objective, statistic: p95, direction: min}
    - {name: errors, source: error, role: guardrail, max: 0.1}
  steps:
    - mirror: {percent: 12.5, maxDuration: 5m}
    - setWeight: 0.05
    - pause: {}
    - pause: {duration: 1h30m}
    - gate: {name: team}
    - setWeight: 20
    - analysis: {}
    - bandit: {maxDuration: 10m}
    - promote: {}
"""
DOCUMENTS = [STEPS, *(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("examples/**/*.yaml")))]


def test_there_are_examples() -> None:
    assert len(DOCUMENTS) > 3


@pytest.mark.parametrize("text", DOCUMENTS)
def test_every_step_of_every_example_is_listed_alike(text: str, tmp_path: Path) -> None:
    document = read_document(text)
    if document.get("kind") != "Experiment":
        return
    store = open_store(f"sqlite:///{tmp_path}/a.db")
    stored = store.apply(document, "ada", 5.0)
    store.close()
    experiment = parse(stored.document)
    for step in range(len(experiment.steps) + 1):
        for phase in Phase:
            state = replace(
                stored.state,
                phase=phase,
                step=step,
                step_started_s=7.5,
                weights={experiment.baseline: 1.0, experiment.candidates[0]: 0.0},
                live=experiment.candidates[:1],
                winner=experiment.candidates[0],
            )
            glance = Glance(
                name=stored.name,
                applied_s=stored.applied_s,
                document=json.loads(json.dumps(stored.document)),
                state=json.loads(codec.state_text(state)),
            )
            assert glanced_row(glance, 100.0) == experiment_row(
                replace(stored, state=state), experiment, 100.0
            )


def test_a_list_is_read_from_the_file(shell: Shell, live: Any) -> None:
    live(ticks=4)
    reader = SqliteReader(shell.database)
    (glance,) = reader.glances()
    (stored,) = reader.experiments()
    reader.close()
    assert glanced_row(glance, 9.0) == experiment_row(stored, parse(stored.document), 9.0)


def test_what_is_damaged_is_said_as_elsewhere(shell: Shell, live: Any) -> None:
    live(ticks=2)
    store = shell.store()
    with store._engine.begin() as connection:
        connection.exec_driver_sql('UPDATE experiment SET state = \'{"phase": "Nowhere"}\'')
    store.close()
    ran = shell("get")
    assert ran.code == 1
    assert "the store holds something that cannot be read" in ran.err


def test_a_damaged_file_is_said_in_a_sentence(shell: Shell, live: Any) -> None:
    live(ticks=2)
    whole = shell.database.read_bytes()
    # The first page, with the tables' names, is left: the file opens, and what is in it cannot be read.
    shell.database.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    for name in ("-wal", "-shm"):
        shell.database.with_name(shell.database.name + name).unlink(missing_ok=True)
    ran = shell("get")
    assert ran.code == 1
    assert "malformed" in ran.err
    assert "Traceback" not in ran.err
