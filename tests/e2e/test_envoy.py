"""Envoy as the data plane: the real program, real servers behind it, no router of ours on the path.

`make envoy` installs Envoy below .cache and runs this.
"""

import asyncio
import json
import os
import socket
import stat
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from anabranch.bandit.assignment import assign, lay_out, unit_point
from anabranch.mesh import access_log, discovery, passport
from anabranch.mesh.encode import ROUTE_TYPE, type_url
from anabranch.proto import envoy_pb2, feedback_pb2
from anabranch.proto import open_inference_pb2 as pb
from anabranch.store.records import Flag, Routed
from anabranch.variants.remote_add import add_remote
from anabranch.variants.remote_target import OutlierDetection, RemoteTarget

pytestmark = pytest.mark.peers

Serve = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Wait = Callable[..., None]

HELD = [{"setWeight": 50}, {"pause": {}}, {"promote": {}}]
ENVOY = Path(
    os.environ.get("ANABRANCH_ENVOY") or Path(__file__).parents[2] / ".cache" / "envoy" / "bin" / "envoy"
)


@pytest.fixture(scope="module")
def far(serve_all: Serve) -> Any:
    """The servers of the variants: a router without experiments."""
    return serve_all(state="far")


@pytest.fixture(scope="module")
def remotes(far: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `wide`, `plain` and `raising`, all served elsewhere."""
    root = tmp_path_factory.mktemp("remotes")
    for name in ("wide", "plain", "raising"):
        quick = OutlierDetection(base_ejection_time_s=2.0, interval_s=1.0)
        remote = RemoteTarget(target=far.address, model="digits", model_version=name, outliers=quick)
        asyncio.run(add_remote(root, "digits", name, remote))
    return root


@pytest.fixture
def mesh(serve: Serve, remotes: Path) -> Callable[..., Any]:
    """Start control planes, each with an Envoy."""
    assert ENVOY.is_file(), f"{ENVOY} is missing: `make envoy` installs it"
    return lambda **options: serve(
        models=remotes, dataplane="envoy", envoy=ENVOY, **{"xds-port": 0, **options}
    )


def routed(served: Any) -> list[Routed]:
    return [record for _, record in served.records() if isinstance(record, Routed)]


def labelled(experiment: Make, name: str, candidate: str, **fields: Any) -> dict[str, Any]:
    """An experiment at 50 % that people give feedback to."""
    correct = {"name": "correct", "source": "feedback.correct", "role": "signal"}
    return experiment(name, [candidate], HELD, [correct], **fields)


def test_every_answered_request_is_recorded_once_for_the_variant_that_answered(
    mesh: Serve, experiment: Make, wait_until: Wait
) -> None:
    served = mesh()
    served.apply(labelled(experiment, "split", "plain"))
    with served.traffic(clients=3, labels_after=1_000_000) as traffic:
        wait_until(
            lambda: sum(bool(reply.assignment_id) for reply in traffic.answered()) >= 500,
            "the experiment has traffic",
        )
    assert all(reply.is_ok for reply in traffic.replies)
    told = {
        said.sequence: (said.arm, reply.variant)
        for reply in traffic.replies
        if reply.assignment_id
        for said in [served.open_id(reply.assignment_id)]
    }
    assert set(told.values()) == {(0, "wide"), (1, "plain")}

    client = served.client()
    ids = [reply.assignment_id for reply in traffic.replies if reply.assignment_id][:50]
    results = client.give_feedback([feedback_pb2.Outcome(assignment_id=each, correct=True) for each in ids])
    assert all(result.accepted for result in results)
    [refused] = client.give_feedback([feedback_pb2.Outcome(assignment_id=ids[0], label=3)])
    assert "no class to compare" in refused.problem

    assert served.stop() == 0
    records = routed(served)
    assert {record.sequence: record.arm for record in records} == {
        sequence: arm for sequence, (arm, _) in told.items()
    }
    assert len(records) == len(told)
    assert all(record.status == 0 and 0 < record.latency_ms < 10_000 for record in records)
    assert served.requests_in_evidence("split") == len(told)


def test_units_get_the_variants_that_our_routers_give_them(
    mesh: Serve, experiment: Make, wait_until: Wait
) -> None:
    served = mesh(workers=2)
    served.apply(labelled(experiment, "sticky", "plain", unit={"metadata": "x-user-id"}))
    client = served.client()
    wait_until(
        lambda: client.infer(0, metadata={"x-user-id": "probe"}).assignment_id, "the split is in force"
    )
    kept = served.experiment("sticky")
    salt = kept.salt.hex().encode()
    # Units of every length that hashing tells apart, and text that is no ASCII.
    units = [f"user-{number}" for number in range(200)] + ["u" * length for length in (127, 128, 129, 300)]
    for unit in units:
        reply = client.infer(1, metadata={"x-user-id": unit})
        expected = ("wide", "plain")[assign(lay_out([0.5]), unit_point(salt, unit.encode()))[0]]
        assert reply.variant == expected, unit
        assert served.open_id(reply.assignment_id).flags == Flag.EVIDENCE | Flag.STICKY
    assert client.infer(1).assignment_id == ""
    assert {record.unit for record in routed(served)} != {bytes(16)}


def test_clients_can_choose_a_variant_and_are_told_what_is_wrong(mesh: Serve) -> None:
    served = mesh()
    client = served.client()
    assert client.infer(model_version="plain").variant == "plain"
    assert client.infer(model_name="digits/plain").variant == "plain"
    assert client.infer(metadata={"x-target-variant": "plain"}).variant == "plain"
    assert client.infer().variant == "wide"
    cases: list[tuple[dict[str, Any], grpc.StatusCode, str]] = [
        ({"model_name": "letters"}, grpc.StatusCode.NOT_FOUND, "There are: digits"),
        ({"model_version": "tiny"}, grpc.StatusCode.NOT_FOUND, "has no variant 'tiny'"),
        (
            {"model_version": "plain", "metadata": {"x-target-variant": "wide"}},
            grpc.StatusCode.INVALID_ARGUMENT,
            "send one of them",
        ),
    ]
    for fields, code, words in cases:
        reply = client.infer(**fields)
        assert (reply.code, words in reply.detail) == (code, True), reply
    answer = client.call("ModelMetadata", pb.ModelMetadataRequest(name="digits"), pb.ModelMetadataResponse)
    assert [tensor.name for tensor in answer.inputs] == ["pixels"]
    assert client.call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready
    with pytest.raises(grpc.RpcError) as squeezed:
        client.call("ModelInfer", client.request(), pb.ModelInferResponse, compression=grpc.Compression.Gzip)
    assert squeezed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(grpc.RpcError) as streamed:
        client.call("ModelStreamInfer", client.request(), pb.ModelInferResponse)
    assert streamed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "not served through Envoy" in str(streamed.value.details())


def test_the_baseline_stands_in_for_a_candidate_that_fails(
    mesh: Serve, experiment: Make, wait_until: Wait
) -> None:
    served = mesh()
    document = labelled(experiment, "failing", "raising")
    # A limit that it keeps: else a tick removes the candidate as soon as it sees the failures.
    [errors] = [metric for metric in document["spec"]["metrics"] if metric["name"] == "errors"]
    errors["max"] = 0.99
    served.apply(document)
    with served.traffic(clients=2, labels_after=1_000_000) as traffic:
        wait_until(
            lambda: any(Flag.MASKED in record.flags for record in routed(served)), "the candidate is ejected"
        )
        before = len(traffic.replies)
        wait_until(lambda: len(traffic.replies) > before + 100, "clients go on")
    assert served.stop() == 0
    records = routed(served)
    masked = [record for record in records if Flag.MASKED in record.flags]
    assert all(record.arm == 1 and record.status == grpc.StatusCode.UNAVAILABLE.value[0] for record in masked)
    assert not any(record.status for record in records if record.arm == 0)
    failed = Counter(reply.is_ok for reply in traffic.replies)[False]
    # Five in a row eject it, and what was in flight meanwhile; each two seconds it is tried again.
    assert failed < 40
    assert len(masked) > failed


def test_envoy_serves_on_without_its_control_plane_and_the_next_one_takes_it_over(
    mesh: Serve, experiment: Make, wait_until: Wait
) -> None:
    served = mesh(**{"port": 0, "xds-port": (port := _free_port())})
    served.apply(labelled(experiment, "orphan", "plain"))
    client = served.client()
    wait_until(lambda: client.infer().assignment_id, "the split is in force")
    envoy = int((served.state / "envoy.pid").read_text())
    served.process.kill()
    served.process.wait(30)
    replies = [client.infer(number) for number in range(50)]
    assert all(reply.is_ok and reply.assignment_id for reply in replies)
    assert {reply.variant for reply in replies} == {"wide", "plain"}

    again = mesh(**{"port": int(served.address.rpartition(":")[2]), "xds-port": port})
    assert int((served.state / "envoy.pid").read_text()) == envoy, "the same Envoy serves on"
    lane = max(name.lane for name, _ in again.records()) if again.records() else 0
    wait_until(
        lambda: again.open_id(client.infer().assignment_id).lane > lane, "ids are of the new control plane"
    )
    recorded = len(routed(again))
    assert client.infer().is_ok
    wait_until(lambda: len(routed(again)) > recorded, "requests are recorded again")
    assert again.stop() == 0
    assert not _runs(envoy)


def test_weights_flip_under_load_without_a_failed_request(
    mesh: Serve, experiment: Make, wait_until: Wait
) -> None:
    served = mesh()
    flips = [step for share in (100, 0) * 3 for step in ({"setWeight": share}, {"pause": {"duration": "1s"}})]
    served.apply(experiment("flips", ["plain"], [*flips, {"pause": {}}]))
    with served.traffic(clients=3) as traffic:
        wait_until(lambda: served.experiment("flips").state.step == len(flips), "all flips are done")
    assert served.stop() == 0
    assert all(reply.is_ok for reply in traffic.replies)
    by_epoch: dict[int, set[str]] = {}
    for reply in traffic.replies:
        if reply.assignment_id:
            by_epoch.setdefault(served.open_id(reply.assignment_id).epoch, set()).add(reply.variant)
    assert len(by_epoch) >= 6
    assert all(len(variants) == 1 for variants in by_epoch.values()), by_epoch
    records = routed(served)
    assert len(records) == sum(bool(reply.assignment_id) for reply in traffic.replies)


def test_a_deadline_is_kept_and_charged(mesh: Serve, experiment: Make, wait_until: Wait) -> None:
    served = mesh()
    served.apply(labelled(experiment, "late", "plain"))
    client = served.client()
    wait_until(lambda: client.infer().assignment_id, "the split is in force")
    codes = {client.infer(timeout=0.0005).code for _ in range(30)}
    assert grpc.StatusCode.DEADLINE_EXCEEDED in codes
    assert served.stop() == 0
    assert all(record.status == 0 or record.latency_ms == float("inf") for record in routed(served))


def test_requests_are_told_by_variant_as_a_router_tells_them(
    mesh: Serve, experiment: Make, wait_until: Wait
) -> None:
    served = mesh(**{"metrics-port": 0})
    served.apply(labelled(experiment, "split", "plain"))
    with served.traffic(clients=3) as traffic:
        wait_until(
            lambda: sum(bool(reply.assignment_id) for reply in traffic.answered()) >= 200,
            "the experiment has traffic",
        )
    replies = Counter(reply.variant for reply in traffic.replies)
    assert set(replies) == {"wide", "plain"}

    def scrape() -> dict[str, float]:
        with urllib.request.urlopen(served.metrics, timeout=30) as response:
            lines = response.read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}

    def requests(variant: str) -> float:
        return scrape().get(f'anabranch_requests_total{{model="digits",status="OK",variant="{variant}"}}', 0)

    # Envoy sends its log once a second.
    wait_until(
        lambda: all(requests(variant) == count for variant, count in replies.items()), "the log has arrived"
    )
    series = scrape()
    labels = 'model="digits",variant="plain"'
    assert series[f"anabranch_request_duration_seconds_count{{{labels}}}"] == replies["plain"]
    assert series[f"anabranch_variant_fit{{{labels}}}"] == 1
    assert series["anabranch_envoy_log_missing_entries"] == 0
    assert series["anabranch_led"] == 1
    assigned = sum(bool(reply.assignment_id) for reply in traffic.replies)
    assert series['anabranch_envoy_log_entries_total{result="recorded"}'] == assigned


def test_an_experiment_that_envoy_cannot_run_is_refused_with_the_reason(
    mesh: Serve, experiment: Make, wait_until: Wait
) -> None:
    served = mesh()
    copies = [{"mirror": {"percent": 100, "maxDuration": "1h"}}, {"promote": {}}]
    served.apply(experiment("copied", ["plain"], copies))
    wait_until(lambda: served.phase("copied") == "Aborted", "it is refused")
    assert "Envoy throws the copies' answers away" in served.cli("describe", "copied")


def test_variants_of_this_process_are_refused_before_anything_begins(serve: Serve, models: Path) -> None:
    with pytest.raises(AssertionError, match="runs in a process of Anabranch"):
        serve(models=models, dataplane="envoy", **{"xds-port": 0})


def test_an_envoy_that_cannot_begin_ends_the_server_with_its_last_words(
    serve: Serve, remotes: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "envoy"
    broken.write_text("#!/bin/sh\necho '[critical] no such flag' >&2\nexit 1\n")
    broken.chmod(0o700)
    with pytest.raises(AssertionError, match=r"Envoy ended before it served: \[critical\] no such flag"):
        serve(models=remotes, dataplane="envoy", envoy=broken, **{"xds-port": 0})


def _runs(pid: int) -> bool:
    """Whether a process runs: one that ended, and that nobody has waited for, does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_a_client_reaches_nothing_but_the_services_of_the_port(mesh: Serve) -> None:
    served = mesh()
    told = (("x-anabranch-cluster", "anabranch-control"),)
    inward = (
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
        "/inference.GRPCInferenceService/../envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
    )
    with grpc.insecure_channel(served.address) as channel:
        for path in inward:
            method: Any = channel.stream_stream(path)
            call = method(iter([b""]), metadata=told, timeout=10.0)
            with pytest.raises(grpc.RpcError) as refusal:
                list(call)
            assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED, path


def test_only_our_own_envoy_may_ask_and_report(mesh: Serve) -> None:
    port = _free_port()
    served = mesh(**{"xds-port": port})
    bootstrap = served.state / "envoy.json"
    assert stat.S_IMODE(bootstrap.stat().st_mode) == 0o600
    [service] = json.loads(bootstrap.read_text())["dynamic_resources"]["ads_config"]["grpc_services"]
    [secret] = [each["value"] for each in service["initial_metadata"]]
    ask = envoy_pb2.DiscoveryRequest(type_url=type_url(ROUTE_TYPE), node=envoy_pb2.Node(id="thief"))
    report = envoy_pb2.StreamAccessLogsMessage()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for method, message in ((discovery.STREAM, ask), (access_log.STREAM, report)):
            open_stream: Any = channel.stream_stream(method)
            for metadata in ((), ((passport.HEADER, secret[:-1] + "x"),)):
                call = open_stream(iter([message.SerializeToString()]), metadata=metadata, timeout=10.0)
                with pytest.raises(grpc.RpcError) as refusal:
                    list(call)
                assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED, method
        asked: Any = channel.stream_stream(discovery.STREAM)
        answer = asked(iter([ask.SerializeToString()]), metadata=((passport.HEADER, secret),), timeout=10.0)
        assert envoy_pb2.DiscoveryResponse.FromString(next(answer)).type_url == type_url(ROUTE_TYPE)
    # The real Envoy knows it: it has its routes from there.
    assert served.client().infer().variant == "wide"


def test_one_client_of_envoy_cannot_send_feedback_without_end(mesh: Serve) -> None:
    served = mesh(**{"max-feedback-rate": 1})
    client = served.client()
    outcomes = [feedback_pb2.Outcome(assignment_id="none", correct=True)] * 10_000
    assert len(client.give_feedback(outcomes)) == len(outcomes)
    with pytest.raises(grpc.RpcError) as refusal:
        client.give_feedback(outcomes[:100])
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    # A name that a client gives itself does not make it another one.
    with pytest.raises(grpc.RpcError) as refusal:
        client.call(
            "/anabranch.v1.FeedbackService/Submit",
            feedback_pb2.SubmitRequest(outcomes=outcomes[:100]),
            feedback_pb2.SubmitResponse,
            metadata=[("x-anabranch-caller", "10.9.8.7")],
        )
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
