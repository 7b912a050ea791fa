"""Tensors to arrays and back."""

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.scan import raw_contents
from anabranch.proto.tensors import (
    DTYPES,
    TensorError,
    datatype_of,
    decode_inputs,
    decode_outputs,
    decode_raw,
    encode_inputs,
    encode_outputs,
    encode_raw,
)

_NUMERIC = [name for name in DTYPES if name not in ("BYTES", "BF16")]
_shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


def _random_array(draw: st.DrawFn, datatype: str) -> npt.NDArray[Any]:
    shape = draw(_shapes)
    if datatype == "BYTES":
        array = np.empty(shape, np.object_)
        array.ravel()[:] = draw(st.lists(st.binary(max_size=9), min_size=array.size, max_size=array.size))
        return array
    return draw(hnp.arrays(DTYPES[datatype], shape))


@st.composite
def _inputs(draw: st.DrawFn) -> dict[str, npt.NDArray[Any]]:
    names = draw(st.lists(st.sampled_from("abcdef"), unique=True, max_size=4))
    return {name: _random_array(draw, draw(st.sampled_from([*_NUMERIC, "BYTES"]))) for name in names}


def _same(left: dict[str, npt.NDArray[Any]], right: dict[str, npt.NDArray[Any]]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        # Bytes rather than values, so that NaN and the sign of zero count.
        and (
            left[name].tolist() == right[name].tolist()
            if left[name].dtype == object
            else left[name].tobytes() == right[name].tobytes()
        )
        for name in left
    )


@given(_inputs())
@settings(derandomize=True, deadline=None, max_examples=200)
def test_inputs_come_back_as_they_were_sent(arrays: dict[str, npt.NDArray[Any]]) -> None:
    request = pb.ModelInferRequest()
    encode_inputs(request, arrays)
    data = request.SerializeToString()
    assert _same(decode_inputs(pb.ModelInferRequest.FromString(data)), arrays)
    assert _same(decode_inputs(request, raw_contents(data)), arrays)


@given(_inputs())
@settings(derandomize=True, deadline=None, max_examples=50)
def test_outputs_come_back_as_they_were_sent(arrays: dict[str, npt.NDArray[Any]]) -> None:
    response = pb.ModelInferResponse()
    encode_outputs(response, arrays)
    data = response.SerializeToString()
    assert _same(decode_outputs(response), arrays)
    assert _same(decode_outputs(response, raw_contents(data, response=True)), arrays)


def test_raw_contents_are_not_copied() -> None:
    raw = np.arange(6, dtype="<f4").tobytes()
    array = decode_raw("input 'x'", "FP32", [2, 3], raw)
    assert np.shares_memory(array, np.frombuffer(raw, np.uint8))
    assert not array.flags.writeable


def test_raw_contents_at_an_odd_address_become_aligned() -> None:
    data = b"?" + np.arange(6, dtype="<f8").tobytes()
    views = [memoryview(data)[start : start + 40] for start in range(8)]
    assert all(decode_raw("input 'x'", "FP64", [5], view).flags.aligned for view in views)
    assert decode_raw("input 'x'", "FP64", [5], views[1]).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("datatype", _NUMERIC)
def test_typed_contents_of_every_datatype_are_read(datatype: str) -> None:
    values = [True, False] if datatype == "BOOL" else [1, 2]
    field = {"B": "bool", "I": "int", "U": "uint", "F": "fp"}[datatype[0]]
    field += (
        datatype[-2:] if datatype[-2:] in ("64", "32") and (datatype[-2:] == "64" or field == "fp") else ""
    )
    request = pb.ModelInferRequest()
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[2])
    if datatype == "FP16":
        with pytest.raises(TensorError, match="FP16 has no typed contents: send raw contents"):
            decode_inputs(request)
        return
    getattr(tensor.contents, f"{field}_contents").extend(values)
    array = decode_inputs(request)["x"]
    assert array.dtype == DTYPES[datatype]
    assert array.tolist() == values


def test_typed_bytes_are_read() -> None:
    request = pb.ModelInferRequest()
    request.inputs.add(name="x", datatype="BYTES", shape=[2, 1]).contents.bytes_contents.extend([b"a\0", b""])
    assert decode_inputs(request)["x"].tolist() == [[b"a\0"], [b""]]


def test_typed_integers_beyond_their_datatype_are_refused() -> None:
    request = pb.ModelInferRequest()
    request.inputs.add(name="x", datatype="INT8", shape=[2]).contents.int_contents.extend([-129, 5])
    with pytest.raises(TensorError, match="elements from -129 to 5, INT8 holds -128 to 127"):
        decode_inputs(request)


@given(hnp.arrays(np.dtype("<f4"), hnp.array_shapes(max_side=5), elements=st.floats(width=32)))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_bf16_is_the_nearest_of_its_values(array: npt.NDArray[np.float32]) -> None:
    raw = encode_raw("input 'x'", "BF16", array)
    wanted = array.astype(ml_dtypes.bfloat16).astype(np.float32)
    got = decode_raw("input 'x'", "BF16", array.shape, raw)
    np.testing.assert_array_equal(got, wanted)


def test_bf16_rounds_to_even_and_keeps_infinities_and_nan() -> None:
    # Bits of float32: halfway cases below and above an even and an odd BF16, the largest float, both infinities, a NaN.
    bits = np.array(
        [0x3F80_8000, 0x3F81_8000, 0x3F80_8001, 0x7F7F_FFFF, 0x7F80_0000, 0xFF80_0000, 0x7F80_0001], "<u4"
    )
    encoded = np.frombuffer(encode_raw("input 'x'", "BF16", bits.view("<f4")), "<u2")
    assert [hex(value) for value in encoded] == [
        "0x3f80",
        "0x3f82",
        "0x3f81",
        "0x7f80",
        "0x7f80",
        "0xff80",
        "0x7fc0",
    ]


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "message"),
    [
        ("FP32", [2, 4], b"x" * 12, r"input 'x': 12 bytes given, FP32 \[2, 4\] needs 32"),
        ("BF16", [2], b"x" * 8, r"input 'x': 8 bytes given, BF16 \[2\] needs 4"),
        ("FP8", [1], b"x", r"input 'x': datatype 'FP8' is unknown: use one of BOOL, "),
        ("FP32", [-1], b"", r"input 'x': shape \[-1\] has a negative size: give the actual sizes"),
        (
            "BYTES",
            [1 << 40],
            b"abc",
            r"input 'x': 3 bytes given, BYTES \[1099511627776\] needs at least 4398046511104",
        ),
        ("BYTES", [2], b"\2\0\0\0ab\7\0\0\0a", r"BYTES \[2\] needs 2 elements"),
        (
            "BYTES",
            [1],
            b"\2\0\0\0abc",
            r"input 'x': 7 bytes given, of which the lengths of 1 elements account for 6",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_its_description_is_refused_with_both_numbers(
    datatype: str, shape: list[int], raw: bytes, message: str
) -> None:
    with pytest.raises(TensorError, match=message):
        decode_raw("input 'x'", datatype, shape, raw)


@given(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(-1, 5), max_size=3), st.binary(max_size=64))
@settings(derandomize=True, deadline=None, max_examples=500)
def test_arbitrary_contents_become_an_array_of_the_shape_or_a_tensor_error(
    datatype: str, shape: list[int], raw: bytes
) -> None:
    try:
        array = decode_raw("input 'x'", datatype, shape, raw)
    except TensorError:
        return
    assert array.shape == tuple(shape)
    assert encode_raw("input 'x'", datatype, array) == raw or np.isnan(array.astype("f8")).any()


def test_requests_that_contradict_themselves_are_refused() -> None:
    request = pb.ModelInferRequest()
    request.inputs.add(name="x", datatype="FP32", shape=[1])
    request.inputs.add(name="x", datatype="FP32", shape=[1])
    request.raw_input_contents.append(b"1234")
    with pytest.raises(TensorError, match="1 raw contents given for 2 inputs"):
        decode_inputs(request)
    request.raw_input_contents.append(b"1234")
    with pytest.raises(TensorError, match="input 'x' is given twice"):
        decode_inputs(request)
    request.inputs[1].name = "y"
    request.inputs[1].contents.fp32_contents.append(1)
    with pytest.raises(TensorError, match="input 'y' has raw and typed contents: give one"):
        decode_inputs(request)
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    with pytest.raises(TensorError, match="input 'x' is in shared memory, which is not served"):
        decode_inputs(request)


def test_a_shape_that_disagrees_with_typed_contents_is_refused() -> None:
    request = pb.ModelInferRequest()
    request.inputs.add(name="x", datatype="FP32", shape=[3]).contents.fp32_contents.extend([1, 2])
    with pytest.raises(TensorError, match=r"input 'x': 2 elements in fp32_contents, FP32 \[3\] needs 3"):
        decode_inputs(request)


def test_encoding_casts_safely_and_refuses_to_lose_digits() -> None:
    assert encode_raw("output 'y'", "FP64", np.array([1], np.float32)) == np.array([1.0]).tobytes()
    with pytest.raises(TensorError, match="output 'y': an array of float64 given, FP32 needs float32"):
        encode_raw("output 'y'", "FP32", np.array([0.1]))


def test_text_arrays_are_bytes_tensors() -> None:
    array = np.array(["ä", "b"])
    assert datatype_of(array.dtype) == "BYTES"
    assert encode_raw("output 'y'", "BYTES", array) == b"\2\0\0\0\xc3\xa4\1\0\0\0b"
    with pytest.raises(TensorError, match="an element of type float given, BYTES needs bytes or text"):
        encode_raw("output 'y'", "BYTES", np.array([1.5], object))


def test_numpy_types_without_a_datatype_are_refused() -> None:
    with pytest.raises(TensorError, match="numpy type complex64 has no datatype"):
        datatype_of(np.dtype(np.complex64))
    assert datatype_of(np.dtype(">f4")) == "FP32"


def test_contents_without_anything_in_them_are_none_beside_raw_ones() -> None:
    response = pb.ModelInferResponse(raw_output_contents=[bytes(8)])
    output = response.outputs.add(name="y", datatype="FP32", shape=[2])
    output.contents.SetInParent()
    assert decode_outputs(response)["y"].tolist() == [0.0, 0.0]
