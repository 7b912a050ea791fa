"""Keys and values in low bits: 32 numbers of one token share a scale and a minimum, which lie behind their codes.

A row of the cache is bytes: codes, then a scale and a minimum in FP16 for each group. What a token costs depends on that
token alone, so nothing has to be calibrated.

Source:
    Liu et al. 2024, KIVI; for values its scheme, for keys per token as well.
"""

import torch
from torch import Tensor

from anabranch.variants.llm.blocks import BLOCK

GROUP = BLOCK
# By name, not by number: torch's compiler takes a number that changes between two decoders for one that always may.
BITS = {"int8": 8, "int4": 4}
_NOTE_BYTES = 4


def row_bytes(size: int, kind: str) -> int:
    """Bytes of one head in a row."""
    return size * BITS[kind] // 8 + size // GROUP * _NOTE_BYTES


def put(numbers: Tensor, kind: str) -> Tensor:
    """Bytes of numbers, shape (..., size) to (..., row_bytes); `kind` is one of `BITS`."""
    bits = BITS[kind]
    groups = _groups(numbers.float(), GROUP)
    low, high = groups.aminmax(dim=-1, keepdim=True)
    # Rounded as they are kept, so that codes fit what will be read.
    low = low.half().float()
    scale = ((high - low) / ((1 << bits) - 1)).clamp_min(1e-7).half().float()
    codes = ((groups - low) / scale).round().clamp(0, (1 << bits) - 1).to(torch.uint8).flatten(-2)
    if bits == 4:
        codes = codes[..., 0::2] | (codes[..., 1::2] << 4)
    notes = torch.cat((scale, low), dim=-1).half().flatten(-2).contiguous().view(torch.uint8)
    return torch.cat((codes, notes), dim=-1)


def take(rows: Tensor, kind: str, size: int) -> Tensor:
    """Numbers in FP16, shape (..., row_bytes) to (..., size)."""
    bits = BITS[kind]
    cut = size * bits // 8
    codes, notes = rows[..., :cut], rows[..., cut:].contiguous().view(torch.float16)
    if bits == 4:
        codes = torch.stack((codes & 15, codes >> 4), dim=-1).flatten(-2)
    scales, lows = _groups(notes, 2).unbind(-1)
    groups = _groups(codes, GROUP).half()
    numbers: Tensor = (groups * scales[..., None] + lows[..., None]).flatten(-2)
    return numbers


def _groups(values: Tensor, size: int) -> Tensor:
    return values.view(*values.shape[:-1], -1, size)
