from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from anabranch.variants.errors import ManifestError
from anabranch.variants.llm.blocks import dense
from anabranch.variants.llm.decoder import Decoder, DecoderShape, random_decoder
from anabranch.variants.llm.parallel.shards import read_shape, read_shard, shard, shard_shape, write_shards
from anabranch.variants.llm.recipes import TensorParallel, refusal

# Twelve heads of 32 numbers and 1,536 inner ones: the shape of the sentence encoder.
ENCODER = DecoderShape(
    layers=6, heads=12, kv_heads=12, head_size=32, width=384, inner=1_536, vocabulary=30_522, context=512
)
SMOLLM2 = DecoderShape(
    layers=30, heads=9, kv_heads=3, head_size=64, width=576, inner=1_536, vocabulary=49_152, context=8_192
)


def test_parts_of_a_layer_add_up_to_the_whole(decoder: Decoder) -> None:
    parts = [shard(decoder, 2, rank) for rank in range(2)]
    source = np.random.default_rng(1).standard_normal((5, decoder.shape.width)).astype(np.float32)

    def fed(weights: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        gate, up = (source @ weights[f"blk.0.ffn_{part}.weight"].T for part in ("gate", "up"))
        found: NDArray[np.float32] = (np.tanh(gate) * up) @ weights["blk.0.ffn_down.weight"].T
        return found

    whole = fed({name: dense(matrix) for name, matrix in decoder.weights.items()})
    np.testing.assert_allclose(fed(parts[0]) + fed(parts[1]), whole, atol=1e-4)


def test_a_shard_has_its_share_of_the_heads_and_all_of_the_width(decoder: Decoder) -> None:
    shape = shard_shape(decoder.shape, 2)
    assert (shape.heads, shape.kv_heads, shape.inner) == (2, 1, 64)
    weights = shard(decoder, 2, 1)
    assert weights["blk.0.attn_q.weight"].shape == (shape.query_width, shape.width)
    assert weights["blk.0.attn_output.weight"].shape == (shape.width, shape.query_width)
    assert weights["token_embd.weight"].shape == (shape.vocabulary, shape.width)


def test_shards_survive_their_files(decoder: Decoder, tmp_path: Path) -> None:
    names = write_shards(decoder, 2, tmp_path)
    assert names == ("shape.json", "rank-0.safetensors", "rank-1.safetensors")
    assert read_shape(tmp_path) == (2, shard_shape(decoder.shape, 2))
    for name, array in shard(decoder, 2, 1).items():
        assert np.array_equal(read_shard(tmp_path, 1)[name], array)


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="describes no shards"):
        read_shape(tmp_path)


@pytest.mark.parametrize(
    ("shape", "degree", "reason"),
    [
        (ENCODER, 2, ""),
        (ENCODER, 3, ""),
        (ENCODER, 4, ""),
        (SMOLLM2, 3, ""),
        (SMOLLM2, 2, "2 processes cannot share 3 key heads: the degree must divide them, so it can be 3"),
        (SMOLLM2, 4, "4 processes cannot share 3 key heads: the degree must divide them, so it can be 3"),
    ],
)
def test_the_degree_must_divide_the_key_heads(shape: DecoderShape, degree: int, reason: str) -> None:
    assert refusal(TensorParallel(degree=degree), shape) == reason


def test_the_degree_must_divide_the_inner_numbers() -> None:
    odd = random_decoder(
        DecoderShape(
            layers=1, heads=4, kv_heads=4, head_size=8, width=32, inner=66, vocabulary=32, context=64
        ),
        seed=1,
    )
    assert "66 inner numbers" in refusal(TensorParallel(degree=4), odd.shape)
