"""What Envoy is told, and what it is not asked."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from anabranch.bandit.snapshot import Snapshot
from anabranch.bandit.spec import Experiment, Metric, MirrorStep, PauseStep, Role
from anabranch.mesh import refusals, resources
from anabranch.mesh.ejections import Ejections
from anabranch.mesh.encode import CLUSTER_TYPE, LISTENER_TYPE, ROUTE_TYPE, pack
from anabranch.mesh.routes import route_configuration, script_routes
from anabranch.mesh.settings import MeshSettings, mesh_problems
from anabranch.proto import envoy_pb2 as pb
from anabranch.router.settings import Clients, Settings
from anabranch.variants.remote_target import RemoteTls
from anabranch.wire.seam import Status, Tls


def listener(tls: Tls | None = None) -> pb.Listener:
    made = resources.listener(
        host="127.0.0.1", port=1, key_file=Path("k"), secret="s", max_message_bytes=1000, tls=tls
    )
    return pb.Listener.FromString(pack(LISTENER_TYPE, made).value)


def test_the_listener_carries_the_script_and_logs_every_request() -> None:
    [chain] = listener().filter_chains
    manager = pb.HttpConnectionManager.FromString(chain.filters[0].typed_config.value)
    lua = pb.Lua.FromString(manager.http_filters[0].typed_config.value)
    assert lua.default_source_code.inline_string.startswith('local KEY_FILE = "k"\n')
    log = pb.HttpGrpcAccessLogConfig.FromString(manager.access_log[0].typed_config.value)
    assert log.additional_response_trailers_to_log == ["grpc-status"]
    assert not chain.HasField("transport_socket")


def test_a_certificate_makes_it_a_tls_port_that_asks_for_the_clients_own() -> None:
    tls = Tls(certificate_file=Path("/c"), key_file=Path("/k"), client_ca_file=Path("/ca"))
    [chain] = listener(tls).filter_chains
    context = pb.DownstreamTlsContext.FromString(chain.transport_socket.typed_config.value)
    assert context.require_client_certificate.value
    assert context.common_tls_context.alpn_protocols == ["h2"]
    assert context.common_tls_context.validation_context.trusted_ca.filename == "/ca"


def test_a_field_that_envoy_does_not_have_is_an_error_here() -> None:
    with pytest.raises(json_format.ParseError, match="nonsense"):
        pack(CLUSTER_TYPE, {"name": "a", "nonsense": 1})


def test_every_variant_is_a_cluster_that_is_never_asked_twice(manifests: Any) -> None:
    made = resources.clusters(manifests, Path("models"))
    clusters = [pb.Cluster.FromString(pack(CLUSTER_TYPE, each).value) for each in made]
    assert [cluster.name for cluster in clusters] == ["m/a", "m/b"]
    for cluster in clusters:
        [limits] = cluster.circuit_breakers.thresholds
        assert limits.HasField("max_retries")
        assert limits.max_retries.value == 0
        assert cluster.outlier_detection.consecutive_5xx.value == 3
        assert cluster.common_lb_config.HasField("healthy_panic_threshold")


def test_a_remote_variants_tls_is_envoys(manifests: Any) -> None:
    safe = replace(
        manifests["m"]["a"], remote=replace(manifests["m"]["a"].remote, tls=RemoteTls(ca="ca.pem"))
    )
    [made] = resources.clusters({"m": {"a": safe}}, Path("/models"))
    cluster = pb.Cluster.FromString(pack(CLUSTER_TYPE, made).value)
    context = pb.UpstreamTlsContext.FromString(cluster.transport_socket.typed_config.value)
    assert context.sni == "a.test"
    validation = context.common_tls_context.validation_context
    assert validation.trusted_ca.filename == "/models/m/a/ca.pem"
    assert validation.match_typed_subject_alt_names[0].matcher.exact == "a.test"


def test_routes_say_to_the_script_all_that_a_snapshot_says(snapshot: Snapshot, manifests: Any) -> None:
    metadata = script_routes(snapshot, manifests, lane=9, version="v")
    made = pb.RouteConfiguration.FromString(pack(ROUTE_TYPE, route_configuration(metadata)).value)
    *here, everything = made.virtual_hosts[0].routes
    assert {route.route.cluster for route in here} == {"anabranch-control"}
    assert everything.route.cluster_header == "x-anabranch-cluster"
    assert everything.match.prefix == "/inference.GRPCInferenceService/", "nothing else follows that header"
    assert everything.route.max_stream_duration.HasField("grpc_timeout_header_max")
    assert "authorization" in everything.request_headers_to_remove
    told = json_format.MessageToDict(everything.metadata.filter_metadata["envoy.filters.http.lua"])
    model = told["models"]["m"]
    assert model["ends"] == [0.25, 1.0]
    assert model["weights"] == [0.75, 0.25]
    assert model["variants"]["b"]["version"] == "b"


def experiment(**fields: Any) -> Experiment:
    given = {"metrics": (), "steps": (PauseStep(duration_s=None),), **fields}
    return Experiment(name="e", model="m", baseline="a", candidates=("b",), **given)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"steps": (MirrorStep(fraction=0.1, until_decided=(), max_duration_s=1.0),)}, r"steps\[0\] mirrors"),
        (
            {"metrics": (Metric(name="same", source="mirror.top1_agreement", role=Role.SIGNAL),)},
            "metric same is measured on copies",
        ),
        ({"metrics": (Metric(name="first", source="ttft_ms", role=Role.SIGNAL),)}, "streamed tokens"),
        ({"unit_metadata": "user-bin"}, "base64"),
    ],
)
def test_what_envoy_cannot_do_is_refused_with_the_reason(fields: dict[str, Any], words: str) -> None:
    [problem] = refusals.problems(experiment(**fields))
    assert re.search(words, problem)


def test_what_envoy_can_do_is_not_refused(manifests: Any) -> None:
    assert refusals.problems(experiment(unit_metadata="x-user-id")) == []
    assert refusals.variant_problems(manifests) == []
    assert refusals.access_problems(Settings(models=Path("models"))) == []


def test_nobody_is_let_in_by_envoy_who_was_to_be_kept_out(tmp_path: Path) -> None:
    files: dict[str, Any] = {name: tmp_path / name for name in ("tls_certificate", "tls_key")}
    authority = tmp_path / "authority"
    for path in (*files.values(), authority):
        path.touch()
    known: dict[str, Any] = {"models": tmp_path, "clients": Clients.KNOWN, **files}
    [unproven] = refusals.access_problems(Settings(**known))
    assert "not at tokens" in unproven
    [beyond] = refusals.access_problems(Settings(models=tmp_path, host="0.0.0.0", **files))
    assert "not at tokens" in beyond
    assert refusals.access_problems(Settings(**known, tls_client_ca=authority)) == []
    more = refusals.access_problems(
        Settings(**known, tls_client_ca=authority, control_port=0, identities=authority)
    )
    assert [problem.split()[0] for problem in more] == ["a", "identities"]


def test_a_candidate_that_fails_is_left_alone_for_a_while_and_a_baseline_never(
    snapshot: Snapshot, manifests: Any
) -> None:
    ejections = Ejections()
    ejections.watch(snapshot, manifests)
    for variant in ("a", "b"):
        for _ in range(3):
            ejections.heard("m", variant, Status.UNAVAILABLE, 100.0, 0.1)
    assert ejections.at(100.0) == {("m", "b")}
    ejections.watch(snapshot, manifests)
    assert ejections.at(109.9) == {("m", "b")}, "a new snapshot forgets nothing"
    assert ejections.at(110.0) == frozenset()
    assert ejections.count == 1


def test_the_size_of_a_queue_is_refused_where_there_is_none() -> None:
    settings = MeshSettings(server=Settings(models=Path("models"), port=8001, max_queue_size=8))
    [problem] = mesh_problems(settings, {})
    assert "Envoy has no queues" in problem
