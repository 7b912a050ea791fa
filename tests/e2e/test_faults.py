"""What goes wrong on purpose: killed processes, a full disk, a candidate that fails, an end in full traffic."""

import contextlib
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from anabranch.store.records import Flag, Routed

Serve = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Wait = Callable[..., None]
Served = Any
Traffic = Any

HELD = [{"setWeight": 50}, {"pause": {}}]


def routed(served: Served) -> list[tuple[tuple[int, int], Routed]]:
    """The journal's requests, each with the lane and the sequence that its assignment id names."""
    return [
        ((name.lane, record.sequence), record)
        for name, record in served.records()
        if isinstance(record, Routed)
    ]


def identities(served: Served, traffic: Traffic) -> list[tuple[int, int]]:
    """What the ids of the answers name."""
    said = [served.open_id(reply.assignment_id) for reply in traffic.answered() if reply.assignment_id]
    return [(assignment.lane, assignment.sequence) for assignment in said]


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; one that nobody has waited for yet does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def assigned(traffic: Traffic) -> int:
    return sum(bool(reply.assignment_id) for reply in traffic.answered())


def assert_every_answer_is_recorded_once(served: Served, traffic: Traffic) -> None:
    records = Counter(identity for identity, _ in routed(served))
    answered = Counter(identities(served, traffic))
    assert answered, "the split was never in force"
    assert max(answered.values()) == 1
    assert max(records.values()) == 1
    assert not answered.keys() - records.keys(), "an answered request is a recorded request"


def test_a_killed_worker_costs_its_requests_in_flight_and_is_replaced(
    serve: Serve, experiment: Make, wait_until: Wait
) -> None:
    served = serve(workers=2)
    served.apply(experiment("held", ["plain"], HELD))
    with served.traffic(clients=6) as traffic:
        wait_until(lambda: assigned(traffic) >= 100, "the split is in force")
        (victim, survivor) = served.workers()
        failed_before = sum(not reply.is_ok for reply in traffic.replies)
        victim.kill()
        wait_until(
            lambda: len({worker.pid for worker in served.workers()} - {victim.pid}) == 2,
            "another worker is started",
        )
        lanes_before = {lane for lane, _ in identities(served, traffic)}
        clients = [served.client() for _ in range(8)]

        def newcomer_serves() -> bool:
            replies = [client.infer(0) for client in clients] + [served.client().infer(1) for _ in range(4)]
            lanes = {served.open_id(r.assignment_id).lane for r in replies if r.assignment_id}
            return bool(lanes - lanes_before)

        wait_until(newcomer_serves, "the new worker serves")
        for client in clients:
            client.close()
        count = len(traffic.answered())
        wait_until(lambda: len(traffic.answered()) >= count + 100, "traffic goes on")
    assert survivor.is_running()
    failures = [reply for reply in traffic.replies if not reply.is_ok]
    assert failed_before == 0
    assert {reply.code for reply in failures} <= {grpc.StatusCode.UNAVAILABLE}
    assert len(failures) <= 6, "at most one request of each client was in flight"

    assert served.stop() == 0
    assert_every_answer_is_recorded_once(served, traffic)
    assert served.requests_in_evidence("held") == len(routed(served))


def test_after_a_crash_of_everything_nothing_answered_is_lost_and_the_experiment_goes_on(
    serve: Serve, experiment: Make, wait_until: Wait
) -> None:
    served = serve(workers=2)
    served.apply(experiment("held", ["plain"], HELD))
    with served.traffic(clients=4) as traffic:
        wait_until(lambda: assigned(traffic) >= 150, "the split is in force")
        served.kill_tree()
    before = served.experiment("held").state
    assert {reply.code for reply in traffic.replies} == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert_every_answer_is_recorded_once(served, traffic)

    again = serve()
    with again.traffic(clients=2) as more:
        wait_until(lambda: assigned(more) >= 50, "the split is in force again")
    again.cli("abort", "held", "--wait")
    assert again.stop() == 0
    assert_every_answer_is_recorded_once(again, more)
    after = again.experiment("held").state
    assert str(after.phase) == "Aborted"
    assert after.decisions > before.decisions
    assert again.requests_in_evidence("held") == len(routed(again))
    again.cli("verify", "held")


@pytest.mark.parametrize("wire", ["ngh2", "grpcio"])
def test_a_candidate_that_raises_is_masked_charged_and_removed(
    serve: Serve, experiment: Make, wire: str
) -> None:
    served = serve(wire=wire)
    steps = [{"setWeight": 30}, {"analysis": {}}, {"promote": {}}]
    served.apply(experiment("raised", ["raising"], steps))
    with served.traffic(clients=2) as traffic:
        assert served.until_over("raised") == "RolledBack"
    assert all(reply.is_ok for reply in traffic.replies), "clients never notice"
    assert {reply.variant for reply in traffic.replies} == {"wide"}
    (removal,) = served.experiment("raised").state.removed
    assert removal.variant == "raising"
    assert "errors" in removal.reason
    assert served.stop() == 0
    charged = [record for _, record in routed(served) if record.arm == 1]
    assert charged
    assert {record.status for record in charged} == {grpc.StatusCode.INTERNAL.value[0]}
    assert all(Flag.MASKED in record.flags for record in charged)
    assert served.experiment("raised").state.totals["raising"].masked > 0


@pytest.mark.parametrize("wire", ["ngh2", "grpcio"])
def test_an_end_in_full_traffic_loses_no_request(
    serve: Serve, experiment: Make, wait_until: Wait, wire: str
) -> None:
    served = serve(workers=2, wire=wire)
    served.apply(experiment("held", ["plain"], HELD))
    with served.traffic(clients=6) as traffic:
        wait_until(lambda: assigned(traffic) >= 60, "the split is in force")
        assert served.stop() == 0
    # grpcio's own server ends calls that it has accepted and not begun with CANCELLED.
    unbegun = {grpc.StatusCode.CANCELLED} if wire == "grpcio" else set()
    assert {r.code for r in traffic.replies} <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE} | unbegun
    records = routed(served)
    assert {record.status for _, record in records} == {0}
    assert sorted(identities(served, traffic)) == sorted(identity for identity, _ in records)
    assert served.requests_in_evidence("held") == len(records)


def test_workers_do_not_outlive_their_supervisor_and_nothing_is_lost(
    serve: Serve, experiment: Make, wait_until: Wait
) -> None:
    served = serve(workers=2)
    served.apply(experiment("held", ["plain"], HELD))
    with served.traffic(clients=4) as traffic:
        wait_until(lambda: assigned(traffic) >= 60, "the split is in force")
        workers = served.workers()
        served.process.kill()
        wait_until(lambda: not any(is_alive(worker) for worker in workers), "the workers drain and end")
    assert_every_answer_is_recorded_once(served, traffic)
    assert {record.status for _, record in routed(served)} == {0}
    assert serve().stop() == 0
    assert served.requests_in_evidence("held") == len(routed(served))


def test_on_a_full_disk_answers_go_on_and_the_experiment_waits(
    serve: Serve, experiment: Make, wait_until: Wait
) -> None:
    served = serve()
    served.apply(experiment("held", ["plain"], HELD))
    client = served.client()
    wait_until(lambda: client.infer(0).assignment_id, "the split is in force")
    (worker,) = served.workers()
    largest = max(path.stat().st_size for path in (served.state / "journal").iterdir())
    # A few bytes are left: a record is written in part, and must be taken back.
    worker.rlimit(psutil.RLIMIT_FSIZE, (largest + 10, resource.RLIM_INFINITY))
    during = [client.infer(number) for number in range(60)]
    assert all(reply.is_ok for reply in during)
    assert {reply.variant for reply in during[1:]} == {"wide"}
    assert {reply.assignment_id for reply in during[1:]} == {""}

    worker.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_until(lambda: client.infer(0).assignment_id, "the experiment goes on")
    assert worker.is_running()
    assert served.stop() == 0
    kept = Counter(identity for identity, _ in routed(served))
    assert max(kept.values()) == 1
    said = served.open_id(during[0].assignment_id)
    assert (said.lane, said.sequence) in kept, "what was answered when the disk filled is recorded later"
    assert served.requests_in_evidence("held") == len(kept)


def test_a_second_server_on_a_busy_port_is_refused(serve: Serve, models: Path, tmp_path: Path) -> None:
    port = serve().address.rpartition(":")[2]
    command = [sys.executable, "-m", "anabranch.cli.main", "serve", "--models", str(models)]
    command += ["--state", str(tmp_path / "other"), "--port", port, "--baseline", "digits=wide"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert ran.returncode == 1
    assert f"cannot serve on 127.0.0.1:{port}: Address already in use" in ran.stderr


def test_a_variant_whose_bytes_were_changed_is_never_served(models: Path, tmp_path: Path) -> None:
    mine = tmp_path / "models"
    shutil.copytree(models / "digits" / "plain", mine / "digits" / "plain")
    artifact = mine / "digits" / "plain" / "plain.onnx"
    artifact.write_bytes(artifact.read_bytes()[:-1] + b"?")
    command = [sys.executable, "-m", "anabranch.cli.main", "serve", "--models", str(mine)]
    command += ["--state", str(tmp_path / "state"), "--port", "0"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert ran.returncode == 1
    assert "the manifest says" in ran.stderr
    assert "a worker could not begin to serve" in ran.stderr
    assert "serving on" not in ran.stdout


def test_a_person_can_stop_it_with_the_keyboard(serve: Serve) -> None:
    served = serve()
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(60) == 0


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_whole_servers_lose_nothing_however_often_they_are_killed(
    serve: Serve, experiment: Make, wait_until: Wait
) -> None:
    rng = random.Random(2026)
    served = serve(workers=2)
    served.apply(experiment("held", ["plain"], HELD))
    answered: Counter[tuple[int, int]] = Counter()
    for _ in range(40):
        with served.traffic(clients=4) as traffic:
            enough = rng.randrange(20, 150)
            wait_until(lambda: assigned(traffic) >= enough, "the split is in force")  # noqa: B023  # called in this turn
            match rng.choice(("worker", "worker", "supervisor", "tree")):
                case "worker":
                    rng.choice(served.workers()).kill()
                    count = len(traffic.answered())
                    wait_until(lambda: len(traffic.answered()) >= count + 30, "traffic goes on")  # noqa: B023
                case "supervisor":
                    workers = served.workers()
                    served.process.kill()
                    wait_until(lambda: not any(map(is_alive, workers)), "the workers drain and end")  # noqa: B023
                case "tree":
                    served.kill_tree()
        answered.update(identities(served, traffic))
        if served.process.poll() is not None:
            served = serve(workers=2)
    served.cli("abort", "held", "--wait")
    assert served.stop() == 0
    records = Counter(identity for identity, _ in routed(served))
    assert max(answered.values()) == max(records.values()) == 1
    assert not answered.keys() - records.keys()
    assert served.requests_in_evidence("held") == len(records)
    served.cli("verify", "held")
