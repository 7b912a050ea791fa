import math

import numpy as np
import pytest

from anabranch.variants.errors import VariantError
from anabranch.variants.llm.fidelity import compare, kl_divergence

RNG = np.random.default_rng(2)
LOGITS = RNG.standard_normal((50, 20)).astype(np.float32)


def test_equal_logits_agree_and_do_not_diverge() -> None:
    found = compare([LOGITS[:20], LOGITS[20:]], [LOGITS[:20], LOGITS[20:]]).summary()
    assert (found.tokens, found.agreement, found.kl_mean, found.max_abs) == (50, 1.0, 0.0, 0.0)
    assert found.cosine_min == pytest.approx(1.0)
    assert found.cosine_mean <= 1.0


def test_divergence_is_that_of_the_two_distributions() -> None:
    first, second = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.5, 0.25])
    # Logits are logarithms of probabilities up to a constant.
    found = kl_divergence(
        np.log(first)[None].astype(np.float32) + 3, np.log(second)[None].astype(np.float32) - 2
    )
    assert found[0] == pytest.approx(0.5 * math.log(2) - 0.25 * math.log(2))


def test_agreement_counts_the_likeliest_tokens() -> None:
    other = LOGITS.copy()
    for row in range(10):
        other[row, (LOGITS[row].argmax() + 1) % 20] = 100
    found = compare([LOGITS], [other])
    assert found.summary().agreement == 0.8
    assert found.agrees.tolist() == [False] * 10 + [True] * 40


def test_logits_of_different_shapes_are_refused() -> None:
    with pytest.raises(VariantError, match="cannot be compared"):
        compare([LOGITS], [LOGITS[:10]])
    with pytest.raises(VariantError, match="no logits"):
        compare([], [])
