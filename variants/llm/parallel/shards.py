"""Cut a decoder across processes: heads and inner numbers are dealt out, so that every layer needs two sums.

A shard is a decoder with fewer heads and a narrower feed-forward block; what its attention and its feed-forward block give
are parts that must be added to the other shards'. Norms, the embedding and the output matrix are in every shard.

Source:
    Shoeybi et al. 2019, Megatron-LM, section 3.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anabranch.variants.errors import ManifestError
from anabranch.variants.llm.blocks import dense
from anabranch.variants.llm.decoder import Decoder, DecoderShape
from anabranch.variants.safetensors_file import load_tensors, save_tensors

SHAPE = "shape.json"
# Matrices whose outputs are dealt out, and those whose inputs are.
_BY_OUTPUTS = ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up")
_BY_INPUTS = ("attn_output", "ffn_down")


def shard_name(rank: int) -> str:
    """The file of one process's weights."""
    return f"rank-{rank}.safetensors"


def shard_shape(shape: DecoderShape, degree: int) -> DecoderShape:
    """The sizes of one of `degree` shards; the degree divides the key heads and the inner numbers."""
    return replace(
        shape,
        heads=shape.heads // degree,
        kv_heads=shape.kv_heads // degree,
        inner=shape.inner // degree,
    )


def shard(decoder: Decoder, degree: int, rank: int) -> dict[str, NDArray[np.float32]]:
    """The weights of one process, in FP32.

    Args:
        decoder: The whole decoder.
        degree: Processes; divides the key heads and the inner numbers.
        rank: Which of them, from 0.
    """
    return {name: _cut(name, dense(matrix), degree, rank) for name, matrix in decoder.weights.items()}


def _cut(name: str, matrix: NDArray[np.float32], degree: int, rank: int) -> NDArray[np.float32]:
    part = name.removesuffix(".weight").rpartition(".")[2]
    # Heads lie one after the other, so that equal stretches are whole heads.
    if part in _BY_OUTPUTS:
        return np.split(matrix, degree, axis=0)[rank]
    if part in _BY_INPUTS:
        return np.split(matrix, degree, axis=1)[rank]
    return matrix


def write_shards(decoder: Decoder, degree: int, folder: Path) -> tuple[str, ...]:
    """Write every process's weights and the sizes they share; return the names of the files."""
    for rank in range(degree):
        save_tensors(folder / shard_name(rank), shard(decoder, degree, rank))
    shape = shard_shape(decoder.shape, degree)
    (folder / SHAPE).write_text(json.dumps({"degree": degree, **asdict(shape)}, indent=2) + "\n")
    return (SHAPE, *(shard_name(rank) for rank in range(degree)))


def read_shape(folder: Path) -> tuple[int, DecoderShape]:
    """The degree, and the sizes of one shard.

    Raises:
        ManifestError: The folder holds no shards.
    """
    path = folder / SHAPE
    try:
        values = json.loads(path.read_text())
        degree = int(values.pop("degree"))
        return degree, DecoderShape(**values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{path} describes no shards ({error!r}): build the variant again") from error


def read_shard(folder: Path, rank: int) -> dict[str, NDArray[np.float32]]:
    """One process's weights."""
    return load_tensors(folder / shard_name(rank))
