"""The effect of a weight change, read from requests one by one."""

import pytest

from bench.dataplane.measuring import MeasurementFailed
from bench.dataplane.weight_change import flip_effects


def _timeline(*changes: tuple[float, str], until: float = 3.0) -> list[tuple[float, str]]:
    """A request each 10 ms, answered by the variant that the last change names."""
    found = []
    for number in range(int(until * 100)):
        at = number / 100
        found.append((at, [variant for since, variant in changes if since <= at][-1]))
    return found


def test_the_effect_is_the_first_request_after_the_last_old_one() -> None:
    timeline = _timeline((0.0, "a"), (1.035, "b"), (2.0, "a"))
    effects = flip_effects([(0.0, "a"), (1.0, "b"), (2.0, "a")], timeline)
    assert effects == pytest.approx([0.04, 0.0])


def test_one_straggler_of_the_old_variant_counts() -> None:
    timeline = [*_timeline((0.0, "a"), (1.0, "b")), (1.205, "a")]
    effects = flip_effects([(0.0, "a"), (1.0, "b")], timeline)
    assert effects == pytest.approx([0.21])


def test_a_change_without_effect_is_an_error() -> None:
    with pytest.raises(MeasurementFailed, match="no request went to b"):
        flip_effects([(0.0, "a"), (1.0, "b")], _timeline((0.0, "a")))


def test_pushes_outside_of_the_load_are_left_out() -> None:
    timeline = _timeline((0.0, "b"))
    assert flip_effects([(-2.0, "a"), (-1.0, "b")], timeline) == []
