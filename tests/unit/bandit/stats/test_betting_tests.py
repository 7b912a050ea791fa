import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.bandit.betting import Claim, ContrastState, ContrastTest, EpochCell, MeanTest, Side
from anabranch.bandit.scales import GridScale, flipped

NON_INFERIORITY = ContrastTest(claim=Claim.NON_INFERIORITY, margin=0.02)
HARM = ContrastTest(claim=Claim.HARM, margin=0.02)
SUPERIORITY = ContrastTest(claim=Claim.SUPERIORITY)
GRADED = GridScale(low=0.0, high=5.0, bins=6)


def cell(
    v: tuple[int, int], c: tuple[int, int], *, pi_v: float = 0.1, pi_c: float = 0.8, others: int = 0
) -> EpochCell:
    return EpochCell(
        pi_v=pi_v, pi_c=pi_c, counts_v={0: v[0], 1: v[1]}, counts_c={0: c[0], 1: c[1]}, others=others
    )


def run(test: ContrastTest, *segments: list[EpochCell]) -> ContrastState:
    state = test.start()
    for segment in segments:
        state = test.advance(state, segment)
    return state


def expected_factor(
    test: ContrastTest, state: ContrastState, *, p_v: float, p_c: float, pi_v: float, pi_c: float
) -> float:
    """The mean of one request's factor of the mixed wealth, over the coin and both outcomes."""
    shares = {
        (1, 0, 0, 0, 0): pi_v * (1.0 - p_v),
        (0, 1, 0, 0, 0): pi_v * p_v,
        (0, 0, 1, 0, 0): pi_c * (1.0 - p_c),
        (0, 0, 0, 1, 0): pi_c * p_c,
        (0, 0, 0, 0, 1): 1.0 - pi_v - pi_c,
    }
    before = test.log_e(state)
    total = 0.0
    for (v0, v1, c0, c1, other), share in shares.items():
        after = test.advance(state, [cell((v0, v1), (c0, c1), pi_v=pi_v, pi_c=pi_c, others=other)])
        total += share * math.exp(test.log_e(after) - before)
    return total


@given(
    claim=st.sampled_from(list(Claim)),
    p_c=st.floats(0.05, 0.999),
    pi_v=st.sampled_from([0.01, 0.05, 0.3]),
    pi_c=st.sampled_from([0.1, 0.5, 0.69]),
    history=st.tuples(*[st.integers(0, 60)] * 4),
)
def test_at_the_border_of_the_null_the_next_factor_is_fair_whatever_happened_before(
    claim: Claim, p_c: float, pi_v: float, pi_c: float, history: tuple[int, int, int, int]
) -> None:
    margin = 0.0 if claim is Claim.SUPERIORITY else 0.03
    test = ContrastTest(claim=claim, margin=margin)
    state = run(test, [cell(history[:2], history[2:], pi_v=0.2, pi_c=0.7)])
    factor = expected_factor(test, state, p_v=p_c - margin, p_c=p_c, pi_v=pi_v, pi_c=pi_c)
    assert factor == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("test", "p_v"),
    [(NON_INFERIORITY, 0.80), (SUPERIORITY, 0.85), (HARM, 0.95)],
    ids=lambda value: str(value)[:40],
)
def test_inside_the_null_the_next_factor_loses(test: ContrastTest, p_v: float) -> None:
    state = run(test, [cell((2, 18), (30, 200))])
    assert expected_factor(test, state, p_v=p_v, p_c=0.9, pi_v=0.1, pi_c=0.8) < 1.0


def test_no_data_is_no_evidence() -> None:
    assert NON_INFERIORITY.log_e(NON_INFERIORITY.start()) == pytest.approx(0.0, abs=1e-12)
    assert NON_INFERIORITY.estimate(NON_INFERIORITY.start()) is None
    assert run(NON_INFERIORITY, [cell((0, 0), (0, 0))]) == NON_INFERIORITY.start()


def test_equal_arms_become_evidence_of_non_inferiority_and_none_of_harm() -> None:
    segments = [[cell((5, 95), (5, 95), pi_v=0.5, pi_c=0.5)]] * 40
    assert NON_INFERIORITY.log_e(run(NON_INFERIORITY, *segments)) > math.log(20)
    assert HARM.log_e(run(HARM, *segments)) < 0.0


def test_a_broken_variant_becomes_evidence_of_harm_within_a_few_failures() -> None:
    state = run(
        HARM, [cell((0, 5), (1, 94), pi_v=0.05, pi_c=0.95)], [cell((6, 0), (1, 113), pi_v=0.05, pi_c=0.95)]
    )
    assert HARM.log_e(state) > math.log(100)


@given(st.lists(st.tuples(*[st.integers(0, 30)] * 5), min_size=1, max_size=4))
def test_replicas_may_be_merged_or_not_and_their_order_does_not_matter(
    parts: list[tuple[int, int, int, int, int]],
) -> None:
    first = [cell((1, 9), (8, 70))]
    split = [cell(part[:2], part[2:4], others=part[4]) for part in parts]
    total = np.sum(parts, axis=0).tolist()
    merged = [cell((total[0], total[1]), (total[2], total[3]), others=total[4])]
    for test in (NON_INFERIORITY, HARM, SUPERIORITY):
        whole = run(test, first, merged)
        for cells in (split, split[::-1]):
            state = run(test, first, cells)
            assert test.log_e(state) == pytest.approx(test.log_e(whole), abs=1e-9)
            assert test.estimate(state) == pytest.approx(test.estimate(whole), abs=1e-9)


def test_third_arms_only_matter_by_their_number() -> None:
    state = run(NON_INFERIORITY, [cell((3, 40), (2, 300))])
    with_others = NON_INFERIORITY.advance(state, [cell((1, 5), (1, 50), others=40)])
    without = NON_INFERIORITY.advance(state, [cell((1, 5), (1, 50))])
    assert with_others.count == without.count + 40
    assert with_others.log_wealth != without.log_wealth


def test_scaling_the_metrics_unit_changes_nothing_but_the_unit() -> None:
    def on(scale: GridScale, unit: float) -> tuple[float, float | None]:
        test = ContrastTest(claim=Claim.NON_INFERIORITY, scale=scale, margin=0.2 * unit)
        state = test.start()
        for k in range(5):
            counts_v, counts_c = {3: 4, 5: 10 + k, 0: 1}, {4: 30, 5: 90, 1: k}
            state = test.advance(state, [EpochCell(pi_v=0.1, pi_c=0.9, counts_v=counts_v, counts_c=counts_c)])
        estimate = test.estimate(state)
        assert estimate is not None
        return test.log_e(state), estimate / unit

    stars = on(GRADED, 1.0)
    percent = on(GridScale(low=-100.0, high=0.0, bins=6), 20.0)
    assert stars == pytest.approx(percent, abs=1e-9)


def test_a_binary_metric_on_a_grid_is_the_same_metric() -> None:
    grid = ContrastTest(claim=Claim.NON_INFERIORITY, margin=0.02, scale=GridScale(low=0.0, high=1.0, bins=11))
    coarse, fine = NON_INFERIORITY.start(), grid.start()
    for k in range(5):
        coarse = NON_INFERIORITY.advance(coarse, [cell((k, 20), (9, 160))])
        cells = EpochCell(pi_v=0.1, pi_c=0.8, counts_v={0: k, 10: 20}, counts_c={0: 9, 10: 160})
        fine = grid.advance(fine, [cells])
    assert NON_INFERIORITY.log_e(coarse) == pytest.approx(grid.log_e(fine), abs=1e-9)


def test_permuting_arms_and_flipping_the_metric_is_the_same_superiority() -> None:
    """`v better than c` of a metric is `c better than v` of the flipped one, once predictions are symmetric too."""
    flipped_test = ContrastTest(claim=Claim.SUPERIORITY, scale=GRADED, planned_mean=2.5)
    v, c = {5: 30, 3: 4}, {5: 25, 0: 9}
    straight = flipped_test.advance(
        flipped_test.start(), [EpochCell(pi_v=0.5, pi_c=0.5, counts_v=v, counts_c=c)]
    )
    swapped = flipped_test.advance(
        flipped_test.start(),
        [EpochCell(pi_v=0.5, pi_c=0.5, counts_v=flipped(GRADED, c), counts_c=flipped(GRADED, v))],
    )
    assert flipped_test.estimate(straight) == pytest.approx(flipped_test.estimate(swapped), abs=1e-9)
    # Gambler 0 plans with its own effect; the others are symmetric.
    assert straight.log_wealth[1:] == pytest.approx(swapped.log_wealth[1:], abs=1e-9)


def test_the_estimate_is_unbiased_by_a_ramp_over_a_drifting_base() -> None:
    segments = [
        [cell((5, 95), (95, 1805), pi_v=0.05, pi_c=0.95)],
        [cell((150, 850), (150, 850), pi_v=0.5, pi_c=0.5)],
    ]
    test = ContrastTest(claim=Claim.NON_INFERIORITY, margin=0.02)
    assert test.estimate(run(test, *segments)) == pytest.approx(0.0, abs=1e-12)


def test_a_prediction_that_is_far_off_never_ruins_a_gambler() -> None:
    state = run(NON_INFERIORITY, [cell((0, 10_000), (0, 90_000), pi_v=0.1, pi_c=0.9)])
    state = NON_INFERIORITY.advance(state, [cell((3, 0), (0, 0), pi_v=0.01, pi_c=0.99)])
    assert all(math.isfinite(value) for value in state.log_wealth)


def test_the_state_is_plain_numbers() -> None:
    state = run(NON_INFERIORITY, [cell((1, 9), (8, 70))])
    assert json.loads(json.dumps(asdict(state)))["count"] == 88


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"claim": Claim.SUPERIORITY, "margin": 0.1}, "superiority claim"),
        ({"claim": Claim.NON_INFERIORITY, "margin": -0.1}, "margin -0.1 must be at least 0"),
        ({"claim": Claim.NON_INFERIORITY}, "plan an effect"),
        ({"claim": Claim.HARM, "margin": 0.02, "planned_effect": 0.0}, "plan an effect"),
        ({"claim": Claim.HARM, "margin": 0.02, "planned_mean": 1.2}, "planned mean 1.2 is outside"),
        ({"claim": Claim.HARM, "margin": 0.02, "plan_capital": 1.0}, "plan capital"),
    ],
)
def test_designs_that_contradict_themselves_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContrastTest(**arguments)  # type: ignore[arg-type]  # wrong on purpose


def test_propensities_that_no_router_used_are_refused() -> None:
    with pytest.raises(ValueError, match="leave out epochs"):
        cell((1, 1), (1, 1), pi_v=0.0)
    with pytest.raises(ValueError, match="at most 1"):
        cell((1, 1), (1, 1), pi_v=0.5, pi_c=0.6)
    with pytest.raises(ValueError, match="never negative"):
        cell((1, 1), (1, 1), others=-1)


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("threshold", [0.02, 0.5, 0.99])
def test_a_mean_at_the_threshold_is_a_fair_game(side: Side, threshold: float) -> None:
    test = MeanTest(side=side, threshold=threshold)
    state = test.advance(test.start(), {0: 3, 1: 40})
    before = test.log_e(state)
    up = math.exp(test.log_e(test.advance(state, {1: 1})) - before)
    down = math.exp(test.log_e(test.advance(state, {0: 1})) - before)
    assert threshold * up + (1.0 - threshold) * down == pytest.approx(1.0, abs=1e-9)


def test_agreement_above_and_below_a_minimum_is_decided_on_the_right_side() -> None:
    above = MeanTest(side=Side.ABOVE, threshold=0.99)
    below = MeanTest(side=Side.BELOW, threshold=0.99)

    def log_es(segment: dict[int, int]) -> tuple[float, float]:
        states = above.start(), below.start()
        for _ in range(20):
            states = above.advance(states[0], segment), below.advance(states[1], segment)
        return above.log_e(states[0]), below.log_e(states[1])

    good, bad = log_es({1: 100}), log_es({0: 3, 1: 97})
    assert good[0] > math.log(20) > 0.0 > good[1]
    assert bad[1] > math.log(20) > 0.0 > bad[0]


def test_one_side_of_a_mean_is_the_other_side_of_the_flipped_metric() -> None:
    above = MeanTest(side=Side.ABOVE, threshold=3.0, scale=GRADED, planned=4.0)
    below = MeanTest(side=Side.BELOW, threshold=2.0, scale=GRADED, planned=1.0)
    up, down = above.start(), below.start()
    for segment in ({5: 3, 4: 9, 1: 2}, {5: 6, 2: 2}):
        up, down = above.advance(up, segment), below.advance(down, flipped(GRADED, segment))
    assert above.log_e(up) == pytest.approx(below.log_e(down), abs=1e-9)
    assert above.estimate(up) == pytest.approx(87 / 22)


def test_impossible_thresholds_and_plans_are_refused() -> None:
    with pytest.raises(ValueError, match="strictly between"):
        MeanTest(side=Side.ABOVE, threshold=1.0)
    with pytest.raises(ValueError, match="is not above the threshold"):
        MeanTest(side=Side.ABOVE, threshold=0.9, planned=0.8)
    assert (
        MeanTest(side=Side.ABOVE, threshold=0.9).estimate(MeanTest(side=Side.ABOVE, threshold=0.9).start())
        is None
    )
