import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.router.recent import RecentQuantile


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=60),
    st.integers(1, 20),
    st.floats(0.01, 0.99),
)
def test_it_is_the_quantile_of_the_latest_values(values: list[float], most: int, share: float) -> None:
    recent = RecentQuantile(share, most)
    for index, value in enumerate(values):
        recent.add(value)
        latest = sorted(values[max(0, index + 1 - most) : index + 1])
        assert len(recent) == len(latest)
        assert recent.value() == latest[math.ceil(share * len(latest)) - 1]


def test_of_nothing_there_is_none() -> None:
    with pytest.raises(IndexError):
        RecentQuantile(0.5).value()


def test_among_many_values_it_is_found_anew_after_a_sixteenth_of_them() -> None:
    recent = RecentQuantile(0.99, 160)
    for _ in range(160):
        recent.add(1.0)
    assert recent.value() == 1.0
    for _ in range(9):
        recent.add(2.0)
        assert recent.value() == 1.0
    recent.add(2.0)
    assert recent.value() == 2.0
