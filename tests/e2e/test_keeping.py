"""What a running server keeps, gives away and removes; and controllers apart from it, on both databases."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow
import pytest
from pyarrow import parquet

from anabranch.store.journal import segments
from anabranch.store.sql import open_store
from anabranch.store.upkeep_port import CHUNK

Serve = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Wait = Callable[..., None]

HELD = [{"setWeight": 50}, {"pause": {}}]
ACCURACY = {
    "name": "accuracy",
    "source": "feedback.correct",
    "role": "guardrail",
    "nonInferiorityMargin": 0.1,
}


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    made: str = request.getfixturevalue("postgres_url")
    return made


def counted(served: Any, source: str = "feedback.correct") -> int:
    totals = served.experiment("held").state.totals.values()
    return sum(sum(total.metrics.get(source, {}).values()) for total in totals)


def split(served: Any, wait_until: Wait, number: int) -> list[Any]:
    """Replies to requests of the split, each of a unit of its own."""
    client = served.client()
    wait_until(
        lambda: client.infer(0, metadata={"x-user-id": "probe"}).assignment_id, "the split is in force"
    )
    replies = [client.infer(n, metadata={"x-user-id": f"user {n}"}) for n in range(number)]
    wait_until(lambda: served.requests_in_evidence("held") >= number, "the requests are counted")
    return replies


def test_labels_from_a_parquet_file_are_counted_and_outcomes_go_into_one(
    serve: Serve, url: str, experiment: Make, wait_until: Wait, digits: Any, tmp_path: Path
) -> None:
    served = serve(store=url)
    served.apply(experiment("held", ["plain"], HELD, [ACCURACY], unit={"metadata": "x-user-id"}))
    replies = split(served, wait_until, 30)
    columns = {
        "assignment_id": [reply.assignment_id for reply in replies],
        "label": [int(digits.test_labels[reply.sent]) for reply in replies],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "labels.parquet")
    said = served.cli("feedback", "import", str(tmp_path / "labels.parquet"), "--server", served.address)
    assert "30" in said
    wait_until(lambda: counted(served) == 30, "the labels are counted")

    # While it serves, from its journal.
    served.cli("export", "held", "--parquet", str(tmp_path / "out.parquet"), "--state", str(served.state))
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    kinds = [row["kind"] for row in rows]
    assert kinds.count("feedback") == 30
    assert kinds.count("request") == len({row["sequence"] for row in rows if row["kind"] == "request"}) >= 30
    assert {row["variant"] for row in rows} == {"wide", "plain"}


def test_a_running_server_is_compacted_and_its_journal_pruned_and_every_decision_still_verifies(
    serve: Serve, url: str, experiment: Make, wait_until: Wait, digits: Any
) -> None:
    served = serve(store=url)
    served.apply(experiment("held", ["plain"], HELD, [ACCURACY], unit={"metadata": "x-user-id"}))
    replies = split(served, wait_until, 20)
    labels = [(reply.assignment_id, int(digits.test_labels[reply.sent])) for reply in replies]
    client = served.client()
    assert all(result.accepted for result in client.give_feedback(_outcomes(labels)))
    wait_until(lambda: counted(served) == 20, "the labels are counted")
    with served.traffic(clients=2, unit=lambda number: f"user {number}") as traffic:
        wait_until(lambda: len(traffic.replies) >= 50, "traffic runs")
        said = served.cli("db", "compact")
        assert " 0 units, 0 pairs, 0 feedback" in said, "one that goes on keeps its single requests"
        served.cli("abort", "held", "--wait")
        units, feedback = _compact(url)
        count = len(traffic.replies)
        wait_until(lambda: len(traffic.replies) >= count + 50, "traffic goes on")
    assert [reply for reply in traffic.replies if not reply.is_ok] == []
    assert (units >= 20, feedback >= 20) == (True, True)
    decided_on = counted(served)
    # What comes late for it is taken, and changes nothing.
    assert all(result.accepted for result in client.give_feedback(_outcomes(labels)))
    assert "all the same" in served.cli("verify", "held")
    before = set(segments(served.state / "journal"))
    assert served.stop() == 0
    assert before

    again = serve(store=url, **{"journal-days": 0})
    wait_until(
        lambda: not before & set(segments(again.state / "journal")), "what was read of the journal is removed"
    )
    assert again.client().infer(0).is_ok
    assert "all the same" in again.cli("verify", "held")
    assert counted(again) == decided_on


def _compact(url: str) -> tuple[int, int]:
    """As `db compact` does when the days are over for which single requests of an ended experiment are kept.

    Answers how many units and how much feedback went.
    """
    store = open_store(url)
    try:
        parts = [store.upkeep.compact(time.time() + 1.0)]
        while parts[-1].rows == CHUNK:
            parts.append(store.upkeep.compact(time.time() + 1.0))
    finally:
        store.close()
    return sum(part.units for part in parts), sum(part.feedback for part in parts)


def _outcomes(labels: list[tuple[str, int]]) -> list[Any]:
    from anabranch.proto.feedback_pb2 import Outcome

    return [Outcome(assignment_id=identifier, label=label) for identifier, label in labels]


def test_ticks_of_a_job_and_a_controller_of_its_own_move_on_what_a_server_serves(
    serve: Serve, url: str, experiment: Make, wait_until: Wait, models: Path
) -> None:
    served = serve(store=url, controller="elsewhere")
    served.apply(
        experiment(
            "held", ["plain"], [{"setWeight": 50}, {"analysis": {"minDuration": "1s"}}, {"promote": {}}]
        )
    )

    def tick(code: int) -> str:
        said: str = served.cli("tick", "held", "--models", str(models), "--exit-code", code=code)
        return said

    assert "Progressing" in tick(11), "holding"
    client = served.client()
    wait_until(lambda: client.infer(0).assignment_id, "the server routes by what the job decided")
    for number in range(200):
        assert client.infer(number).is_ok
    # Nobody but a job or a controller decides here.
    assert served.experiment("held").state.decisions == 1
    log = served.state / "controller.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "anabranch.cli.main", "controller"),
                *("--store", url, "--models", str(models), "--tick", "0.2", "--lease", "1"),
            ],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=dict(os.environ),
        )
    try:
        wait_until(lambda: _leader(url), "it leads")
        assert "leads on this store: nothing was done" in _failed(served, "tick", "--models", str(models))
        with served.traffic(clients=2):
            assert served.until_over("held") == "Promoted"
        assert psutil.Process(process.pid).is_running()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert "promoted" in tick(0).lower()
    wait_until(lambda: client.infer(0).variant == "plain", "the winner serves")
    assert "all the same" in served.cli("verify", "held")


def _leader(url: str) -> bool:
    store = open_store(url)
    try:
        return store.replicas.leader() is not None
    finally:
        store.close()


def _failed(served: Any, *arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "anabranch.cli.main", *arguments],
        env={**os.environ, "ANABRANCH_STORE": served.store_url},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode != 0
    return ran.stderr
