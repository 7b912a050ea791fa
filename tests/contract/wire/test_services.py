"""Health checking and reflection, by the clients that grpcio ships."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

Server = Any


def test_the_server_is_healthy(server: Server) -> None:
    stub = health_pb2_grpc.HealthStub(server.channel)
    response = stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert response.status == health_pb2.HealthCheckResponse.SERVING


def test_an_unknown_service_is_not_found(server: Server) -> None:
    stub = health_pb2_grpc.HealthStub(server.channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=10)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.NOT_FOUND


def test_a_watch_tells_every_change(server: Server) -> None:
    stub = health_pb2_grpc.HealthStub(server.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="minilm"), timeout=20)
    seen = [next(watch).status]
    for serving in ("SERVING", "SERVING", "NOT_SERVING"):
        server.call("SetHealth", json.dumps(["minilm", serving]).encode())
    seen += [next(watch).status, next(watch).status]
    watch.cancel()
    names = health_pb2.HealthCheckResponse.ServingStatus
    assert [names.Name(status) for status in seen] == ["SERVICE_UNKNOWN", "SERVING", "NOT_SERVING"]


def test_a_health_request_that_is_no_message_is_invalid(server: Server) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.channel.unary_unary("/grpc.health.v1.Health/Check")(b"\x0a\x05x", timeout=10)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_reflection_describes_every_service_whole(server: Server) -> None:
    database = ProtoReflectionDescriptorDatabase(server.channel)
    services = list(database.get_services())
    assert services == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
    ]
    pool = DescriptorPool(database)
    methods = {name: sorted(pool.FindServiceByName(name).methods_by_name) for name in services}
    assert methods["grpc.health.v1.Health"] == ["Check", "Watch"]
    assert "ModelInfer" in methods["inference.GRPCInferenceService"]
    request = pool.FindMessageTypeByName("inference.ModelInferRequest")
    assert request.fields_by_name["raw_input_contents"].number == 7


def test_reflections_own_description_is_the_standard_one(server: Server) -> None:
    theirs = reflection_pb2.DESCRIPTOR
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(server.channel))
    for name, message in theirs.message_types_by_name.items():
        ours = pool.FindMessageTypeByName(f"grpc.reflection.v1alpha.{name}")
        for field in message.fields:
            mine = ours.fields_by_name[field.name]
            assert (mine.number, mine.type, mine.is_repeated) == (field.number, field.type, field.is_repeated)


@pytest.mark.parametrize("package", ["grpc.reflection.v1", "grpc.reflection.v1alpha"])
def test_both_versions_answer_each_question(server: Server, package: str) -> None:
    questions = [
        reflection_pb2.ServerReflectionRequest(host="h", list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.ModelInferRequest.id"),
        reflection_pb2.ServerReflectionRequest(file_by_filename="grpc/health/v1/health.proto"),
        reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="inference.ModelInferRequest"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.Nothing"),
        reflection_pb2.ServerReflectionRequest(file_by_filename="nothing.proto"),
        reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="Nothing"),
        reflection_pb2.ServerReflectionRequest(),
    ]

    def ask() -> Iterator[bytes]:
        yield from (question.SerializeToString() for question in questions)

    stream: Any = server.channel.stream_stream(f"/{package}.ServerReflection/ServerReflectionInfo")
    answers = [reflection_pb2.ServerReflectionResponse.FromString(data) for data in stream(ask(), timeout=20)]
    assert [answer.original_request for answer in answers] == questions
    assert answers[0].valid_host == "h"
    assert [answer.WhichOneof("message_response") for answer in answers] == [
        "list_services_response",
        "file_descriptor_response",
        "file_descriptor_response",
        "all_extension_numbers_response",
        "error_response",
        "error_response",
        "error_response",
        "error_response",
    ]
    assert [answer.error_response.error_code for answer in answers[4:]] == [5, 5, 5, 3]
