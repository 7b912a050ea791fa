"""Reading requests: by their description once, without copying tensors."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import pytest

from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import TensorError, encode_inputs
from anabranch.router import queries as module
from anabranch.router.models import Models, ServedModel, UnknownModel, Variant
from anabranch.router.queries import BadRequest, Queries, Query, check
from anabranch.variants.errors import VariantInputError
from anabranch.variants.tensors import Array, Datatype, TensorSpec


class _Variant:
    """Takes any `x`, and refuses texts that hold `bad`."""

    outputs = (TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1,)),)

    def __init__(self, *, reads_contents: bool = False, keeps_no_state: bool = True) -> None:
        self.reads_contents = reads_contents
        self.keeps_no_state = keeps_no_state
        self.checked = 0

    def check_inputs(self, request: Mapping[str, Array]) -> int:
        self.checked += 1
        self.check_contents(request)
        return len(request["x"])

    def check_contents(self, request: Mapping[str, Array]) -> None:
        if request["x"].dtype == np.object_ and b"bad" in request["x"]:
            raise VariantInputError("it is bad")


@pytest.fixture
def queries() -> Queries:
    variants = {"base": cast(Variant, object())}
    return Queries(Models({"m": ServedModel(name="m", variants=variants)}))


def request(array: Any, **fields: Any) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(**{"model_name": "m", **fields})
    encode_inputs(made, {"x": array})
    return made


def read(queries: Queries, made: pb.ModelInferRequest) -> Query:
    return queries.read(made.SerializeToString(), ())


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i8", "u1", "i2", "?"])
def test_tensors_are_what_was_sent(queries: Queries, dtype: str) -> None:
    for number in range(3):
        sent = (np.arange(6).reshape(2, 3) + number).astype(dtype)
        found = read(queries, request(sent, id=str(number))).inputs["x"]
        assert found.dtype == sent.dtype
        np.testing.assert_array_equal(found, sent)
        assert found.flags.aligned
        assert not found.flags.writeable or found.flags.owndata


def test_an_aligned_tensor_is_a_view_of_the_message(queries: Queries) -> None:
    sent = np.arange(64, dtype=np.uint8)
    message = request(sent).SerializeToString()
    found = queries.read(message, ()).inputs["x"]
    assert np.shares_memory(found, np.frombuffer(message, np.uint8))


def test_requests_that_differ_in_id_and_bytes_share_a_plan(queries: Queries) -> None:
    one, other = (read(queries, request(np.full(3, n, np.float32), id=str(n))) for n in (1, 2))
    assert one.plan is other.plan
    assert (one.id, other.id) == (b"1", b"2")
    assert read(queries, request(np.zeros(4, np.float32))).plan is not one.plan


@pytest.mark.parametrize("size", [0, 11, 13, 16])
def test_a_known_description_does_not_excuse_wrong_bytes(queries: Queries, size: int) -> None:
    good = request(np.zeros(3, np.float32))
    read(queries, good)
    good.raw_input_contents[0] = bytes(size)
    with pytest.raises(TensorError, match=f"input 'x': {size} bytes given, FP32 \\[3\\] needs 12"):
        read(queries, good)
    good.raw_input_contents.append(b"")
    with pytest.raises(TensorError, match="2 raw contents given for 1 inputs"):
        read(queries, good)


def test_typed_contents_are_read_each_time_anew(queries: Queries) -> None:
    made = pb.ModelInferRequest(model_name="m")
    tensor = made.inputs.add(name="x", datatype="INT32", shape=[2])
    for values in ([1, 2], [3, 4]):
        tensor.contents.int_contents[:] = values
        assert read(queries, made).inputs["x"].tolist() == values
    made.raw_input_contents.append(bytes(8))
    with pytest.raises(TensorError, match="raw and typed contents"):
        read(queries, made).inputs  # noqa: B018  # reading it raises


def test_texts_and_bf16_and_empty_tensors_are_read_too(queries: Queries) -> None:
    texts = np.array([b"a", "b\u00e4".encode()], np.object_)
    assert read(queries, request(texts)).inputs["x"].tolist() == texts.tolist()
    assert read(queries, request(np.zeros((0, 3), np.float32))).inputs["x"].shape == (0, 3)
    made = pb.ModelInferRequest(model_name="m", raw_input_contents=[b"\x80\x3f"])
    made.inputs.add(name="x", datatype="BF16", shape=[1])
    assert read(queries, made).inputs["x"].tolist() == [1.0]


def test_an_input_given_twice_is_refused(queries: Queries) -> None:
    made = request(np.zeros(3, np.float32))
    encode_inputs(made, {"x": np.ones(3, np.float32)})
    with pytest.raises(TensorError, match="given twice"):
        read(queries, made).inputs  # noqa: B018  # reading it raises


def test_plans_are_bounded_in_number_and_size(queries: Queries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_PLANS", 2)
    first = read(queries, request(np.zeros(1, np.uint8))).plan
    for size in (2, 3):
        read(queries, request(np.zeros(size, np.uint8)))
    assert read(queries, request(np.zeros(1, np.uint8))).plan is not first
    long = request(np.zeros(1, np.uint8))
    long.parameters["note"].string_param = "x" * 5000
    assert read(queries, long).plan is not read(queries, long).plan


@pytest.mark.parametrize("message", [b"\xff", b"\x0a\x05m", b"\x1a\x01\xff", b"\x2a\x02\xff\xff"])
def test_bytes_that_are_no_request_are_refused(queries: Queries, message: bytes) -> None:
    with pytest.raises(BadRequest, match="the message is no ModelInferRequest"):
        queries.read(message, ())


def test_a_refused_request_leaves_no_plan_behind(queries: Queries) -> None:
    for _ in range(2):
        with pytest.raises(UnknownModel):
            read(queries, request(np.zeros(1, np.uint8), model_name="n"))
        bad = request(np.zeros(1, np.uint8))
        bad.parameters["priority"].int64_param = 0
        with pytest.raises(BadRequest):
            read(queries, bad)


def test_types_and_shapes_are_checked_once_and_contents_always(queries: Queries) -> None:
    variant = _Variant(reads_contents=True)
    for text in (b"good", b"fine"):
        query = read(queries, request(np.array([text], np.object_)))
        check(query, "base", cast(Variant, variant))
        assert query.rows == 1
    assert variant.checked == 1
    with pytest.raises(VariantInputError, match="it is bad"):
        check(read(queries, request(np.array([b"bad"], np.object_))), "base", cast(Variant, variant))


def test_each_variant_checks_for_itself(queries: Queries) -> None:
    variants = [_Variant(), _Variant()]
    query = read(queries, request(np.zeros(3, np.float32)))
    for name, variant in zip("ab", variants, strict=True):
        check(query, name, cast(Variant, variant))
    assert [variant.checked for variant in variants] == [1, 1]


@pytest.mark.parametrize("name", ["sequence_id", "sequence_start", "sequence_end"])
def test_a_sequence_is_refused_by_variants_without_state_and_left_to_others(
    queries: Queries, name: str
) -> None:
    made = request(np.zeros(1, np.float32))
    made.parameters[name].int64_param = 1
    for _ in range(2):
        with pytest.raises(BadRequest, match=f"parameter {name} is given"):
            check(read(queries, made), "base", cast(Variant, _Variant()))
    check(read(queries, made), "far", cast(Variant, _Variant(keeps_no_state=False)))


@pytest.mark.parametrize(
    ("say", "told"),
    [
        (
            lambda made: made.parameters["temperature"],
            "'temperature' is given, .* knows priority, timeout: leave it",
        ),
        (lambda made: made.parameters["prioritiy"], "did you mean priority?"),
        (lambda made: made.inputs[0].parameters["scale"], "'scale' of input 'x' is given"),
        (
            lambda made: made.outputs.add(name="y").parameters["classification"],
            "classes are asked of output 'y'",
        ),
        (
            lambda made: made.outputs.add(name="y").parameters["shared_memory_region"],
            "shared memory, which is not",
        ),
        (lambda made: made.outputs.add(name="y").parameters["rounded"], "'rounded' of output 'y'"),
    ],
)
def test_what_a_variant_in_this_process_would_ignore_is_refused_and_left_to_others(
    queries: Queries, say: Callable[[pb.ModelInferRequest], pb.InferParameter], told: str
) -> None:
    made = request(np.zeros(1, np.float32))
    say(made).int64_param = 1
    for _ in range(2):
        with pytest.raises(BadRequest, match=told):
            check(read(queries, made), "base", cast(Variant, _Variant()))
    check(read(queries, made), "far", cast(Variant, _Variant(keeps_no_state=False)))


@pytest.mark.parametrize(
    "name", ["content_type", "headers", "x-trace", "triton_enable_empty_final_response", "priority"]
)
def test_what_clients_say_of_themselves_and_notes_of_their_own_are_let_in(
    queries: Queries, name: str
) -> None:
    made = request(np.zeros(1, np.float32))
    made.parameters[name].int64_param = 1
    check(read(queries, made), "base", cast(Variant, _Variant()))
