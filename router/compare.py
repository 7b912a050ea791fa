"""Compare two replies to one input: the numbers of a paired outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from anabranch.variants.tensors import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How alike two replies are.

    Attributes:
        agrees: Whether every row's top class is the same; without scores, whether the outputs are equal.
        max_abs: Largest absolute difference of the scores.
        cosine: Smallest cosine similarity of a row of scores.
        token_agreement: Share of the tokens of a generated answer on which both agree; None of other answers.
        kl: Mean divergence of their next tokens from the baseline's, in nats; None of other answers.
    """

    agrees: bool
    max_abs: float
    cosine: float
    token_agreement: float | None = None
    kl: float | None = None


def scores(outputs: Mapping[str, Array]) -> Array | None:
    """The output that classes are read from: the first floating one with at least two columns."""
    for array in outputs.values():
        if array.dtype.kind == "f" and array.ndim >= 2 and array.shape[-1] >= 2 and array.size:
            return array.reshape(-1, array.shape[-1])
    return None


def top1(outputs: Mapping[str, Array]) -> int:
    """The class of the first row, -1 when the outputs hold no scores."""
    rows = scores(outputs)
    return -1 if rows is None else int(rows[0].argmax())


def compare(first: Mapping[str, Array], second: Mapping[str, Array]) -> Comparison:
    """Compare a candidate's outputs with the baseline's."""
    ours, theirs = scores(first), scores(second)
    if ours is None or theirs is None or ours.shape != theirs.shape:
        same = first.keys() == second.keys() and all(
            np.array_equal(first[name], second[name]) for name in first
        )
        return Comparison(agrees=same, max_abs=0.0 if same else float("inf"), cosine=1.0 if same else -1.0)
    left, right = ours.astype(np.float64), theirs.astype(np.float64)
    # What is no number has no class: argmax would take it for the largest.
    agrees = bool((left.argmax(axis=1) == right.argmax(axis=1)).all()) and not np.isnan(left).any()
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        same = np.array_equal(left, right)
        return Comparison(agrees=agrees, max_abs=0.0 if same else float("inf"), cosine=1.0 if same else -1.0)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosines = np.divide((left * right).sum(axis=1), norms, out=np.ones_like(norms), where=norms > 0)
    return Comparison(agrees=agrees, max_abs=float(np.abs(left - right).max()), cosine=float(cosines.min()))
