"""B8 to B11: weights that flip, replicas that lag, a metric with two values, and variants that are all equal."""

from __future__ import annotations

import math

import numpy as np

from anabranch.bandit.betting import Claim, ContrastTest
from anabranch.bandit.bounds import contrast_rate, lower_bound
from anabranch.bandit.rivals import asymptotic_cs, probability_best
from anabranch.bandit.scales import FloatArray, GridScale, IntArray
from anabranch.bandit.validation.checks import (
    Cell,
    Check,
    Trial,
    bias_check,
    mean_check,
    rate_check,
)
from anabranch.bandit.validation.many import ManyCells, ManyContrasts
from anabranch.bandit.validation.splits import split_cells, stopping_times, two_arms

ALPHA = 0.05
CLAIMS = (Claim.SUPERIORITY, Claim.HARM)
SEGMENTS, SEGMENT = 100, 200


def _draw(pi: float, p: float, size: int, trial: Trial) -> IntArray:
    """Counts (variant bad, good, baseline bad, good) of equal arms, shape (runs, 4)."""
    shares = [pi * (1.0 - p), pi * p, (1.0 - pi) * (1.0 - p), (1.0 - pi) * p]
    return trial.rng.multinomial(size, shares, size=trial.runs)


def _flips(trial: Trial) -> tuple[Check, ...]:
    """Weights change every epoch between 5 and 50 %, and the base rate with them: the worst case for pooled means."""
    tests = [ManyContrasts(ContrastTest(claim=claim), trial.runs) for claim in CLAIMS]
    top = np.full(trial.runs, -np.inf)
    pooled = np.zeros(trial.runs, dtype=np.bool_)
    total = np.zeros((trial.runs, 4), dtype=np.int64)
    for segment in range(SEGMENTS):
        pi, p = ((0.05, 0.95), (0.5, 0.85))[segment % 2]
        counts = _draw(pi, p, SEGMENT, trial)
        total += counts
        for test in tests:
            test.advance([split_cells(counts, pi)])
            top = np.maximum(top, test.log_e())
        pooled |= asymptotic_cs.differs(two_arms(total), alpha=ALPHA)
    events = int((top >= math.log(2.0 / ALPHA)).sum())
    rivals = {"AsympCS of pooled means": float(pooled.mean())}
    note = "expected: at most .05"
    return (
        rate_check(
            "B8",
            "false decision, weights flip with the base rate",
            events,
            trial.runs,
            ALPHA,
            rivals=rivals,
            note=note,
        ),
        bias_check(
            "B8",
            "size of the bias, weights flip with the base rate",
            tests[0].estimates(),
            0.001,
            rivals={"pooled means": abs(float(two_arms(total).difference.mean()))},
        ),
    )


def _lags(trial: Trial) -> tuple[Check, ...]:
    """Half of the replicas route by the weights of the epoch before, and log that they did."""
    tests = [ManyContrasts(ContrastTest(claim=claim), trial.runs) for claim in CLAIMS]
    naive = [ManyContrasts(ContrastTest(claim=claim), trial.runs) for claim in CLAIMS]
    top, naive_top = np.full(trial.runs, -np.inf), np.full(trial.runs, -np.inf)
    ramp = (0.05, 0.1, 0.2, 0.4, 0.2, 0.1)
    for segment in range(SEGMENTS):
        now, before = ramp[segment % 6], ramp[(segment - 1) % 6]
        p = 0.95 - 0.1 * (segment % 6 >= 3)
        ahead, behind = _draw(now, p, SEGMENT // 2, trial), _draw(before, p, SEGMENT // 2, trial)
        for number in range(len(CLAIMS)):
            tests[number].advance([split_cells(behind, before), split_cells(ahead, now)])
            naive[number].advance([split_cells(behind + ahead, now)])
            top = np.maximum(top, tests[number].log_e())
            naive_top = np.maximum(naive_top, naive[number].log_e())
    need = math.log(2.0 / ALPHA)
    rivals = {"by the controller's epoch": float((naive_top >= need).mean())}
    return (
        rate_check(
            "B9",
            "false decision, replicas lag by an epoch",
            int((top >= need).sum()),
            trial.runs,
            ALPHA,
            rivals=rivals,
            note="expected: at most .05, as every replica logs its own epoch",
        ),
    )


def _two_values(trial: Trial) -> tuple[Check, ...]:
    """A metric on [0, 1] that only ever is 0.3 or 0.7."""
    scale, values = GridScale(low=0.0, high=1.0, bins=101), np.array([0.3, 0.7])
    p, margin = 0.9, 0.02
    worse = p - margin / 0.4
    test = ContrastTest(claim=Claim.NON_INFERIORITY, margin=margin, scale=scale)
    at_margin = _race(trial, test, values, p_v=worse, p_c=p, size=200, looks=100)
    equal = _race(trial, test, values, p_v=p, p_c=p, size=50, looks=1_000)
    # A shift of 0.02 in values 0.4 apart is one of 0.05 in their frequency.
    least = lower_bound(contrast_rate(p_v=p, p_c=p, margin=margin / 0.4, pi_v=0.5, pi_c=0.5), alpha=ALPHA)
    return (
        rate_check(
            "B10",
            "false promotion at the margin, a metric with two values",
            int(np.isfinite(at_margin).sum()),
            trial.runs,
            ALPHA,
            note="expected: at most .05",
        ),
        mean_check(
            "B10",
            "mean stop over the bound of a binary metric, a metric with two values",
            equal / least,
            2.0,
            note="expected: at most 2, as the bets cannot know that the ends do not occur",
        ),
    )


def _race(
    trial: Trial, test: ContrastTest, values: FloatArray, *, p_v: float, p_c: float, size: int, looks: int
) -> FloatArray:
    """Requests until the evidence is 1/alpha, on a split in halves of a metric with two values."""
    many = ManyContrasts(test, trial.runs, values)
    stop = np.full(trial.runs, np.inf)
    shares = [0.5 * (1.0 - p_v), 0.5 * p_v, 0.5 * (1.0 - p_c), 0.5 * p_c]
    for look in range(1, looks + 1):
        counts = trial.rng.multinomial(size, shares, size=trial.runs)
        many.advance([split_cells(counts, 0.5)])
        stop = np.where((many.log_e() >= math.log(1.0 / ALPHA)) & np.isinf(stop), look * size, stop)
        if np.isfinite(stop).all():
            break
    return stop


def many_arms(trial: Trial, rates: FloatArray, *, size: int, looks: int) -> tuple[FloatArray, FloatArray]:
    """By run and candidate the requests until each is proven better, at the error of one of so many; and declarations.

    Args:
        trial: with the number of runs.
        rates: success rates, the baseline's first, shape (arms,).
        size: requests between two looks, spread evenly.
        looks: how many.

    Returns:
        Requests of shape (runs, candidates), +inf where it did not come; and for P(best) >= 95 % against the baseline
        whether a candidate was ever declared better, shape (runs, candidates).
    """
    arms, runs = rates.size, trial.runs
    share = np.full(runs, 1.0 / arms)
    need = math.log((arms - 1) / ALPHA)
    tests = [ManyContrasts(ContrastTest(claim=Claim.SUPERIORITY), runs) for _ in range(arms - 1)]
    stop = np.full((runs, arms - 1), np.inf)
    declared = np.zeros((runs, arms - 1), dtype=np.bool_)
    total = np.zeros((runs, arms, 2), dtype=np.int64)
    for look in range(1, looks + 1):
        seen = trial.rng.multinomial(size, np.full(arms, 1.0 / arms), size=runs)
        good = trial.rng.binomial(seen, rates)
        counts = np.stack((seen - good, good), axis=2)
        total += counts
        for number, test in enumerate(tests):
            cell = ManyCells(
                pi_v=share,
                pi_c=share,
                counts_v=counts[:, number + 1],
                counts_c=counts[:, 0],
                others=size - seen[:, number + 1] - seen[:, 0],
            )
            test.advance([cell])
            stop[:, number] = np.where(
                (test.log_e() >= need) & np.isinf(stop[:, number]), look * size, stop[:, number]
            )
            both = two_arms(np.concatenate((total[:, number + 1], total[:, 0]), axis=1))
            chance = probability_best.probability(both)
            declared[:, number] |= both.enough(100) & (chance >= probability_best.DECLARED_AT)
    return stop, declared.astype(np.float64)


def _all_equal(trial: Trial) -> tuple[Check, ...]:
    stop, declared = many_arms(trial, np.full(11, 0.95), size=1_100, looks=60)
    return (
        rate_check(
            "B11",
            "any candidate promoted, ten equal ones",
            int(np.isfinite(stop).any(axis=1).sum()),
            trial.runs,
            ALPHA,
            rivals={"P(best) >= 95 %": float(declared.any(axis=1).mean())},
            note="expected: at most .05 for all together",
        ),
    )


def _hundred(trial: Trial) -> tuple[Check, ...]:
    """A hundred candidates, of which one is better by ten points."""
    rates = np.full(101, 0.8)
    rates[1] = 0.9
    stop, declared = many_arms(trial, rates, size=5_050, looks=40)
    wrong = np.isfinite(stop[:, 1:]).any(axis=1)
    single, _ = stopping_times(
        trial,
        ContrastTest(claim=Claim.SUPERIORITY),
        p_v=0.9,
        p_c=0.8,
        pi=0.5,
        alpha=ALPHA,
        size=50,
        limit=1e5,
    )
    note = (
        f"found after {np.mean(stop[:, 0]):,.0f} requests in all; alone against the baseline {single.mean():,.0f}; "
        "expected: at most .05"
    )
    return (
        rate_check(
            "B12",
            "any of 99 equal candidates promoted",
            int(wrong.sum()),
            trial.runs,
            ALPHA,
            rivals={"P(best) >= 95 %": float(declared[:, 1:].any(axis=1).mean())},
            note=note,
        ),
        rate_check(
            "B12",
            "the better one of a hundred not found in 202,000 requests",
            int(np.isinf(stop[:, 0]).sum()),
            trial.runs,
            ALPHA,
            note="expected: at most .05",
        ),
    )


CELLS = (
    Cell(row="B8", name="flips", run=_flips, long=2000, short=200),
    Cell(row="B9", name="lags", run=_lags, long=2000, short=200),
    Cell(row="B10", name="two values", run=_two_values, long=1000, short=100),
    Cell(row="B11", name="ten equal", run=_all_equal, long=500, short=50),
    Cell(row="B12", name="hundred", run=_hundred, long=100, short=10),
)
