import numpy as np
import pytest

from anabranch.variants.errors import VariantInputError
from anabranch.variants.tensors import Datatype, RequestCheck, Signature, TensorSpec, datatype_of

PIXELS = TensorSpec(name="pixels", datatype=Datatype.FP32, shape=(-1, 4))
SCALE = TensorSpec(name="scale", datatype=Datatype.INT64, shape=(-1,))
FIXED = TensorSpec(name="image", datatype=Datatype.UINT8, shape=(2, 3))
PAIR = Signature(name="pair", inputs=(PIXELS, SCALE))
CHECK = RequestCheck.of((PAIR, Signature(name="fixed", inputs=(FIXED,))))


def test_a_request_that_fits_has_as_many_rows_as_its_first_dimension() -> None:
    assert CHECK.rows({"pixels": np.zeros((3, 4), np.float32), "scale": np.zeros(3, np.int64)}) == 3


def test_an_input_without_an_open_first_dimension_is_one_row() -> None:
    assert CHECK.rows({"image": np.zeros((2, 3), np.uint8)}) == 1


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"pixels": np.zeros((1, 4), np.float32)}, ["['pixels']", "['pixels', 'scale'] or ['image']"]),
        ({"pixel": np.zeros((1, 4), np.float32), "scale": np.zeros(1, np.int64)}, ["'pixel'", "'pixels'"]),
        ({"pixels": np.zeros((1, 4)), "scale": np.zeros(1, np.int64)}, ["float64", "FP32"]),
        ({"pixels": np.zeros((1, 5), np.float32), "scale": np.zeros(1, np.int64)}, ["[1, 5]", "[-1, 4]"]),
        ({"pixels": np.zeros(4, np.float32), "scale": np.zeros(1, np.int64)}, ["[4]", "[-1, 4]"]),
        (
            {"pixels": np.zeros((0, 4), np.float32), "scale": np.zeros(0, np.int64)},
            ["[0, 4]", "at least one"],
        ),
        ({"pixels": np.zeros((2, 4), np.float32), "scale": np.zeros(3, np.int64)}, ["3 rows", "2"]),
        ({"image": np.zeros((2, 4), np.uint8)}, ["[2, 4]", "[2, 3]"]),
    ],
)
def test_a_request_that_does_not_fit_is_refused_with_both_sides(
    request_: dict[str, np.ndarray], words: list[str]
) -> None:
    with pytest.raises(VariantInputError) as refused:
        CHECK.rows(request_)
    for word in words:
        assert word in str(refused.value)


def test_every_datatype_is_found_by_its_numpy_dtype() -> None:
    assert [datatype_of(datatype.dtype) for datatype in Datatype] == list(Datatype)


def test_a_dtype_outside_the_protocol_is_refused() -> None:
    with pytest.raises(VariantInputError, match="complex64"):
        datatype_of(np.dtype(np.complex64))
