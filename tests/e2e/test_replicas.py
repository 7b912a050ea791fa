"""Several servers over one PostgreSQL database, of which one leads, dies, and is followed; and the database goes away."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from anabranch.proto import feedback_pb2
from anabranch.store.ingest import ingest
from anabranch.store.records import Routed
from anabranch.store.sql import open_store

Serve = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Wait = Callable[..., None]
Served = Any

pytestmark = pytest.mark.postgres
UNITS = [f"user-{number}" for number in range(40)]
# A person resumes it once, which a leading controller has to answer; the weights stay.
HELD = [{"setWeight": 50}, {"pause": {}}, {"pause": {}}]


@pytest.fixture
def database(new_postgres: Callable[[], Any]) -> Any:
    """A database server of the test's own, which it may stop."""
    return new_postgres()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """What all servers sign with."""
    path = tmp_path / "shared.key"
    path.write_bytes(os.urandom(32))
    return path


@pytest.fixture
def held(experiment: Make) -> dict[str, Any]:
    # An answer's class is of use to feedback: without such a metric, nobody looks for it.
    correct = {"name": "correct", "source": "feedback.correct", "role": "signal"}
    return experiment("held", ["plain"], HELD, [correct], unit={"metadata": "x-user-id"})


def variants_of_units(served: Served) -> list[str]:
    client = served.client()
    replies = [client.infer(n, metadata={"x-user-id": unit}) for n, unit in enumerate(UNITS)]
    client.close()
    assert all(reply.assignment_id for reply in replies)
    return [reply.variant for reply in replies]


def is_split(served: Served) -> bool:
    client = served.client()
    reply = client.infer(0, metadata={"x-user-id": "probe"})
    client.close()
    return bool(reply.is_ok and reply.assignment_id)


def routed(*servers: Served) -> list[Routed]:
    return [record for served in servers for _, record in served.records() if isinstance(record, Routed)]


def leader(url: str) -> str:
    """The place of the controller that leads; empty while none does."""
    store = open_store(url)
    found = store.replicas.leader()
    store.close()
    return found.holder.partition("#")[0] if found else ""


def place(served: Served) -> str:
    text: str = (served.state / "place.id").read_text()
    return text


def assert_evidence_is_what_one_router_would_have_seen(servers: list[Served]) -> None:
    """Every request once, every user once, whichever server it came through."""
    totals = servers[0].experiment("held").state.totals.values()
    records = routed(*servers)
    assert sum(total.requests for total in totals) == len(records)
    assert sum(total.units for total in totals) == len({record.unit for record in records})


def count_while(served: Served, wait_until: Wait, requests: int) -> None:
    """Traffic that must be answered without one failure, by the split."""
    with served.traffic(clients=2, unit=lambda n: UNITS[n % len(UNITS)]) as traffic:
        wait_until(lambda: len(traffic.replies) >= requests, "traffic goes on")
    assert all(reply.is_ok and reply.assignment_id for reply in traffic.replies)


def test_two_servers_split_alike_count_each_user_once_and_outlive_the_leader_and_the_database(
    serve: Serve, database: Any, key: Path, held: dict[str, Any], wait_until: Wait
) -> None:
    url = database.url(database.new_database())
    options = {"store": url, "lease": 3, "assignment-key": key}
    both = [serve(name, **options) for name in ("first", "second")]
    both[0].apply(held)
    wait_until(lambda: all(is_split(served) for served in both), "the split is in force on both")
    met = [variants_of_units(served) for served in both]
    assert met[0] == met[1]
    assert set(met[0]) == {"wide", "plain"}

    wait_until(lambda: leader(url), "one of them leads")
    first_to_lead = leader(url)
    dead = next(served for served in both if place(served) == first_to_lead)
    survivor = next(served for served in both if served is not dead)
    # Feedback may come through another server than the answer did.
    asking, telling = dead.client(), survivor.client()
    said = asking.infer(0, metadata={"x-user-id": UNITS[0]}).assignment_id
    assert telling.give_feedback([feedback_pb2.Outcome(assignment_id=said, label=1)])[0].accepted
    asking.close()
    telling.close()

    dead.kill_tree()
    wait_until(lambda: leader(url) == place(survivor), "the next controller leads")
    survivor.cli("resume", "held", "--wait")

    database.stop()
    count_while(survivor, wait_until, 200)
    (victim,) = survivor.workers()
    victim.kill()
    wait_until(lambda: is_split(survivor), "a worker that died meanwhile is replaced")
    count_while(survivor, wait_until, 50)
    database.start()

    store = open_store(url)
    ingest(store, dead.state / "journal")  # As the dead server does when it comes back.
    store.close()
    wait_until(lambda: survivor.requests_in_evidence("held") == len(routed(*both)), "ingestion catches up")
    assert_evidence_is_what_one_router_would_have_seen([survivor, dead])
    assert survivor.stop() == 0
    survivor.cli("verify", "held")
    log = survivor.log.read_text()
    assert "the store cannot be used now, routing goes on by the last snapshot" in log
    assert "Traceback" not in log


@contextmanager
def controllers(models: Path, url: str, folder: Path) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Two controllers, each a process of its own."""
    running = []
    for number in range(2):
        with (folder / f"controller-{number}.log").open("wb") as log:
            arguments = ["controller", "--models", models, "--store", url, "--tick", "0.1", "--lease", "2"]
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "anabranch.cli.main", *map(str, arguments)], stdout=log, stderr=log
                )
            )
    yield running
    for process in running:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(30)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_routers_and_two_controllers_over_one_database_that_is_away_for_half_a_minute(
    serve: Serve,
    models: Path,
    tmp_path: Path,
    database: Any,
    key: Path,
    held: dict[str, Any],
    wait_until: Wait,
) -> None:
    url = database.url(database.new_database())
    options = {"store": url, "controller": "elsewhere", "assignment-key": key}
    routers = [serve(name, **options) for name in ("one", "two", "three")]
    pause = threading.Event()

    def log(number: int) -> str:
        return (tmp_path / f"controller-{number}.log").read_text()

    def leads(number: int) -> bool:
        lines = [line for line in log(number).splitlines() if "leads" in line]
        return bool(lines) and "leads from now on" in lines[-1]

    with controllers(models, url, tmp_path) as processes:
        routers[0].apply(held)
        wait_until(lambda: all(is_split(router) for router in routers), "the split is in force everywhere")
        met = [variants_of_units(router) for router in routers]
        assert met[0] == met[1] == met[2]

        first = 0 if leads(0) else 1
        second = 1 - first
        processes[first].send_signal(signal.SIGSTOP)
        wait_until(lambda: leads(second), "the second controller takes over from one that is paused")
        routers[0].cli("resume", "held", "--wait")
        processes[first].send_signal(signal.SIGCONT)
        wait_until(lambda: "leads no longer" in log(first), "the first one sees it")
        processes[second].kill()
        wait_until(lambda: leads(first), "and follows when the second is killed")
        processes[second].wait(30)

        traffics = [router.traffic(clients=1, unit=lambda n: UNITS[n % len(UNITS)]) for router in routers]
        for traffic in traffics:
            traffic.__enter__()
        database.stop()
        pause.wait(30.0)
        database.start()
        for traffic in traffics:
            before = len(traffic.replies)
            wait_until(lambda t=traffic, b=before: len(t.replies) >= b + 100, "traffic goes on")
            traffic.__exit__()
            assert all(reply.is_ok and reply.assignment_id for reply in traffic.replies)
        wait_until(
            lambda: routers[0].requests_in_evidence("held") == len(routed(*routers)), "ingestion catches up"
        )
        assert_evidence_is_what_one_router_would_have_seen(routers)
        routers[0].cli("abort", "held", "--wait")
        routers[0].cli("verify", "held")
