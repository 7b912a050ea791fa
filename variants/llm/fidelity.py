"""How far a variant's next tokens are from the baseline's, on the same prefix: agreement and divergence a token."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from anabranch.variants.errors import VariantError
from anabranch.variants.llm.description import TokenFidelity
from anabranch.variants.llm.generation import log_softmax

Logits: TypeAlias = Iterable[NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Two variants, token by token.

    Args:
        agrees: Whether both find the same token the likeliest, shape (tokens,).
        kl: KL(baseline || variant) in nats, shape (tokens,).
        cosines: Cosine of the logits, shape (tokens,).
        max_abs: Largest difference of a logit.
    """

    agrees: NDArray[np.bool_]
    kl: NDArray[np.float64]
    cosines: NDArray[np.float64]
    max_abs: float

    def summary(self) -> TokenFidelity:
        """What a manifest says of it."""
        return TokenFidelity(
            tokens=len(self.kl),
            agreement=float(self.agrees.mean()),
            kl_mean=float(self.kl.mean()),
            kl_p99=float(np.percentile(self.kl, 99)),
            max_abs=self.max_abs,
            cosine_mean=float(self.cosines.mean()),
            cosine_min=float(self.cosines.min()),
        )


def compare(baseline: Logits, variant: Logits) -> Compared:
    """Compare chunk by chunk, so that never more than one chunk of each is in memory.

    Args:
        baseline: Chunks of shape (tokens, vocabulary).
        variant: Chunks of the same shapes.

    Raises:
        VariantError: They are not of the same shapes, or there are none.
    """
    agrees: list[NDArray[np.bool_]] = []
    kls: list[NDArray[np.float64]] = []
    cosines: list[NDArray[np.float64]] = []
    max_abs = 0.0
    for ours, theirs in zip(baseline, variant, strict=True):
        if ours.shape != theirs.shape:
            raise VariantError(f"logits of shapes {ours.shape} and {theirs.shape} cannot be compared")
        agrees.append(ours.argmax(axis=1) == theirs.argmax(axis=1))
        kls.append(kl_divergence(ours, theirs))
        cosines.append(_cosines(ours, theirs))
        max_abs = max(max_abs, float(np.abs(ours - theirs).max()))
    if not agrees:
        raise VariantError("there are no logits to compare: give at least two tokens")
    return Compared(
        agrees=np.concatenate(agrees),
        kl=np.concatenate(kls),
        cosines=np.concatenate(cosines),
        max_abs=max_abs,
    )


def kl_divergence(baseline: NDArray[np.float32], variant: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL(baseline || variant) of every token's distribution, in nats.

    Args:
        baseline: Logits, shape (tokens, vocabulary).
        variant: Logits of the same shape.
    """
    left, right = log_softmax(baseline), log_softmax(variant)
    # Rounding may leave a sum of zero a little below it.
    found: NDArray[np.float64] = np.maximum((np.exp(left) * (left - right)).sum(axis=1), 0.0)
    return found


def _cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    first, second = left.astype(np.float64), right.astype(np.float64)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    # Rounding may put equal directions a little beyond 1.
    found: NDArray[np.float64] = np.minimum(
        (first * second).sum(axis=1) / np.where(norms > 0, norms, 1.0), 1.0
    )
    return found
