"""Variants on another server: a real second server behind this one, in every mixture."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from anabranch.store.records import Flag, Pair, Routed
from anabranch.variants.remote_add import add_remote
from anabranch.variants.remote_target import RemoteTarget

Serve = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Wait = Callable[..., None]

HELD = [{"setWeight": 50}, {"pause": {}}, {"promote": {}}]
COPIED = [{"mirror": {"percent": 100, "maxDuration": "1h"}}, {"promote": {}}]


@pytest.fixture(scope="module")
def far(serve_all: Serve) -> Any:
    """The server elsewhere: every variant of `digits`."""
    return serve_all(state="far")


@pytest.fixture(scope="module")
def mixed(models: Path, far: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `wide` and `plain`, built here, and both and `raising` again on the other server."""
    root = tmp_path_factory.mktemp("mixed")
    for name in ("wide", "plain"):
        shutil.copytree(models / "digits" / name, root / "digits" / name)
    for name in ("wide", "plain", "raising"):
        remote = RemoteTarget(target=far.address, model="digits", model_version=name)
        asyncio.run(add_remote(root, "digits", f"away-{name}", remote))
    return root


def routed(served: Any) -> list[Routed]:
    return [record for _, record in served.records() if isinstance(record, Routed)]


def pairs(served: Any) -> list[Pair]:
    return [record for _, record in served.records() if isinstance(record, Pair)]


@pytest.mark.parametrize(
    ("baseline", "candidate"), [("wide", "away-plain"), ("away-wide", "plain"), ("away-wide", "away-plain")]
)
def test_variants_here_and_elsewhere_share_an_experiment(
    serve: Serve, mixed: Path, experiment: Make, wait_until: Wait, baseline: str, candidate: str
) -> None:
    served = serve(models=mixed, baseline=f"digits={baseline}")
    metrics = [{"name": "correct", "source": "feedback.correct", "role": "signal"}]
    document = experiment("mixed", [candidate], HELD, metrics)
    document["spec"]["baseline"] = baseline
    served.apply(document)
    with served.traffic(clients=3) as traffic:
        wait_until(
            lambda: (
                {reply.variant for reply in traffic.answered()} == {baseline, candidate}
                and sum(bool(reply.assignment_id) for reply in traffic.answered()) >= 60
            ),
            "both variants answer in the experiment",
        )
    assert all(reply.is_ok for reply in traffic.replies)
    assert traffic.problems == []
    answers: dict[int, Any] = {}
    for reply in traffic.replies:
        # Each digit has one right answer, whoever gives it.
        logits = answers.setdefault(reply.sent % 360, reply.logits)
        if reply.sent < 360:
            np.testing.assert_allclose(reply.logits, logits, atol=1e-4)
    assert served.stop() == 0
    records = routed(served)
    assert {record.arm for record in records} == {0, 1}
    assert {record.status for record in records} == {0}
    said = [served.open_id(reply.assignment_id) for reply in traffic.replies if reply.assignment_id]
    assert {assignment.sequence for assignment in said} == {record.sequence for record in records}
    assert all(assignment.top1 >= 0 for assignment in said), "labels can be credited to remote answers"


@pytest.mark.parametrize(("baseline", "candidate"), [("wide", "away-plain"), ("away-wide", "plain")])
def test_copies_to_and_from_elsewhere_are_compared(
    serve: Serve, mixed: Path, experiment: Make, wait_until: Wait, baseline: str, candidate: str
) -> None:
    served = serve(models=mixed, baseline=f"digits={baseline}")
    document = experiment("copied", [candidate], COPIED)
    document["spec"]["baseline"] = baseline
    document["spec"]["metrics"].append(
        {"name": "fidelity", "source": "mirror.top1_agreement", "role": "guardrail", "min": 0.5}
    )
    served.apply(document)
    with served.traffic(clients=2):
        wait_until(lambda: len(pairs(served)) >= 40, "copies are compared")
    found = pairs(served)
    assert {pair.status for pair in found} == {0}
    assert all(pair.agrees and pair.max_abs < 1e-3 for pair in found)


def test_a_candidate_whose_server_is_killed_costs_clients_nothing_and_is_found_again(
    serve: Serve, models: Path, experiment: Make, wait_until: Wait, tmp_path: Path
) -> None:
    far = serve(state="far")
    root = tmp_path / "models"
    shutil.copytree(models / "digits" / "wide", root / "digits" / "wide")
    said = far.cli(
        *("variants", "add-remote", "digits", "away", "--target", far.address),
        *("--remote-version", "plain", "--models", str(root), "--hourly-price", "0.3"),
    )
    assert "price         0.3 an hour" in far.cli("variants", "show", "digits", "away", "--models", str(root))
    assert "input pixels: FP32 [-1, 64]" in said
    served = serve(models=root)
    served.apply(experiment("killed", ["away"], HELD))
    with served.traffic(clients=4) as traffic:
        wait_until(
            lambda: sum(reply.variant == "away" for reply in traffic.answered()) >= 30,
            "the candidate answers",
        )
        far.kill_tree()
        before = len(traffic.replies)
        wait_until(lambda: len(traffic.replies) >= before + 100, "traffic goes on")
    assert all(reply.is_ok for reply in traffic.replies)
    assert {reply.variant for reply in traffic.replies[-50:]} == {"wide"}
    client = served.client()
    assert client.infer(0, model_version="away", timeout=5).code is grpc.StatusCode.UNAVAILABLE
    serve(state="far", port=far.address.rpartition(":")[2])
    wait_until(lambda: client.infer(0, model_version="away").is_ok, "the server is found again")
    assert served.stop() == 0
    charged = [record for record in routed(served) if record.status]
    assert charged
    assert {record.arm for record in charged} == {1}
    assert {record.status for record in charged} == {grpc.StatusCode.UNAVAILABLE.value[0]}
    assert all(Flag.MASKED in record.flags for record in charged)


def test_a_candidate_that_hangs_leaves_the_baseline_its_time(
    serve: Serve, mixed: Path, experiment: Make, wait_until: Wait, far: Any
) -> None:
    served = serve(models=mixed)
    served.apply(experiment("hung", ["away-plain"], HELD))
    client = served.client()
    wait_until(lambda: client.infer(0).assignment_id, "the split is in force")
    wait_until(lambda: client.infer(0).variant == "away-plain", "the candidate answers")
    for process in [psutil.Process(far.process.pid), *far.workers()]:
        process.suspend()
    try:
        replies = [client.infer(number, timeout=1.0) for number in range(10)]
    finally:
        for process in [psutil.Process(far.process.pid), *far.workers()]:
            process.resume()
    assert all(reply.is_ok for reply in replies)
    assert {reply.variant for reply in replies} == {"wide"}
    assert served.stop() == 0
    charged = [record for record in routed(served) if record.status]
    assert {record.arm for record in charged} == {1}
    late = [record for record in charged if record.status == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]]
    assert late
    assert all(record.latency_ms == float("inf") for record in late)


def test_a_remote_failure_reaches_clients_that_chose_it_with_its_status(serve: Serve, mixed: Path) -> None:
    served = serve(models=mixed)
    client = served.client()
    reply = client.infer(0, model_version="away-raising")
    assert reply.code is grpc.StatusCode.INTERNAL
    assert reply.detail == "variant away-raising: variant raising failed on this request"
    same = client.infer(3, model_version="away-plain")
    np.testing.assert_allclose(same.logits, client.infer(3, model_version="plain").logits, atol=1e-4)
    assert (same.variant, same.assignment_id) == ("away-plain", "")
