import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.bandit.weights import Limits, limited_weights

LIMITS = Limits()
Shares = st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6).filter(lambda shares: sum(shares) > 1e-6)


def named(shares: list[float]) -> dict[str, float]:
    return {("base" if k == 0 else f"arm{k}"): share for k, share in enumerate(shares)}


@given(wished=Shares, before=st.none() | st.lists(st.floats(0.0, 1.0), min_size=6, max_size=6))
def test_weights_sum_to_one_and_keep_floors_caps_and_changes(
    wished: list[float], before: list[float] | None
) -> None:
    arms = named(wished)
    previous: dict[str, float] = {}
    if before is not None and sum(before[: len(wished)]) > 1e-6:
        previous = limited_weights(named(before[: len(wished)]), baseline="base", limits=LIMITS, previous={})
    weights = limited_weights(arms, baseline="base", limits=LIMITS, previous=previous)
    assert sum(weights.values()) == pytest.approx(1.0, abs=1e-12)
    assert list(weights) == list(arms)
    assert weights["base"] >= 0.10 - 1e-12
    for name in list(arms)[1:]:
        assert 0.02 - 1e-12 <= weights[name] <= 0.5 + 1e-12
        if previous:
            assert weights[name] <= 2.0 * previous[name] + 1e-12
            assert weights[name] >= 0.5 * previous[name] - 1e-12


def test_shares_within_the_limits_come_back_as_they_are() -> None:
    wished = {"base": 0.4, "arm1": 0.35, "arm2": 0.25}
    assert limited_weights(wished, baseline="base", limits=LIMITS, previous={}) == pytest.approx(
        wished, abs=1e-12
    )


def test_a_new_arm_starts_small() -> None:
    weights = limited_weights(
        {"base": 0.0, "old": 0.5, "new": 0.5},
        baseline="base",
        limits=LIMITS,
        previous={"base": 0.7, "old": 0.3},
    )
    assert weights["new"] == pytest.approx(0.04)


def test_what_a_cap_cuts_off_goes_to_the_baseline_when_nobody_else_wants_it() -> None:
    weights = limited_weights({"base": 0.0, "arm1": 1.0}, baseline="base", limits=LIMITS, previous={})
    assert weights == pytest.approx({"base": 0.5, "arm1": 0.5})


def test_floors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="lower minProb or run fewer candidates"):
        limited_weights(
            {"base": 1.0, "arm1": 0.0, "arm2": 0.0},
            baseline="base",
            limits=Limits(min_prob=0.46),
            previous={},
        )


@pytest.mark.parametrize("shares", [{"base": 0.0, "arm1": 0.0}, {"base": 1.0, "arm1": -0.1}])
def test_wishes_that_are_no_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="positive sum"):
        limited_weights(shares, baseline="base", limits=LIMITS, previous={})


@pytest.mark.parametrize(
    "arguments",
    [{"min_prob": 0.0}, {"min_prob": 0.6}, {"baseline_floor": 1.0}, {"max_weight": 1.1}, {"max_change": 1.0}],
)
def test_limits_that_contradict_each_other_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must"):
        Limits(**arguments)
