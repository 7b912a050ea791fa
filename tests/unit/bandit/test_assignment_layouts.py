import os
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from anabranch.bandit.assignment import assign, lay_out, unit_point

SALT = bytes(range(16))
# Recorded once: an assignment that changes between releases would move every sticky user.
GOLDEN_POINTS = [
    0.37004702585976756,
    0.3547552884827081,
    0.6667427718490291,
    0.9561142687886429,
    0.6270072310193324,
    0.983873616089728,
]
GOLDEN_ARMS = [
    2,
    2,
    3,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    3,
    3,
    0,
    2,
    1,
    3,
    2,
    0,
    0,
    3,
    0,
    0,
    0,
    2,
    0,
    0,
    0,
    0,
    0,
    0,
    3,
    2,
    0,
    3,
    3,
    0,
    0,
    0,
    0,
    0,
]
WEIGHTS = (0.05, 0.2, 0.1)
UNITS = [f"user-{number}".encode() for number in range(20_000)]

shares = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6).map(
    lambda drawn: [int(1e6 * share / max(1.0, sum(drawn))) / 1e6 for share in drawn]
)


def test_units_lie_where_they_always_lay() -> None:
    assert [unit_point(SALT, f"user-{number}".encode()) for number in range(6)] == GOLDEN_POINTS


def test_units_get_the_arms_they_always_got() -> None:
    layout = lay_out(WEIGHTS)
    assert [assign(layout, unit_point(SALT, unit))[0] for unit in UNITS[:40]] == GOLDEN_ARMS


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_every_process_assigns_alike_whatever_its_hash_seed(seed: str) -> None:
    program = (
        "from anabranch.bandit.assignment import assign, lay_out, unit_point\n"
        f"layout = lay_out({WEIGHTS!r})\n"
        f"print([assign(layout, unit_point({SALT!r}, b'user-%d' % n))[0] for n in range(40)])"
    )
    environment = os.environ | {"PYTHONHASHSEED": seed}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(GOLDEN_ARMS)


def test_another_salt_assigns_anew() -> None:
    other = bytes(16)
    layout = lay_out((0.5,))
    same = sum(
        assign(layout, unit_point(SALT, unit))[0] == assign(layout, unit_point(other, unit))[0]
        for unit in UNITS
    )
    assert stats.binomtest(same, len(UNITS), 0.5).pvalue > 1e-4


@pytest.mark.parametrize("weights", [(0.05,), (0.5,), WEIGHTS, (0.01, 0.9), (0.25, 0.25, 0.25, 0.25)])
def test_every_arm_gets_its_exact_share_of_the_units(weights: tuple[float, ...]) -> None:
    layout = lay_out(weights)
    arms = [assign(layout, unit_point(SALT, unit))[0] for unit in UNITS]
    for arm, share in enumerate(layout.weights):
        count = arms.count(arm)
        if share == 0.0:
            assert count == 0
        else:
            assert stats.binomtest(count, len(UNITS), share).pvalue > 1e-4


@given(weights=shares)
def test_a_layout_is_a_partition_with_exact_lengths(weights: list[float]) -> None:
    layout = lay_out(weights)
    assert layout.ends[-1] == 1.0
    assert all(before < after for before, after in pairwise((0.0, *layout.ends)))
    lengths = dict.fromkeys(range(len(weights) + 1), 0.0)
    for start, end, owner in zip((0.0, *layout.ends), layout.ends, layout.owners, strict=False):
        lengths[owner] += end - start
    for arm, share in enumerate(layout.weights):
        assert lengths[arm] == pytest.approx(share, abs=1e-9)
    assert sum(layout.weights) == pytest.approx(1.0)


@given(weights=shares, point=st.floats(0.0, 1.0, exclude_max=True))
def test_the_propensity_is_the_arms_weight(weights: list[float], point: float) -> None:
    layout = lay_out(weights)
    arm, propensity = assign(layout, point)
    assert propensity == layout.weights[arm]


@given(data=st.data(), count=st.integers(1, 5), point=st.floats(0.0, 1.0, exclude_max=True))
def test_a_ramp_below_its_range_moves_units_one_way_and_never_between_candidates(
    data: st.DataObject, count: int, point: float
) -> None:
    low = [data.draw(st.floats(0.0, 1.0 / count)) for _ in range(count)]
    high = [data.draw(st.floats(share, 1.0 / count)) for share in low]
    before, _ = assign(lay_out(low), point)
    after, _ = assign(lay_out(high), point)
    assert before in (0, after)


def test_a_weight_above_its_range_spills_into_what_the_others_leave_free() -> None:
    layout = lay_out((0.7, 0.0))
    assert layout.owners == (1, 0, 1)
    assert layout.ends == pytest.approx((0.5, 0.8, 1.0))
    before = {unit for unit in UNITS if assign(lay_out((0.5, 0.1)), unit_point(SALT, unit))[0] == 1}
    after = {unit for unit in UNITS if assign(lay_out((0.7, 0.1)), unit_point(SALT, unit))[0] == 1}
    assert before < after


def test_a_whole_promotion_leaves_nothing_to_the_baseline() -> None:
    assert lay_out((0.0, 1.0, 0.0)).owners == (2,)


def test_without_candidates_the_baseline_has_everything() -> None:
    assert assign(lay_out(()), 0.3) == (0, 1.0)


@pytest.mark.parametrize("weights", [(0.6, 0.6), (-0.1,), (1.1,), (float("nan"),)])
def test_impossible_weights_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must each lie in"):
        lay_out(weights)
