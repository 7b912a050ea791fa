from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from anabranch.proto import open_inference_pb2 as pb
from anabranch.router.models import Models, ServedModel
from anabranch.router.oip import SERVICE, OpenInference
from anabranch.variants.recipes import Engine
from anabranch.variants.runtime import LoadedVariant
from anabranch.variants.tensors import Datatype, Signature, TensorSpec
from anabranch.wire.seam import Status

Bench = Any
MakeCall = Callable[..., Any]
Ask = Callable[..., Any]

TEXT = Signature(name="text", inputs=(TensorSpec(name="text", datatype=Datatype.BYTES, shape=(-1,)),))
TOKENS = Signature(
    name="tokens",
    inputs=(
        TensorSpec(name="input_ids", datatype=Datatype.INT64, shape=(-1, -1)),
        TensorSpec(name="attention_mask", datatype=Datatype.INT64, shape=(-1, -1)),
    ),
)


def variant(engine: Engine) -> LoadedVariant:
    """What the service looks at of a variant that takes text or tokens."""
    outputs = (TensorSpec(name="logits", datatype=Datatype.FP32, shape=(-1, 2)),)
    made = SimpleNamespace(
        manifest=SimpleNamespace(engine=engine, generation=None), signatures=(TEXT, TOKENS), outputs=outputs
    )
    return cast(LoadedVariant, made)


@pytest.fixture
def service(bench: Bench) -> OpenInference:
    variants = {"base": variant(Engine.ONNX), "a": variant(Engine.TORCH)}
    models = Models({"m": ServedModel(name="m", variants=variants)})
    return OpenInference(models, bench.routes, bench.inference)


@pytest.fixture
def ask(service: OpenInference, new_call: MakeCall) -> Ask:
    def send(method: str, message: bytes) -> Any:
        call = new_call()
        service.handlers().unary[f"/{SERVICE}/{method}"](call, message)
        return call

    return send


def test_a_model_lists_its_variants_and_the_inputs_of_every_signature_once(ask: Ask) -> None:
    call = ask("ModelMetadata", pb.ModelMetadataRequest(name="m").SerializeToString())
    said = pb.ModelMetadataResponse.FromString(call.replies[0])
    assert list(said.versions) == ["a", "base"]
    assert said.platform == "onnx"
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in said.inputs] == [
        ("text", "BYTES", [-1]),
        ("input_ids", "INT64", [-1, -1]),
        ("attention_mask", "INT64", [-1, -1]),
    ]
    assert [tensor.name for tensor in said.outputs] == ["logits"]


@pytest.mark.parametrize("fields", [{"name": "m", "version": "a"}, {"name": "m/a"}])
def test_a_variant_describes_itself(ask: Ask, fields: dict[str, str]) -> None:
    call = ask("ModelMetadata", pb.ModelMetadataRequest(**fields).SerializeToString())
    said = pb.ModelMetadataResponse.FromString(call.replies[0])
    assert (said.name, list(said.versions), said.platform) == (fields["name"], ["a"], "torch")


def test_the_config_speaks_of_strings_and_of_optional_inputs(ask: Ask) -> None:
    call = ask("ModelConfig", pb.ModelConfigRequest(name="m").SerializeToString())
    config = pb.ModelConfigResponse.FromString(call.replies[0]).config
    assert [(t.name, pb.DataType.Name(t.data_type), t.optional) for t in config.input] == [
        ("text", "TYPE_STRING", True),
        ("input_ids", "TYPE_INT64", True),
        ("attention_mask", "TYPE_INT64", True),
    ]
    assert [pb.DataType.Name(t.data_type) for t in config.output] == ["TYPE_FP32"]


def test_the_index_lists_every_variant_as_ready(ask: Ask) -> None:
    call = ask("RepositoryIndex", b"")
    models = pb.RepositoryIndexResponse.FromString(call.replies[0]).models
    assert [(m.name, m.version, m.state) for m in models] == [("m", "a", "READY"), ("m", "base", "READY")]


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig"])
def test_an_unknown_model_is_not_found(ask: Ask, method: str) -> None:
    # Both requests have the name in field 1.
    call = ask(method, pb.ModelMetadataRequest(name="n").SerializeToString())
    assert call.failures == [(Status.NOT_FOUND, "no model 'n'. There are: m")]


@pytest.mark.parametrize(("name", "ready"), [("m", True), ("m/a", True), ("m/z", False), ("n", False)])
def test_readiness_is_an_answer_and_not_an_error(ask: Ask, name: str, ready: bool) -> None:
    call = ask("ModelReady", pb.ModelReadyRequest(name=name).SerializeToString())
    assert pb.ModelReadyResponse.FromString(call.replies[0]).ready is ready


@pytest.mark.parametrize("method", ["ServerLive", "ModelReady", "ModelMetadata"])
def test_bytes_that_are_no_request_are_refused(ask: Ask, method: str) -> None:
    call = ask(method, b"\xff\xff\xff")
    ((status, message),) = call.failures
    assert status is Status.INVALID_ARGUMENT
    assert message.startswith(f"the message is no {method}Request")
