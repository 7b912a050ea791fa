"""Requests made of options and of what a model says it takes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anabranch.cli.bench.infer_request import build_request, parse_pairs
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import Array, decode_inputs

_Tensor = pb.ModelMetadataResponse.TensorMetadata

IMAGE = _Tensor(name="image", datatype="FP32", shape=[-1, 3, 4])
MASK = _Tensor(name="mask", datatype="INT64", shape=[-1, -1])
TEXT = _Tensor(name="text", datatype="BYTES", shape=[-1, 1])


def _arrays(inputs: Sequence[_Tensor], **options: Any) -> dict[str, Array]:
    chosen = {"given": {}, "text": None, "tensor_bytes": None, **options}
    request = pb.ModelInferRequest.FromString(build_request("m", inputs, **chosen))
    assert request.model_name == "m"
    return decode_inputs(request)


def test_without_options_every_input_is_zeros_of_the_smallest_shape() -> None:
    arrays = _arrays([IMAGE, MASK])
    assert {name: (array.dtype.name, array.shape) for name, array in arrays.items()} == {
        "image": ("float32", (1, 3, 4)),
        "mask": ("int64", (1, 1)),
    }
    assert not arrays["image"].any()


def test_a_model_of_texts_or_numbers_gets_numbers() -> None:
    assert list(_arrays([TEXT, IMAGE])) == ["image"]
    assert _arrays([TEXT])["text"].tolist() == [[b""]]


def test_a_text_goes_to_the_one_input_of_texts() -> None:
    assert _arrays([IMAGE, TEXT], text="fine film")["text"].tolist() == [[b"fine film"]]
    with pytest.raises(CommandFailed, match="has: none"):
        _arrays([IMAGE], text="fine film")


@pytest.mark.parametrize(("size", "shape"), [(65_536, (1365, 3, 4)), (1, (1, 3, 4))])
def test_the_first_input_can_be_grown(size: int, shape: tuple[int, ...]) -> None:
    assert _arrays([IMAGE, MASK], tensor_bytes=size)["image"].shape == shape
    assert _arrays([MASK], tensor_bytes=8000)["mask"].shape == (1, 1000)


def test_a_model_of_fixed_shapes_cannot_be_grown() -> None:
    with pytest.raises(CommandFailed, match="the model has none"):
        _arrays([_Tensor(name="x", datatype="FP32", shape=[1, 4])], tensor_bytes=100)


def test_inputs_are_read_from_json_and_from_files(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", np.ones((2, 3, 4), np.float32))
    given = {"mask": "[[1, 2, 3]]", "image": f"@{tmp_path / 'image.npy'}", "text": '[["a", "ü"]]'}
    arrays = _arrays([IMAGE, MASK, TEXT], given=given)
    assert arrays["mask"].tolist() == [[1, 2, 3]]
    assert arrays["image"].shape == (2, 3, 4)
    assert arrays["text"].tolist() == [[b"a", "ü".encode()]]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"imagf": "[1]"}, "did you mean image"),
        ({"image": "[1, [2]]"}, "is no FP32"),
        ({"image": "one"}, "is no FP32"),
        ({"image": "@/no/such.npy"}, "No such file"),
        ({"text": "[1]"}, "needs bytes or text"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(given: dict[str, str], says: str) -> None:
    with pytest.raises(CommandFailed, match=says) as caught:
        _arrays([IMAGE, TEXT], given=given)
    assert caught.value.code is ExitCode.BAD_INPUT


def test_a_model_without_inputs_needs_them_given() -> None:
    with pytest.raises(CommandFailed, match="names no inputs"):
        _arrays([])


def test_pairs_need_a_name_and_may_hold_further_signs() -> None:
    assert parse_pairs(["a=1", "b=c=d", "e="], "--input") == {"a": "1", "b": "c=d", "e": ""}
    with pytest.raises(CommandFailed, match=r"--input is '=1': give NAME=VALUE"):
        parse_pairs(["=1"], "--input")
