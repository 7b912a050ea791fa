"""The head scanner against protobuf itself."""

import struct

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.scan import (
    Head,
    ParameterValue,
    ScanError,
    encode_parameter,
    override,
    raw_contents,
    rewrite,
    scan,
    varint,
)

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
_parameters = st.dictionaries(
    _texts,
    st.one_of(
        st.booleans(),
        st.integers(-(1 << 63), (1 << 63) - 1),
        _texts,
        st.floats(allow_nan=False),
        st.integers(1 << 63, (1 << 64) - 1),
        st.none(),
    ),
    max_size=4,
)


def _set(target: pb.InferParameter, value: ParameterValue) -> None:
    match value:
        case bool():
            target.bool_param = value
        case int() if value < 1 << 63:
            target.int64_param = value
        case int():
            target.uint64_param = value
        case float():
            target.double_param = value
        case str():
            target.string_param = value


def _get(parameter: pb.InferParameter) -> ParameterValue:
    choice = parameter.WhichOneof("parameter_choice")
    return None if choice is None else getattr(parameter, choice)


def _head(message: pb.ModelInferRequest) -> Head:
    return Head(
        model_name=message.model_name,
        model_version=message.model_version,
        id=message.id,
        parameters={key: _get(value) for key, value in message.parameters.items()},
    )


@st.composite
def _requests(draw: st.DrawFn) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=draw(_texts), model_version=draw(_texts), id=draw(_texts))
    for key, value in draw(_parameters).items():
        request.parameters[key].SetInParent()
        _set(request.parameters[key], value)
    for name in draw(st.lists(_texts, max_size=3)):
        request.inputs.add(name=name, datatype="FP32", shape=[1, 2]).parameters["p"].int64_param = -1
        request.outputs.add(name=name)
        request.raw_input_contents.append(draw(st.binary(max_size=300)))
    return request


@given(_requests())
@settings(derandomize=True, deadline=None, max_examples=150)
def test_the_head_of_any_request_is_what_protobuf_reads(request: pb.ModelInferRequest) -> None:
    assert scan(request.SerializeToString()) == _head(request)


@given(_requests(), st.lists(_requests(), max_size=2))
@settings(derandomize=True, deadline=None, max_examples=75)
def test_of_fields_given_again_the_last_wins(
    first: pb.ModelInferRequest, more: list[pb.ModelInferRequest]
) -> None:
    data = b"".join(message.SerializeToString() for message in (first, *more))
    assert scan(data) == _head(pb.ModelInferRequest.FromString(data))


@given(_requests(), st.none() | _texts, st.none() | _texts, _parameters)
@settings(derandomize=True, deadline=None, max_examples=150)
def test_rewriting_changes_the_head_and_nothing_else(
    request: pb.ModelInferRequest,
    name: str | None,
    version: str | None,
    parameters: dict[str, ParameterValue],
) -> None:
    data = request.SerializeToString()
    got = pb.ModelInferRequest.FromString(
        rewrite(data, model_name=name, model_version=version, parameters=parameters)
    )
    wanted = pb.ModelInferRequest.FromString(data)
    if name is not None:
        wanted.model_name = name
    if version is not None:
        wanted.model_version = version
    for key, value in parameters.items():
        wanted.parameters[key].Clear()
        _set(wanted.parameters[key], value)
    assert got == wanted


def test_nothing_to_override_is_nothing() -> None:
    assert override() == b""
    assert rewrite(b"\x0a\x01m") == b"\x0a\x01m"
    assert scan(b"\x0a\x01m\x12\x011" + override(model_name="", model_version="")) == Head("", "", "", {})


def test_the_same_rewrite_fits_a_response() -> None:
    response = pb.ModelInferResponse(
        model_name="onnx-fp32", model_version="3", id="7", raw_output_contents=[b"abcd"]
    )
    response.outputs.add(name="y", datatype="FP32", shape=[1])
    got = pb.ModelInferResponse.FromString(
        rewrite(response.SerializeToString(), model_name="minilm", parameters={"variant": "onnx-fp32"})
    )
    assert (got.model_name, got.model_version, got.id) == ("minilm", "3", "7")
    assert got.parameters["variant"].string_param == "onnx-fp32"
    assert got.outputs == response.outputs
    assert got.raw_output_contents == response.raw_output_contents


@given(_requests())
@settings(derandomize=True, deadline=None, max_examples=50)
def test_raw_contents_are_views_of_the_message(request: pb.ModelInferRequest) -> None:
    data = request.SerializeToString()
    views = raw_contents(data)
    assert [bytes(view) for view in views] == list(request.raw_input_contents)
    assert all(view.obj is data for view in views)


@given(st.binary(max_size=80))
@settings(derandomize=True, deadline=None, max_examples=1500)
def test_arbitrary_bytes_are_read_as_protobuf_reads_them_or_refused(data: bytes) -> None:
    _agree(data)


@given(_requests(), st.data())
@settings(derandomize=True, deadline=None, max_examples=400)
def test_damaged_requests_are_read_as_protobuf_reads_them_or_refused(
    request: pb.ModelInferRequest, draw: st.DataObject
) -> None:
    data = bytearray(request.SerializeToString() or b"\0")
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    _agree(bytes(data[: draw.draw(st.integers(0, len(data)))]))


def _agree(data: bytes) -> None:
    try:
        message = pb.ModelInferRequest.FromString(data)
    except DecodeError:
        message = None
    try:
        head = scan(data)
    except ScanError:
        # A scanner that is stricter than protobuf would refuse good clients.
        assert message is None
        return
    if message is not None:
        # NaN is equal to nothing: compare the text.
        assert repr(head) == repr(_head_in_order(message, head))
        assert pb.ModelInferRequest.FromString(rewrite(data, model_name="m")).model_name == "m"


def _head_in_order(message: pb.ModelInferRequest, like: Head) -> Head:
    head = _head(message)
    assert head.parameters.keys() == like.parameters.keys()
    return Head(
        model_name=head.model_name,
        model_version=head.model_version,
        id=head.id,
        parameters={key: head.parameters[key] for key in like.parameters},
    )


def test_unknown_fields_and_groups_are_passed_over_and_kept() -> None:
    unknown = (
        varint(100 << 3 | 0)
        + varint(1 << 40)
        + varint(101 << 3 | 1)
        + b"12345678"
        + varint(102 << 3 | 5)
        + b"1234"
    )
    group = varint(103 << 3 | 3) + varint(1 << 3 | 0) + b"\x07" + varint(103 << 3 | 4)
    data = unknown + pb.ModelInferRequest(model_name="m", id="i").SerializeToString() + group
    assert scan(data).model_name == "m"
    rewritten = rewrite(data, model_name="n")
    assert scan(rewritten).model_name == "n"
    assert rewritten.startswith(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x0a\x05ab", "a field announces 5 bytes, 2 are left"),
        (b"\x0a", "the message ends within a field, after 1 bytes"),
        (b"\x02\x00", "a field has the number 0"),
        (b"\x0a\x02\xff\xfe", "a text field is no UTF-8"),
        (b"\x80" * 11, "a number is longer than 10 bytes"),
        (b"\x0b" * 200, "groups are nested deeper than 100"),
        (b"\x0b\x14", "group 1 is closed as 2"),
        (b"\x0f", "a field has the wire type 7"),
        (b"\x09" + b"1234567", "the message ends within a field, after 8 bytes"),
    ],
)
def test_a_refusal_says_what_is_wrong(data: bytes, reason: str) -> None:
    with pytest.raises(ScanError, match=reason):
        scan(data)


def test_an_integer_parameter_beyond_64_bits_is_refused() -> None:
    with pytest.raises(ScanError, match="must fit in 64 bits"):
        encode_parameter(4, "n", 1 << 64)


def test_a_double_parameter_keeps_every_bit() -> None:
    value = struct.unpack("<d", bytes(range(1, 9)))[0]
    assert scan(encode_parameter(4, "d", value)).parameters == {"d": value}
