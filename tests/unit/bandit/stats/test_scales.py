import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.bandit.scales import BINARY, LATENCY_SCALE, GridScale, LogScale, checked, flipped, unit_arrays

GRID = GridScale(low=-2.0, high=3.0, bins=11)


@given(st.floats(min_value=0.0, allow_nan=False))
def test_a_latency_lies_in_the_bucket_that_is_closed_above(value: float) -> None:
    index = LATENCY_SCALE.bin_of(value)
    assert value <= LATENCY_SCALE.upper_border(index)
    if index > 0:
        assert value > LATENCY_SCALE.upper_border(index - 1)


def test_a_latency_on_a_border_belongs_to_the_bucket_below_it() -> None:
    for index in range(0, LATENCY_SCALE.bins - 1, 97):
        border = LATENCY_SCALE.upper_border(index)
        assert LATENCY_SCALE.bin_of(border) == index
        assert LATENCY_SCALE.bin_of(math.nextafter(border, math.inf)) == index + 1


def test_borders_are_powers_of_gamma() -> None:
    gamma = Fraction(LATENCY_SCALE.gamma)
    for index in (1, 100, 1000):
        exact = float(Fraction(LATENCY_SCALE.low) * gamma**index)
        assert LATENCY_SCALE.borders[index] == pytest.approx(exact, rel=1e-12)


def test_a_timeout_has_its_own_bucket() -> None:
    assert LATENCY_SCALE.bin_of(math.inf) == LATENCY_SCALE.bins - 1
    assert LATENCY_SCALE.value_of(LATENCY_SCALE.bins - 1) == math.inf


@given(st.floats(min_value=0.0101, max_value=99_000.0))
def test_a_bucket_stands_for_its_values_within_half_its_width(value: float) -> None:
    stood_for = LATENCY_SCALE.value_of(LATENCY_SCALE.bin_of(value))
    gamma = LATENCY_SCALE.gamma
    assert abs(stood_for - value) <= value * (gamma - 1.0) / (gamma + 1.0) * (1.0 + 1e-9)


@given(st.lists(st.floats(min_value=0.0, allow_nan=False), max_size=20))
def test_vectorised_bins_equal_single_ones(values: list[float]) -> None:
    assert LATENCY_SCALE.bins_of(values).tolist() == [LATENCY_SCALE.bin_of(value) for value in values]


@given(st.lists(st.floats(min_value=-2.0, max_value=3.0), max_size=20))
def test_vectorised_grid_bins_equal_single_ones(values: list[float]) -> None:
    assert GRID.bins_of(values).tolist() == [GRID.bin_of(value) for value in values]


@given(st.floats(min_value=-2.0, max_value=3.0))
def test_a_grid_value_is_at_most_half_a_step_away(value: float) -> None:
    assert abs(GRID.value_of(GRID.bin_of(value)) - value) <= 0.25 + 1e-12


def test_a_value_half_way_between_two_grid_values_goes_up() -> None:
    assert GRID.bin_of(-1.75) == 1


@pytest.mark.parametrize("value", [math.nan, -1.0])
def test_a_latency_that_is_no_duration_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="negative or not a number"):
        LATENCY_SCALE.bin_of(value)
    with pytest.raises(ValueError, match="negative or not a number"):
        LATENCY_SCALE.bins_of([1.0, value])


@pytest.mark.parametrize("value", [math.nan, 3.01, -2.01])
def test_a_value_outside_the_grid_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"outside \[-2\.0, 3\.0\]"):
        GRID.bin_of(value)
    with pytest.raises(ValueError, match=r"outside \[-2\.0, 3\.0\]"):
        GRID.bins_of([value])


def test_a_binary_metric_has_two_values_only() -> None:
    assert [BINARY.bin_of(value) for value in (0, 1, True)] == [0, 1, 1]
    assert BINARY.bins_of([[0, 1]]).tolist() == [[0, 1]]
    with pytest.raises(ValueError, match=r"0\.5 is not binary"):
        BINARY.bin_of(0.5)
    with pytest.raises(ValueError, match=r"0\.5 is not binary"):
        BINARY.bins_of([0.5])


@pytest.mark.parametrize(
    ("gamma", "low", "high"), [(1.0, 1.0, 2.0), (1.01, 0.0, 2.0), (1.01, 3.0, 2.0), (1.0000001, 1.0, 1e5)]
)
def test_an_impossible_log_scale_is_refused(gamma: float, low: float, high: float) -> None:
    with pytest.raises(ValueError, match=r"gamma|range"):
        LogScale(gamma=gamma, low=low, high=high)


def test_an_impossible_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="not empty"):
        GridScale(low=1.0, high=1.0, bins=3)
    with pytest.raises(ValueError, match="at least 2"):
        GridScale(low=0.0, high=1.0, bins=1)


def test_flipping_twice_changes_nothing_and_once_mirrors_the_values() -> None:
    histogram = {0: 3, 4: 1, 10: 7}
    assert flipped(GRID, flipped(GRID, histogram)) == histogram
    values, counts = unit_arrays(GRID, histogram)
    mirrored, mirrored_counts = unit_arrays(GRID, flipped(GRID, histogram))
    assert np.allclose(mirrored, 1.0 - values[::-1])
    assert mirrored_counts.tolist() == counts[::-1].tolist()


def test_bins_off_the_scale_and_negative_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="bin 2 is not on the scale"):
        checked(BINARY, {2: 1})
    with pytest.raises(ValueError, match="never negative"):
        checked(BINARY, {1: -1})
