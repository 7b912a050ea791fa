import math

import numpy as np
import pytest

from anabranch.variants.llm.perplexity import losses, perplexity


def test_a_loss_is_minus_the_logarithm_of_a_probability() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], np.float32))
    np.testing.assert_allclose(losses(logits, [0, 1]), [-math.log(0.7), -math.log(0.1)], rtol=1e-6)


def test_perplexity_of_even_odds_is_their_number() -> None:
    loss = np.full(64, math.log(8))
    found = perplexity(loss, loss)
    assert found.value == pytest.approx(8)
    assert found.low == pytest.approx(found.high)
    assert (found.ratio, found.tokens) == (1.0, 64)


def test_intervals_hold_as_often_as_they_say_for_losses_that_depend_on_each_other() -> None:
    rng = np.random.default_rng(11)
    held = 0
    for _ in range(400):
        noise = rng.standard_normal(1_601)
        # A moving average: neighbours correlate by a half, the mean is 2.
        loss = 2 + (noise[1:] + noise[:-1]) / 2
        found = perplexity(loss, loss)
        held += found.low <= math.exp(2) <= found.high
    # Exact two-sided 99.9 % bounds of a binomial with 400 trials and probability 0.95.
    assert 364 <= held <= 393


def test_one_token_has_no_interval() -> None:
    found = perplexity(np.array([1.0]), np.array([1.0]))
    assert (found.low, found.high) == (0.0, math.inf)
