"""The binary forms of records as arrays: many are read at once, field by field."""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from anabranch.store.records import GENERATED_BYTES, PAIR_BYTES, ROUTED_BYTES

RecordArray: TypeAlias = npt.NDArray[np.void]

_ROUTED_FIELDS: Final = [
    ("at_s", "<f8"),
    ("sequence", "<u8"),
    ("unit", "V16"),
    ("experiment", "<u4"),
    ("epoch", "<u4"),
    ("latency_ms", "<f4"),
    ("queue_ms", "<f4"),
    ("compute_ms", "<f4"),
    ("propensity", "<f4"),
    ("batch_rows", "<u2"),
    ("arm", "u1"),
    ("flags", "u1"),
    ("status", "u1"),
    ("", "V3"),
]
ROUTED: Final = np.dtype(_ROUTED_FIELDS)
GENERATED: Final = np.dtype([*_ROUTED_FIELDS, ("first_token_ms", "<f4"), ("token_ms", "<f4")])
PAIR: Final = np.dtype(
    [
        ("at_s", "<f8"),
        ("sequence", "<u8"),
        ("experiment", "<u4"),
        ("epoch", "<u4"),
        ("baseline_top1", "<i4"),
        ("top1", "<i4"),
        ("max_abs", "<f4"),
        ("cosine", "<f4"),
        ("arm", "u1"),
        ("status", "u1"),
        ("agrees", "?"),
        ("", "V1"),
        ("kl", "<f4"),
    ]
)
assert (ROUTED.itemsize, GENERATED.itemsize, PAIR.itemsize) == (ROUTED_BYTES, GENERATED_BYTES, PAIR_BYTES)
