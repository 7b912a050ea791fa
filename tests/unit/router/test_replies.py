"""Answers written by hand, against protobuf."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import TensorError, decode_outputs, encode_outputs
from anabranch.router.models import ServedModel
from anabranch.router.queries import Plan, Query
from anabranch.router.replies import Replies
from anabranch.variants.batching import Answer, Timing
from anabranch.variants.remote_answer import RemoteAnswer
from anabranch.variants.tensors import Array

TIMING = Timing(0.0, 0.0, 1)
IDENTITY = [("x-invoked-variant", "v"), ("x-assignment-id", "abc"), ("x-experiment", "exp")]


def query(request_id: bytes = b"7", wanted: tuple[str, ...] = ()) -> Query:
    parsed = pb.ModelInferRequest(model_name="m")
    for name in wanted:
        parsed.outputs.add(name=name)
    return Query(b"", Plan(parsed, ServedModel(name="m", variants={}), None), request_id, [], ())


def parameters(response: pb.ModelInferResponse) -> dict[str, str]:
    return {name: value.string_param for name, value in response.parameters.items()}


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.arange(4000, dtype=np.float64),
        np.arange(8000, dtype=np.float64)[::2],
        np.array([[b"a", b""], [b"ccc", b"d"]], np.object_),
        np.zeros((0, 4), np.int64),
        np.array(True),
    ],
)
def test_an_answer_is_what_protobuf_would_write(array: Array) -> None:
    replies = Replies()
    for _ in range(2):
        message = replies.local(query(), "v", Answer({"y": array, "z": array}, TIMING), IDENTITY)
        response = pb.ModelInferResponse.FromString(message)
        expected = pb.ModelInferResponse(model_name="m", model_version="v", id="7")
        encode_outputs(expected, {"y": array, "z": array})
        expected.parameters["invoked_variant"].string_param = "v"
        expected.parameters["assignment_id"].string_param = "abc"
        expected.parameters["experiment"].string_param = "exp"
        assert response == expected
        np.testing.assert_array_equal(decode_outputs(response)["y"], array)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=6))
def test_one_writer_serves_any_sequence_of_shapes(shapes: list[tuple[int, int]]) -> None:
    replies = Replies()
    asked = query(b"")
    for shape in shapes:
        array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        message = replies.local(asked, "v", Answer({"y": array}, TIMING), IDENTITY[:1])
        response = pb.ModelInferResponse.FromString(message)
        np.testing.assert_array_equal(decode_outputs(response)["y"], array)
        assert parameters(response) == {"invoked_variant": "v"}
        assert response.id == ""


def test_only_the_requested_outputs_are_written_in_their_order() -> None:
    outputs = {name: np.zeros(1, np.float32) for name in ("a", "b", "c")}
    message = Replies().local(query(wanted=("c", "a")), "v", Answer(outputs, TIMING), IDENTITY[:1])
    assert [output.name for output in pb.ModelInferResponse.FromString(message).outputs] == ["c", "a"]
    with pytest.raises(KeyError):
        Replies().local(query(wanted=("d",)), "v", Answer(outputs, TIMING), IDENTITY[:1])


def test_a_type_that_the_protocol_lacks_is_an_error() -> None:
    with pytest.raises(TensorError, match="no datatype"):
        Replies().local(query(), "v", Answer({"y": np.zeros(1, np.complex64)}, TIMING), IDENTITY[:1])


def far(**fields: object) -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(model_name="theirs", model_version="3", id="other")
    encode_outputs(response, {"y": np.arange(3, dtype=np.float32)})
    response.parameters["note"].string_param = "kept"
    response.parameters["assignment_id"].string_param = "theirs"
    response.parameters["experiment"].string_param = "theirs"
    return response


def answer(response: pb.ModelInferResponse, *, is_assigned: bool = True) -> RemoteAnswer:
    return RemoteAnswer(response.SerializeToString(), TIMING, is_assigned=is_assigned)


def test_a_remote_answer_gets_our_names_and_keeps_its_tensors_byte_for_byte() -> None:
    made = answer(far())
    message = made.message + Replies().remote_tail(query(), "v", made, IDENTITY)
    response = pb.ModelInferResponse.FromString(message)
    assert (response.model_name, response.model_version, response.id) == ("m", "v", "7")
    assert parameters(response) == {
        "note": "kept",
        "invoked_variant": "v",
        "assignment_id": "abc",
        "experiment": "exp",
    }
    np.testing.assert_array_equal(decode_outputs(response)["y"], [0, 1, 2])


def test_another_routers_assignment_is_not_taken_for_ours() -> None:
    made = answer(far())
    response = pb.ModelInferResponse.FromString(
        made.message + Replies().remote_tail(query(b""), "v", made, IDENTITY[:1])
    )
    assert response.id == ""
    assert response.parameters["assignment_id"].WhichOneof("parameter_choice") is None
    assert response.parameters["experiment"].WhichOneof("parameter_choice") is None


def test_a_remote_answer_is_decoded_when_somebody_looks() -> None:
    np.testing.assert_array_equal(answer(far()).outputs["y"], [0, 1, 2])
    for broken in (b"\xff", b"\x2a\x02\xff\xff"):
        with pytest.raises(ValueError, match=r"message|answer"):
            RemoteAnswer(broken, TIMING, is_assigned=False).outputs  # noqa: B018  # reading it raises
    short = far()
    short.raw_output_contents[0] = b"12"
    with pytest.raises(TensorError, match="2 bytes given"):
        answer(short).outputs  # noqa: B018  # reading it raises
