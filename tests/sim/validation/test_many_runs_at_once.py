"""The vectorised tests of the validation suite are the production tests: equal to rounding, run by run."""

import numpy as np
import pytest

from anabranch.bandit.betting import Claim, ContrastTest, EpochCell, MeanTest, Side
from anabranch.bandit.paired import PairedTest
from anabranch.bandit.scales import GridScale
from anabranch.bandit.srm import SrmTest, UnitCell
from anabranch.bandit.validation.many import ManyCells, ManyContrasts, ManyMeans, ManyPairs
from anabranch.bandit.validation.mismatch import ManyMismatches

RUNS = 5


@pytest.mark.parametrize(
    "test",
    [
        ContrastTest(claim=Claim.SUPERIORITY),
        ContrastTest(claim=Claim.HARM, planned_effect=-0.01, planned_mean=0.99),
        ContrastTest(claim=Claim.HARM, margin=0.02),
        ContrastTest(claim=Claim.NON_INFERIORITY, margin=0.01, planned_mean=0.95, plan_capital=0.8),
        ContrastTest(claim=Claim.NON_INFERIORITY, margin=0.4, scale=GridScale(low=-2.0, high=3.0, bins=6)),
    ],
)
def test_contrasts_agree_run_by_run_and_segment_by_segment(test: ContrastTest) -> None:
    rng = np.random.default_rng(1)
    bins = test.scale.bins
    many = ManyContrasts(test, RUNS, np.arange(bins) / (bins - 1))
    states = [test.start() for _ in range(RUNS)]
    for size in (1, 1, 3, 50, 400, 2000, 2000):
        segment = []
        for _ in range(2):
            pi_v, pi_c = rng.uniform(0.02, 0.5, RUNS), rng.uniform(0.1, 0.5, RUNS)
            weights = rng.dirichlet(np.linspace(0.3, 9.0, bins), size=2)
            counts_v = rng.multinomial(rng.binomial(size, pi_v), weights[0])
            counts_c = rng.multinomial(rng.binomial(size, pi_c), weights[1])
            others = rng.integers(0, 5, RUNS)
            segment.append(
                ManyCells(pi_v=pi_v, pi_c=pi_c, counts_v=counts_v, counts_c=counts_c, others=others)
            )
        many.advance(segment)
        for run in range(RUNS):
            cells = [
                EpochCell(
                    pi_v=float(cell.pi_v[run]),
                    pi_c=float(cell.pi_c[run]),
                    counts_v=dict(enumerate(cell.counts_v[run].tolist())),
                    counts_c=dict(enumerate(cell.counts_c[run].tolist())),
                    others=int(cell.others[run]),
                )
                for cell in segment
            ]
            states[run] = test.advance(states[run], cells)
            assert many.log_e()[run] == pytest.approx(test.log_e(states[run]), rel=1e-8, abs=1e-8)
            assert many.estimates()[run] == pytest.approx(test.estimate(states[run]), rel=1e-9, abs=1e-12)
            assert many.variance[run] == pytest.approx(states[run].variance, rel=1e-9)


def test_a_peak_is_the_highest_of_the_looks_at_every_request() -> None:
    rng = np.random.default_rng(2)
    test = ContrastTest(claim=Claim.SUPERIORITY)
    many = ManyContrasts(test, RUNS)
    pi = np.full(RUNS, 0.2)
    first = rng.multinomial(300, [0.02, 0.18, 0.1, 0.7], size=RUNS)
    cell = ManyCells(
        pi_v=pi,
        pi_c=1.0 - pi,
        counts_v=first[:, :2],
        counts_c=first[:, 2:],
        others=np.zeros(RUNS, dtype=np.int64),
    )
    many.advance([cell])
    outcomes = rng.choice(4, p=[0.02, 0.18, 0.1, 0.7], size=(RUNS, 30))
    peaks = many.peaks(pi, 1.0 - pi, outcomes)
    for run in range(RUNS):
        state = test.advance(test.start(), [_cell(first[run], 0.2)])
        looks = [
            test.log_e(test.advance(state, [_cell(np.bincount(outcomes[run, :length], minlength=4), 0.2)]))
            for length in range(1, 31)
        ]
        assert peaks[run] == pytest.approx(max(looks), abs=1e-8)


@pytest.mark.parametrize(
    "test",
    [
        PairedTest(claim=Claim.NON_INFERIORITY, margin=0.01, planned_discordance=0.02),
        PairedTest(claim=Claim.HARM, margin=0.02),
    ],
)
def test_pairs_agree(test: PairedTest) -> None:
    rng = np.random.default_rng(3)
    many = ManyPairs(test, RUNS)
    states = [test.start() for _ in range(RUNS)]
    for size in (1, 10, 100, 1000):
        counts = rng.multinomial(size, [0.03, 0.95, 0.02], size=RUNS)
        many.advance(counts)
        for run in range(RUNS):
            states[run] = test.advance(states[run], dict(enumerate(counts[run].tolist())))
            assert many.log_e()[run] == pytest.approx(test.log_e(states[run]), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("side", list(Side))
def test_means_agree(side: Side) -> None:
    rng = np.random.default_rng(4)
    test = MeanTest(side=side, threshold=0.97)
    many = ManyMeans(test, RUNS)
    states = [test.start() for _ in range(RUNS)]
    for size in (1, 10, 100, 1000):
        good = rng.binomial(size, 0.98, size=RUNS)
        counts = np.stack((size - good, good), axis=1)
        many.advance(counts)
        for run in range(RUNS):
            states[run] = test.advance(states[run], {0: int(counts[run, 0]), 1: int(counts[run, 1])})
            assert many.log_e()[run] == pytest.approx(test.log_e(states[run]), rel=1e-8, abs=1e-8)


def test_mismatches_agree() -> None:
    rng = np.random.default_rng(5)
    arms = ("base", "one", "two")
    many = ManyMismatches(RUNS, len(arms))
    test = SrmTest(arms=arms)
    states = [test.start() for _ in range(RUNS)]
    for size in (1, 50, 2000):
        weights = rng.dirichlet([8.0, 2.0, 2.0], size=RUNS)
        units = rng.multinomial(size, [0.7, 0.2, 0.1], size=RUNS)
        many.advance(weights, units)
        for run in range(RUNS):
            cell = UnitCell(
                weights=dict(zip(arms, weights[run].tolist(), strict=True)),
                units=dict(zip(arms, units[run].tolist(), strict=True)),
            )
            states[run] = test.advance(states[run], [cell])
            assert many.log_e()[run] == pytest.approx(test.log_e(states[run]), rel=1e-9, abs=1e-9)


def _cell(counts: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]", pi: float) -> EpochCell:
    numbers = [int(count) for count in counts]
    return EpochCell(
        pi_v=pi,
        pi_c=1.0 - pi,
        counts_v={0: numbers[0], 1: numbers[1]},
        counts_c={0: numbers[2], 1: numbers[3]},
    )
