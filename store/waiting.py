"""Requests that wait for their labels, in the form they are kept in: a batch of one lane, column by column, compressed."""

from __future__ import annotations

import struct
import zlib
from typing import Final

import numpy as np

from anabranch.store.record_arrays import RecordArray

WAITING: Final = np.dtype(
    [("sequence", "<u8"), ("at_ms", "<i8"), ("epoch", "<u4"), ("arm", "u1"), ("sampled", "?")]
)
"""A request that is evidence of the split; `sampled` ones have their class judged in the pairs."""
WAITING_PAIR: Final = np.dtype(
    [
        ("sequence", "<u8"),
        ("at_ms", "<i8"),
        ("epoch", "<u4"),
        ("arm", "u1"),
        ("baseline_top1", "<i4"),
        ("top1", "<i4"),
    ]
)
"""A compared reply; `top1` is -1 where the candidate did not answer."""

_COUNTS: Final = struct.Struct("<II")
_RISING: Final = ("sequence", "at_ms")


def pack(requests: RecordArray, pairs: RecordArray) -> bytes:
    """The bytes of a batch: a few for each request, since what rises is kept as differences.

    Args:
        requests: Of `WAITING`.
        pairs: Of `WAITING_PAIR`.
    """
    parts = [_COUNTS.pack(len(requests), len(pairs))]
    for rows in (requests, pairs):
        for name in rows.dtype.names or ():
            column = np.ascontiguousarray(rows[name])
            parts.append(
                np.diff(column, prepend=column.dtype.type(0)).tobytes()
                if name in _RISING
                else column.tobytes()
            )
    return zlib.compress(b"".join(parts))


def unpack(body: bytes) -> tuple[RecordArray, RecordArray]:
    """The requests and the pairs of a batch, as they were packed."""
    data = zlib.decompress(body)
    at = _COUNTS.size
    found = []
    for dtype, count in zip((WAITING, WAITING_PAIR), _COUNTS.unpack_from(data), strict=True):
        rows = np.zeros(count, dtype)
        for name in dtype.names or ():
            column = np.frombuffer(data, dtype[name], count, at)
            at += column.nbytes
            rows[name] = np.cumsum(column, dtype=column.dtype) if name in _RISING else column
        found.append(rows)
    return found[0], found[1]
