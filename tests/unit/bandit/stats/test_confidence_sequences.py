import json
from pathlib import Path
from typing import Any

import pytest

from anabranch.bandit.betting import Claim, ContrastState, ContrastTest, EpochCell
from anabranch.bandit.scales import BINARY, GridScale, flipped
from anabranch.bandit.sequences import contrast_interval, mean_interval, proportion_interval

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[3] / "data" / "golden-confseq.json").read_text())
TEST = ContrastTest(claim=Claim.NON_INFERIORITY, margin=0.02)


@pytest.mark.parametrize("row", GOLDEN["bernoulli_ci"])
def test_the_proportion_interval_equals_the_reference(row: dict[str, Any]) -> None:
    interval = proportion_interval(row["s"], row["n"], alpha=row["alpha"], planned_count=row["t_opt"])
    assert interval == pytest.approx(row["val"], rel=1e-9)


def test_a_proportion_interval_is_mirrored_by_counting_failures() -> None:
    low, high = proportion_interval(930, 1000, alpha=0.05)
    mirrored = proportion_interval(70, 1000, alpha=0.05)
    assert (1.0 - high, 1.0 - low) == pytest.approx(mirrored, abs=1e-9)


def test_without_data_every_value_is_possible() -> None:
    assert proportion_interval(0, 0, alpha=0.05) == (0.0, 1.0)
    assert mean_interval(GridScale(low=-1.0, high=4.0, bins=3), {}, alpha=0.05) == (-1.0, 4.0)
    assert contrast_interval(TEST, TEST.start(), alpha=0.05) == (-1.0, 1.0)


def test_extreme_counts_keep_the_extreme_values() -> None:
    assert proportion_interval(500, 500, alpha=0.05)[1] == 1.0
    assert proportion_interval(0, 500, alpha=0.05)[0] == 0.0
    low, high = mean_interval(BINARY, {1: 500}, alpha=0.05)
    assert high == 1.0
    assert 0.97 < low < 1.0


def test_a_metric_with_little_variance_gets_a_narrower_mean_interval() -> None:
    scale = GridScale(low=0.0, high=1.0, bins=101)
    narrow = mean_interval(scale, {89: 500, 91: 500}, alpha=0.05)
    wide = mean_interval(scale, {80: 500, 100: 500}, alpha=0.05)
    assert narrow[0] < 0.9 < narrow[1]
    assert wide[0] < 0.9 < wide[1]
    assert narrow[1] - narrow[0] < 0.5 * (wide[1] - wide[0])


def test_the_mean_interval_is_close_to_the_proportion_interval_of_a_binary_metric() -> None:
    low, high = mean_interval(BINARY, {0: 50, 1: 950}, alpha=0.05)
    exact_low, exact_high = proportion_interval(950, 1000, alpha=0.05, planned_count=1000.0)
    assert high - low < 1.2 * (exact_high - exact_low)


def test_the_mean_interval_is_mirrored_by_flipping_the_metric() -> None:
    scale = GridScale(low=0.0, high=5.0, bins=6)
    counts = {5: 70, 4: 20, 0: 3}
    low, high = mean_interval(scale, counts, alpha=0.05)
    assert mean_interval(scale, flipped(scale, counts), alpha=0.05) == pytest.approx(
        (5.0 - high, 5.0 - low), abs=1e-9
    )


def advanced(segments: int, accuracy_v: int = 95, accuracy_c: int = 95) -> ContrastState:
    state = TEST.start()
    for _ in range(segments):
        counts_v, counts_c = {0: 100 - accuracy_v, 1: accuracy_v}, {0: 100 - accuracy_c, 1: accuracy_c}
        state = TEST.advance(state, [EpochCell(pi_v=0.5, pi_c=0.5, counts_v=counts_v, counts_c=counts_c)])
    return state


def test_the_contrast_interval_shrinks_around_the_difference() -> None:
    short = contrast_interval(TEST, advanced(20), alpha=0.05)
    long = contrast_interval(TEST, advanced(500), alpha=0.05)
    assert short[0] < long[0] < 0.0 < long[1] < short[1]
    assert long[1] - long[0] < 0.013


def test_the_contrast_interval_excludes_no_difference_when_there_is_one() -> None:
    low, high = contrast_interval(TEST, advanced(200, accuracy_v=85), alpha=0.05)
    assert low < -0.1 < high < 0.0


def test_a_smaller_least_weight_costs_width() -> None:
    state = advanced(50)
    wide = contrast_interval(TEST, state, alpha=0.05, least_weight=0.01)
    narrow = contrast_interval(TEST, state, alpha=0.05, least_weight=0.5)
    assert narrow[1] - narrow[0] < wide[1] - wide[0]


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="successes must lie in"):
        proportion_interval(5, 4, alpha=0.05)
    with pytest.raises(ValueError, match="least weight"):
        contrast_interval(TEST, advanced(1), alpha=0.05, least_weight=0.0)
