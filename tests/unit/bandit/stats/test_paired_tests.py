import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.bandit.betting import Claim, ContrastTest, EpochCell
from anabranch.bandit.paired import BINARY_DIFFERENCES, PairedState, PairedTest, combined_log_e
from anabranch.bandit.scales import GridScale, flipped

NON_INFERIORITY = PairedTest(claim=Claim.NON_INFERIORITY, margin=0.01)
HARM = PairedTest(claim=Claim.HARM, margin=0.01)


def run(test: PairedTest, *segments: dict[int, int]) -> PairedState:
    state = test.start()
    for segment in segments:
        state = test.advance(state, segment)
    return state


@given(
    claim=st.sampled_from(list(Claim)),
    history=st.tuples(*[st.integers(0, 50)] * 3),
    discordance=st.floats(0.05, 0.9),
)
def test_at_the_border_of_the_null_the_next_pair_is_a_fair_game(
    claim: Claim, history: tuple[int, int, int], discordance: float
) -> None:
    margin = 0.0 if claim is Claim.SUPERIORITY else 0.04
    test = PairedTest(claim=claim, margin=margin)
    state = run(test, dict(enumerate(history)))
    before = test.log_e(state)
    shares = ((discordance + margin) / 2.0, 1.0 - discordance, (discordance - margin) / 2.0)
    factors = [math.exp(test.log_e(test.advance(state, {index: 1})) - before) for index in range(3)]
    assert sum(share * factor for share, factor in zip(shares, factors, strict=True)) == pytest.approx(
        1.0, abs=1e-9
    )


def test_few_balanced_differences_are_evidence_of_non_inferiority_and_none_of_harm() -> None:
    segments = [{0: 1, 1: 98, 2: 1}] * 20
    assert NON_INFERIORITY.log_e(run(NON_INFERIORITY, *segments)) > math.log(20)
    assert HARM.log_e(run(HARM, *segments)) < 0.0


def test_losses_are_evidence_of_harm() -> None:
    segments = [{0: 6, 1: 93, 2: 1}] * 5
    assert HARM.log_e(run(HARM, *segments)) > math.log(20)
    assert NON_INFERIORITY.log_e(run(NON_INFERIORITY, *segments)) < 0.0


def test_superiority_is_harm_with_the_pair_turned_around() -> None:
    better = PairedTest(claim=Claim.SUPERIORITY, planned_effect=0.05)
    worse = PairedTest(claim=Claim.HARM, planned_effect=-0.05)
    segments = [{0: 2, 1: 90, 2: 8}, {1: 50, 2: 3}]
    turned = [flipped(BINARY_DIFFERENCES, segment) for segment in segments]
    assert better.log_e(run(better, *segments)) == pytest.approx(worse.log_e(run(worse, *turned)), abs=1e-9)


def test_the_estimate_is_the_mean_difference_in_the_metrics_unit() -> None:
    stars = PairedTest(claim=Claim.NON_INFERIORITY, margin=0.5, scale=GridScale(low=-4.0, high=4.0, bins=9))
    state = run(stars, {4: 7, 5: 2, 2: 1})
    assert stars.estimate(state) == pytest.approx(0.0)
    assert stars.estimate(stars.start()) is None


def test_joined_evidence_multiplies_inside_one_mixture_in_any_order() -> None:
    split = ContrastTest(claim=Claim.NON_INFERIORITY, margin=0.01)
    split_state, pair_state = split.start(), NON_INFERIORITY.start()
    for _ in range(8):
        cells = [EpochCell(pi_v=0.5, pi_c=0.5, counts_v={0: 10, 1: 190}, counts_c={0: 10, 1: 190})]
        split_state = split.advance(split_state, cells)
        pair_state = NON_INFERIORITY.advance(pair_state, {0: 1, 1: 78, 2: 1})
    joined = combined_log_e([split_state, pair_state])
    assert joined == combined_log_e([pair_state, split_state])
    assert joined > max(split.log_e(split_state), NON_INFERIORITY.log_e(pair_state))
    assert combined_log_e([pair_state]) == pytest.approx(NON_INFERIORITY.log_e(pair_state), abs=1e-12)
    assert combined_log_e([pair_state, split.start()]) == pytest.approx(
        NON_INFERIORITY.log_e(pair_state), abs=1e-12
    )


def test_joining_states_of_different_mixtures_is_refused() -> None:
    with pytest.raises(ValueError, match="gamblers"):
        combined_log_e([NON_INFERIORITY.start(), PairedState(log_wealth=(0.0, 0.0))])
    with pytest.raises(ValueError, match="gamblers"):
        combined_log_e([])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": GridScale(low=0.0, high=1.0, bins=3), "margin": 0.1}, "symmetric around 0"),
        ({"margin": 1.0}, "margin 1.0 must be"),
        ({"margin": 0.01, "planned_effect": -0.02}, "plan an effect"),
        ({"margin": 0.01, "planned_discordance": 0.0}, "planned discordance"),
    ],
)
def test_designs_that_contradict_themselves_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairedTest(claim=Claim.NON_INFERIORITY, **arguments)  # type: ignore[arg-type]  # wrong on purpose
