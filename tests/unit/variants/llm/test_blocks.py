import numpy as np
import pytest

from anabranch.variants.errors import BuildError
from anabranch.variants.llm.blocks import BLOCK, Blocks, Matrix, quantize, stack_rows

WEIGHTS = np.random.default_rng(3).standard_normal((6, 4 * BLOCK)).astype(np.float32)


@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_moves_a_weight_by_at_most_half_a_step(bits: int) -> None:
    blocks = quantize(WEIGHTS, bits)
    # With 8 bits the range is moved to put zero on a level: up to one step more at its ends.
    steps = 0.5 if bits == 4 else 1.0
    moved = np.abs(blocks.dense() - WEIGHTS).reshape(6, -1, BLOCK).max(axis=2)
    assert (moved <= steps * blocks.scales + 1e-6).all()
    assert blocks.codes.max() < 1 << bits


def test_a_block_of_equal_weights_is_exact() -> None:
    weights = np.full((1, BLOCK), 0.3, np.float32)
    assert np.array_equal(quantize(weights, 4).dense(), weights)


@pytest.mark.parametrize("offset", [0.0, 5.0, -5.0])
def test_zero_points_and_remainders_make_the_same_weights(offset: float) -> None:
    blocks = quantize(WEIGHTS + np.float32(offset), 4)
    codes = blocks.codes.reshape(6, -1, BLOCK).astype(np.float32)
    points = blocks.zero_points()[..., None].astype(np.float32)
    again = (codes - points) * blocks.scales[..., None] + blocks.remainders()[..., None]
    np.testing.assert_allclose(again.reshape(WEIGHTS.shape), blocks.dense(), atol=1e-5)


def test_eight_bits_leave_no_remainder() -> None:
    assert np.abs(quantize(WEIGHTS, 8).remainders()).max() < 1e-6


def test_two_codes_of_four_bits_share_a_byte_the_first_in_its_lower_half() -> None:
    codes = np.arange(BLOCK, dtype=np.uint8)[None] % 16
    ones = np.ones((1, 1), np.float32)
    packed = Blocks(bits=4, codes=codes, scales=ones, minimums=ones).packed()
    assert packed.shape == (1, 1, BLOCK // 2)
    assert packed[0, 0, :2].tolist() == [0x10, 0x32]


def test_stacked_blocks_of_the_same_bits_stay_blocks() -> None:
    blocks = quantize(WEIGHTS, 4)
    stacked = stack_rows([blocks, blocks])
    assert isinstance(stacked, Blocks)
    assert np.array_equal(stacked.dense(), np.concatenate([blocks.dense(), blocks.dense()]))


def test_stacked_matrices_of_different_kinds_become_dense() -> None:
    mixed: list[Matrix] = [quantize(WEIGHTS, 4), quantize(WEIGHTS, 8), WEIGHTS]
    stacked = stack_rows(mixed)
    assert isinstance(stacked, np.ndarray)
    assert stacked.shape == (18, WEIGHTS.shape[1])


def test_columns_that_are_no_whole_blocks_are_refused() -> None:
    with pytest.raises(BuildError, match="33 columns, blocks need a multiple of 32"):
        quantize(np.zeros((1, 33), np.float32), 4)
