import math

import pytest

from anabranch.cli import numbers
from anabranch.cli.view_types import Unit


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0, "0s"),
        (0.42, "0.4s"),
        (59.9, "59s"),
        (60.0, "1m"),
        (200.0, "3m20s"),
        (3_600.0, "1h"),
        (7_500.0, "2h05m"),
        (90_000.0, "1d1h"),
        (2_000_000.0, "23d"),
        (-5.0, "0s"),
    ],
)
def test_a_duration_has_at_most_two_units(seconds: float | None, text: str) -> None:
    assert numbers.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0%"),
        (1.0, "100%"),
        (0.05, "5%"),
        (0.1 + 0.2, "30%"),
        (0.475, "47.5%"),
        (0.0002, "0.02%"),
        (0.9999, "99.99%"),
        (0.99999999, "<100%"),
    ],
)
def test_a_share_is_0_or_100_per_cent_only_when_it_is(value: float | None, text: str) -> None:
    assert numbers.share(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.0, "0%"), (0.000_86, "0.086%"), (0.0123, "1.2%"), (1.0, "100.0%")]
)
def test_an_error_rate_below_one_per_cent_keeps_two_digits(value: float | None, text: str) -> None:
    assert numbers.rate(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.123, "0.12"), (3.005, "3.00"), (12.34, "12.3"), (1234.5, "1,234"), (math.inf, "∞")],
)
def test_a_latency_has_three_significant_digits_and_a_timeout_is_infinite(
    value: float | None, text: str
) -> None:
    assert numbers.milliseconds(value) == text


def test_a_difference_carries_its_sign() -> None:
    assert numbers.in_unit(Unit.SHARE, 0.0042, is_difference=True) == "+0.42%"
    assert numbers.in_unit(Unit.SHARE, -0.0042, is_difference=True) == "-0.42%"
    assert numbers.interval(Unit.SHARE, -0.021, 0.014, is_difference=True) == "[-2.1, +1.4]"


def test_a_share_that_is_certain_has_no_decimals() -> None:
    assert numbers.interval(Unit.SHARE, 0.0, 1.0) == "[0, 100]"


def test_an_open_interval_ends_at_infinity() -> None:
    assert numbers.interval(Unit.MS, 3.2, math.inf) == "[3.20, ∞]"
