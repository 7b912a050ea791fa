"""Compare two replies to one input: the numbers of a paired outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from anabranch.variants.class_scores import score_tensor
from anabranch.variants.tensors import Array

# Of the sums of probabilities in half precision.
_SUM_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How alike two replies are.

    Attributes:
        agrees: Whether every row's top class is the same; without scores, whether the outputs are equal.
        max_abs: Largest absolute difference of the scores.
        cosine: Smallest cosine similarity of a row of scores.
        token_agreement: Share of the tokens of a generated answer on which both agree; None of other answers.
        kl: Mean Kullback-Leibler divergence from the baseline's rows, in nats: of classes, or of a text's next tokens.
            None where the outputs are no scores.
    """

    agrees: bool
    max_abs: float
    cosine: float
    token_agreement: float | None = None
    kl: float | None = None


def scores(outputs: Mapping[str, Array]) -> Array | None:
    """The rows of the output that classes are read from; None where there is none."""
    name = score_tensor(outputs)
    return None if name is None else outputs[name].reshape(-1, outputs[name].shape[-1])


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
        return Comparison(
            agrees=same,
            max_abs=0.0 if same else float("inf"),
            cosine=1.0 if same else -1.0,
            kl=None if theirs is None else float("inf"),
        )
    left, right = ours.astype(np.float64), theirs.astype(np.float64)
    # What is no number has no class: argmax would take it for the largest.
    agrees = bool((left.argmax(axis=1) == right.argmax(axis=1)).all()) and not np.isnan(left).any()
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        same = np.array_equal(left, right)
        return Comparison(
            agrees=agrees,
            max_abs=0.0 if same else float("inf"),
            cosine=1.0 if same else -1.0,
            kl=0.0 if same else float("inf"),
        )
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosines = np.divide((left * right).sum(axis=1), norms, out=np.ones_like(norms), where=norms > 0)
    return Comparison(
        agrees=agrees,
        max_abs=float(np.abs(left - right).max()),
        cosine=float(cosines.min()),
        kl=_divergence(right, left),
    )


def _divergence(reference: Array, other: Array) -> float:
    """The mean over rows of the sum of p (log p - log q), where p are the reference's classes."""
    log_p, log_q = _log_probabilities(reference), _log_probabilities(other)
    # A class without probability adds nothing, whatever the other says of it.
    with np.errstate(invalid="ignore"):
        terms = np.where(np.isneginf(log_p), 0.0, np.exp(log_p) * (log_p - log_q))
    return max(float(terms.sum(axis=1).mean()), 0.0)


def _log_probabilities(rows: Array) -> Array:
    """Logarithms of the probabilities of classes; scores that are none yet are taken for logits."""
    if (rows >= 0).all() and np.allclose(rows.sum(axis=1), 1.0, atol=_SUM_TOLERANCE):
        with np.errstate(divide="ignore"):
            return np.log(rows)
    shifted = rows - rows.max(axis=1, keepdims=True)
    normed: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normed
