"""Taking messages apart, against protobuf itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.outline import REQUEST_RAW, RESPONSE_RAW, output_field, raw_output_prefix, split
from anabranch.proto.scan import ScanError, text_field

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
_raws = st.lists(st.binary(max_size=300), max_size=3)


def _request(name: str, request_id: str, raws: list[bytes]) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=name, model_version="2", id=request_id, raw_input_contents=raws)
    request.parameters["priority"].int64_param = -4
    request.inputs.add(name="x", datatype="FP32", shape=[1, 1 << 40])
    request.outputs.add(name="y")
    return request


@given(_texts, _texts, _raws)
def test_a_request_is_its_outline_with_its_id_and_its_raw_tensors(
    name: str, request_id: str, raws: list[bytes]
) -> None:
    request = _request(name, request_id, raws)
    message = request.SerializeToString()
    description, found_id, raw = split(message)
    assert found_id.decode() == request_id
    assert [message[start:end] for start, end in raw] == raws
    described = pb.ModelInferRequest.FromString(description)
    assert not described.id
    assert not described.raw_input_contents
    described.id = request_id
    described.raw_input_contents.extend(raws)
    assert described == request


@given(_texts, _raws)
def test_a_response_is_taken_apart_likewise(name: str, raws: list[bytes]) -> None:
    response = pb.ModelInferResponse(model_name=name, id="7", raw_output_contents=raws)
    response.outputs.add(name="y", datatype="FP32", shape=[2, 3])
    message = response.SerializeToString()
    description, found_id, raw = split(message, RESPONSE_RAW)
    assert (found_id, [message[start:end] for start, end in raw]) == (b"7", raws)
    described = pb.ModelInferResponse.FromString(description)
    assert (described.model_name, described.outputs) == (name, response.outputs)


def test_requests_that_differ_in_id_and_tensors_share_their_outline() -> None:
    one, _, _ = split(_request("m", "1", [b"abcd"]).SerializeToString())
    other, _, _ = split(_request("m", "22", [b"efghijkl"]).SerializeToString())
    assert one == other


def test_fields_in_any_order_and_of_any_kind_are_kept() -> None:
    unknown = b"\xa8\x46\x05" + b"\x99\x3f12345678" + b"\x3d\x01\x02\x03\x04" + text_field(2000, "later")
    request = _request("m", "1", [b"abcd"])
    message = request.SerializeToString()
    description, found_id, raw = split(text_field(3, "first") + message + unknown + message)
    assert found_id == b"1"
    assert len(raw) == 2
    assert unknown in description
    merged = pb.ModelInferRequest.FromString(description)
    assert len(merged.inputs) == 2


@given(st.binary(max_size=60))
def test_bytes_that_are_no_message_are_refused_and_never_crash(data: bytes) -> None:
    try:
        description, _, _ = split(data)
    except ScanError:
        return
    assert len(description) <= len(data)


@pytest.mark.parametrize("cut", [1, 5, 20, 30])
def test_a_message_that_is_cut_short_is_refused(cut: int) -> None:
    message = _request("model", "1", [bytes(40)]).SerializeToString()
    with pytest.raises(ScanError, match="bytes"):
        split(message[:-cut])


def test_an_id_that_is_no_text_is_refused() -> None:
    with pytest.raises(ScanError, match="the id is no UTF-8"):
        split(b"\x1a\x01\xff")


@given(_texts, st.lists(st.integers(0, (1 << 62) - 1), max_size=4), st.binary(max_size=200))
def test_an_output_is_written_as_protobuf_reads_it(name: str, shape: list[int], raw: bytes) -> None:
    message = output_field(name, "FP32", tuple(shape)) + raw_output_prefix(len(raw)) + raw
    response = pb.ModelInferResponse.FromString(message)
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == (name, "FP32", shape)
    assert list(response.raw_output_contents) == [raw]


def test_the_tags_are_those_of_the_protocol() -> None:
    assert pb.ModelInferRequest(raw_input_contents=[b""]).SerializeToString()[0] == REQUEST_RAW
    assert pb.ModelInferResponse(raw_output_contents=[b""]).SerializeToString()[0] == RESPONSE_RAW
