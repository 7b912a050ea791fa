"""Perplexity of a text, and its ratio to a reference's, with intervals."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from anabranch.variants.llm.description import Perplexity
from anabranch.variants.llm.generation import log_softmax

# Stretches of a text whose means are taken for independent.
_BATCHES = 16
# exp of more is infinite.
_LARGEST = 709.0


def losses(logits: NDArray[np.float32], tokens: Sequence[int]) -> NDArray[np.float64]:
    """Minus the logarithm of each token's probability.

    Args:
        logits: Shape (tokens, vocabulary).
        tokens: What came.
    """
    chosen: NDArray[np.float64] = -log_softmax(logits)[np.arange(len(tokens)), np.asarray(tokens)]
    return chosen


def perplexity(loss: NDArray[np.float64], reference: NDArray[np.float64]) -> Perplexity:
    """Perplexity, and its ratio to the reference's on the same tokens.

    Tokens depend on those before them, so the intervals are those of the means of long stretches. The ratio's is paired:
    it is narrower, because what is hard for one variant is hard for the other.

    Args:
        loss: One a token, in the order of the text.
        reference: The reference's losses of the same tokens.

    Source:
        Law 2014, Simulation modeling and analysis, 5th ed., section 9.5.3 (batch means).
    """
    mean, spread = _batch_means(loss)
    change, change_spread = _batch_means(loss - reference)
    return Perplexity(
        value=_exp(mean),
        low=_exp(mean - spread),
        high=_exp(mean + spread),
        tokens=len(loss),
        ratio=_exp(change),
        ratio_low=_exp(change - change_spread),
        ratio_high=_exp(change + change_spread),
    )


def _batch_means(values: NDArray[np.float64]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % interval."""
    means = np.array([part.mean() for part in np.array_split(values, min(_BATCHES, len(values)))])
    count = len(means)
    if count < 2:
        return float(values.mean()), math.inf
    return float(values.mean()), float(stdtrit(count - 1, 0.975)) * float(means.std(ddof=1)) / math.sqrt(
        count
    )


def _exp(value: float) -> float:
    """exp, where the result may be beyond any number."""
    return math.exp(value) if value < _LARGEST else math.inf
