"""The Open Inference Protocol as a client meets it, on both wires."""

from collections.abc import Iterator
from typing import Any, cast

import grpc
import numpy as np
import pytest

from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import encode_inputs

Served = Any
VARIANTS = ["corrupt", "plain", "raising", "wide"]


@pytest.fixture
def client(shared: Served) -> Iterator[Any]:
    client = shared.client()
    yield client
    client.close()


def failure(client: Any, request: pb.ModelInferRequest, **options: Any) -> grpc.Call:
    with pytest.raises(grpc.RpcError) as caught:
        client.call("ModelInfer", request, pb.ModelInferResponse, **options)
    return cast("grpc.Call", caught.value)


def test_the_server_and_its_models_are_live_and_ready(client: Any) -> None:
    assert client.call("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
    assert client.call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready
    asked = {"digits": True, "digits/plain": True, "digits/nonsense": False, "nonsense": False}
    for name, ready in asked.items():
        request = pb.ModelReadyRequest(name=name)
        assert client.call("ModelReady", request, pb.ModelReadyResponse).ready is ready, name
    versioned = pb.ModelReadyRequest(name="digits", version="wide")
    assert client.call("ModelReady", versioned, pb.ModelReadyResponse).ready


def test_metadata_names_the_server_the_variants_and_the_tensors(client: Any) -> None:
    server = client.call("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
    assert server.name == "anabranch"
    model = client.call("ModelMetadata", pb.ModelMetadataRequest(name="digits"), pb.ModelMetadataResponse)
    assert list(model.versions) == VARIANTS
    assert [(t.name, t.datatype, list(t.shape)) for t in model.inputs] == [("pixels", "FP32", [-1, 64])]
    assert [(t.name, t.datatype, list(t.shape)) for t in model.outputs] == [("logits", "FP32", [-1, 10])]
    one = pb.ModelMetadataRequest(name="digits", version="plain")
    assert list(client.call("ModelMetadata", one, pb.ModelMetadataResponse).versions) == ["plain"]


def test_a_client_that_chooses_nothing_is_served_by_the_baseline(client: Any) -> None:
    reply = client.infer(3)
    assert reply.variant == "wide"
    assert reply.assignment_id == ""
    assert reply.logits.shape == (1, 10)


@pytest.mark.parametrize(
    ("fields", "metadata"),
    [
        ({"model_name": "digits/plain"}, {}),
        ({"model_version": "plain"}, {}),
        ({}, {"x-target-variant": "plain"}),
        ({"model_name": "digits/plain", "model_version": "plain"}, {}),
    ],
)
def test_a_variant_is_chosen_by_name_by_version_and_by_metadata(
    client: Any, fields: dict[str, str], metadata: dict[str, str]
) -> None:
    assert client.infer(3, metadata=metadata, **fields).variant == "plain"


def test_the_reply_names_its_variant_in_metadata_and_as_its_version(client: Any) -> None:
    stub = client.channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    response, call = stub.with_call(client.request(0, id="mine"), timeout=30)
    assert dict(call.initial_metadata())["x-invoked-variant"] == "wide"
    assert (response.id, response.model_name, response.model_version) == ("mine", "digits", "wide")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_name": "digit"}, ["no model 'digit'", "did you mean digits?", "There are: digits"]),
        ({"model_version": "pain"}, ["no variant 'pain'", "did you mean plain?", ", ".join(VARIANTS)]),
        ({"model_name": "digits/none"}, ["no variant 'none'", ", ".join(VARIANTS)]),
        ({"model_name": "digits/wide", "model_version": "plain"}, ["different variants"]),
    ],
)
def test_what_is_not_served_is_not_found_and_the_answer_lists_what_is(
    client: Any, fields: dict[str, str], said: list[str]
) -> None:
    reply = client.infer(0, **fields)
    assert reply.code is grpc.StatusCode.NOT_FOUND
    for part in said:
        assert part in reply.detail


def test_an_unknown_target_variant_is_not_found(client: Any) -> None:
    reply = client.infer(0, metadata={"x-target-variant": "int8"})
    assert reply.code is grpc.StatusCode.NOT_FOUND
    assert ", ".join(VARIANTS) in reply.detail


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((1, 63), np.float32), ["63", "64"]),
        (np.zeros((1, 64), np.float64), ["float64", "FP32"]),
        (np.zeros(64, np.float32), ["[64]", "64]"]),
    ],
)
def test_a_wrong_tensor_is_refused_with_what_was_given_and_what_is_allowed(
    client: Any, array: Any, said: list[str]
) -> None:
    request = pb.ModelInferRequest(model_name="digits")
    encode_inputs(request, {"pixels": array})
    error = failure(client, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    for part in ["pixels", *said]:
        assert part in (error.details() or "")


def test_a_wrong_number_of_bytes_is_refused_with_both_numbers(client: Any) -> None:
    request = client.request(0)
    request.raw_input_contents[0] = request.raw_input_contents[0][:-4]
    error = failure(client, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "252" in (error.details() or "")
    assert "256" in (error.details() or "")


@pytest.mark.parametrize("name", ["priority", "timeout"])
def test_a_parameter_out_of_range_is_refused_with_the_range(client: Any, name: str) -> None:
    request = client.request(0)
    request.parameters[name].int64_param = 0
    error = failure(client, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"parameter {name} is 0, must be a whole number from 1" in (error.details() or "")


def test_an_output_that_the_model_lacks_is_refused(client: Any) -> None:
    request = client.request(0)
    request.outputs.add(name="probabilities")
    error = failure(client, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "logits" in (error.details() or "")


def test_a_deadline_that_cannot_be_met_ends_the_call(client: Any) -> None:
    request = pb.ModelInferRequest(model_name="digits")
    encode_inputs(request, {"pixels": np.zeros((20_000, 64), np.float32)})
    error = failure(client, request, timeout=0.05)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert client.infer(0).is_ok


def test_a_message_over_the_limit_is_refused_with_the_limit(client: Any) -> None:
    request = pb.ModelInferRequest(model_name="digits")
    encode_inputs(request, {"pixels": np.zeros((263_000, 64), np.float32)})
    error = failure(client, request)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(64 << 20) in (error.details() or "")
    assert client.infer(0).is_ok


def test_a_pinned_variant_that_fails_is_an_internal_error_without_its_details(client: Any) -> None:
    reply = client.infer(0, model_version="raising")
    assert reply.code is grpc.StatusCode.INTERNAL
    assert reply.detail == "variant raising failed on this request"


def test_reflection_lists_the_services(client: Any) -> None:
    from grpc_reflection.v1alpha import reflection_pb2 as reflected

    stub = client.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=reflected.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflected.ServerReflectionResponse.FromString,
    )
    answers = stub(iter([reflected.ServerReflectionRequest(list_services="")]), timeout=30)
    names = {service.name for service in next(answers).list_services_response.service}
    assert {"inference.GRPCInferenceService", "anabranch.v1.FeedbackService"} <= names
