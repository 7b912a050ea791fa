"""Our messages against the descriptors that tritonclient ships; it needs a process of its own, as both register `inference`."""

import json
import subprocess
import sys

import pytest

from anabranch.proto import open_inference_pb2 as pb

_DUMP = """
import json
from google.protobuf import descriptor_pb2

def messages(prefix, types):
    for message in types:
        name = prefix + message.name
        yield name, {
            field.name: [field.number, field.type, field.label, field.type_name,
                         message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""]
            for field in message.field
        }
        yield from messages(name + ".", message.nested_type)

def enums(prefix, types, own):
    for enum in own:
        yield prefix + enum.name, {value.name: value.number for value in enum.value}
    for message in types:
        yield from enums(prefix + message.name + ".", message.nested_type, message.enum_type)

def dump(*modules):
    out = {"messages": {}, "enums": {}, "methods": {}}
    for module in modules:
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        assert file.package == "inference" and file.syntax == "proto3"
        out["messages"].update(messages("", file.message_type))
        out["enums"].update(enums("", file.message_type, file.enum_type))
        for service in file.service:
            for method in service.method:
                out["methods"][service.name + "/" + method.name] = [
                    method.input_type, method.output_type, method.client_streaming, method.server_streaming]
    return out
"""

Dump = dict[str, dict[str, dict[str, object]]]


@pytest.fixture(scope="module")
def ours() -> Dump:
    scope: dict[str, object] = {}
    exec(_DUMP, scope)
    dumped: Dump = scope["dump"](pb)  # type: ignore[operator]  # defined by the text above
    return json.loads(json.dumps(dumped))  # type: ignore[no-any-return]  # as the other side went through JSON


@pytest.fixture(scope="module")
def theirs() -> Dump:
    script = _DUMP + (
        "from tritonclient.grpc import model_config_pb2, service_pb2\n"
        "print(json.dumps(dump(service_pb2, model_config_pb2)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]  # shaped by the text above


def test_every_field_of_ours_has_the_protocols_number_type_label_and_oneof(ours: Dump, theirs: Dump) -> None:
    for name, fields in ours["messages"].items():
        assert fields.items() <= theirs["messages"][name].items(), name


def test_every_enum_of_ours_is_the_protocols(ours: Dump, theirs: Dump) -> None:
    for name, values in ours["enums"].items():
        assert values == theirs["enums"][name], name


def test_every_method_of_ours_is_the_protocols(ours: Dump, theirs: Dump) -> None:
    assert ours["methods"].items() <= theirs["methods"].items()
    assert "GRPCInferenceService/ModelStreamInfer" in ours["methods"]


def test_only_what_belongs_to_a_triton_server_alone_is_left_out(ours: Dump, theirs: Dump) -> None:
    for name in (
        "ModelInferRequest",
        "ModelInferResponse",
        "ModelMetadataResponse",
        "ModelStatistics",
        "InferParameter",
    ):
        assert ours["messages"][name] == theirs["messages"][name]
    left_out = {method.split("/")[1] for method in theirs["methods"].keys() - ours["methods"].keys()}
    assert all("SharedMemory" in name or name in {"TraceSetting", "LogSettings"} for name in left_out)
