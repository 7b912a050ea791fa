"""Type I error at the border of the null and in A/A splits: at most alpha, at any look."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from anabranch.bandit.betting import Claim, ContrastTest, EpochCell, MeanTest, Side
from anabranch.bandit.paired import PairedTest

AtMost = Callable[[int, int, float], bool]
THRESHOLD = math.log(20)


def ever_claims(
    test: ContrastTest, *, p_v: float, p_c: float, pi: float, segments: list[int], rng: np.random.Generator
) -> bool:
    state = test.start()
    for size in segments:
        in_v = int(rng.binomial(size, pi))
        good_v, good_c = int(rng.binomial(in_v, p_v)), int(rng.binomial(size - in_v, p_c))
        counts_v, counts_c = {0: in_v - good_v, 1: good_v}, {0: size - in_v - good_c, 1: good_c}
        state = test.advance(state, [EpochCell(pi_v=pi, pi_c=1.0 - pi, counts_v=counts_v, counts_c=counts_c)])
        if test.log_e(state) >= THRESHOLD:
            return True
    return False


# Dense looks early, where plug-in tests break, then sparser ones up to 20,000 requests.
LOOKS = [50] * 20 + [300] * 10 + [1600] * 10


@pytest.mark.parametrize("p", [0.95, 0.99, 0.999])
@pytest.mark.parametrize("pi", [0.05, 0.5])
@pytest.mark.parametrize("claim", [Claim.SUPERIORITY, Claim.HARM])
def test_two_equal_arms_are_rarely_told_apart(
    p: float, pi: float, claim: Claim, plausibly_at_most: AtMost
) -> None:
    rng = np.random.default_rng([1, int(1000 * p), int(100 * pi)])
    test = ContrastTest(claim=claim)
    runs = 80
    false = sum(ever_claims(test, p_v=p, p_c=p, pi=pi, segments=LOOKS, rng=rng) for _ in range(runs))
    assert plausibly_at_most(false, runs, 0.05)


@pytest.mark.parametrize(("p", "margin"), [(0.95, 0.01), (0.95, 0.05), (0.99, 0.02)])
@pytest.mark.parametrize("pi", [0.05, 0.5])
def test_a_variant_worse_by_the_margin_is_rarely_promoted(
    p: float, margin: float, pi: float, plausibly_at_most: AtMost
) -> None:
    rng = np.random.default_rng([2, int(1000 * p), int(100 * pi), int(1000 * margin)])
    test = ContrastTest(claim=Claim.NON_INFERIORITY, margin=margin, planned_mean=p)
    runs = 80
    false = sum(ever_claims(test, p_v=p - margin, p_c=p, pi=pi, segments=LOOKS, rng=rng) for _ in range(runs))
    assert plausibly_at_most(false, runs, 0.05)


@pytest.mark.parametrize("discordance", [0.02, 0.2])
def test_pairs_at_the_margin_are_rarely_promoted(discordance: float, plausibly_at_most: AtMost) -> None:
    rng = np.random.default_rng([3, int(1000 * discordance)])
    test = PairedTest(claim=Claim.NON_INFERIORITY, margin=0.01, planned_discordance=discordance)
    shares = [(discordance + 0.01) / 2.0, 1.0 - discordance, (discordance - 0.01) / 2.0]
    runs, false = 200, 0
    for _ in range(runs):
        state = test.start()
        for _ in range(60):
            state = test.advance(state, dict(enumerate(rng.multinomial(100, shares).tolist())))
            if test.log_e(state) >= THRESHOLD:
                false += 1
                break
    assert plausibly_at_most(false, runs, 0.05)


@pytest.mark.parametrize("side", list(Side))
def test_agreement_at_the_minimum_is_rarely_decided(side: Side, plausibly_at_most: AtMost) -> None:
    rng = np.random.default_rng([4, side is Side.ABOVE])
    test = MeanTest(side=side, threshold=0.99)
    runs, false = 150, 0
    for _ in range(runs):
        state = test.start()
        for _ in range(80):
            good = int(rng.binomial(100, 0.99))
            state = test.advance(state, {0: 100 - good, 1: good})
            if test.log_e(state) >= THRESHOLD:
                false += 1
                break
    assert plausibly_at_most(false, runs, 0.05)
