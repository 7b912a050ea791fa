"""V13: a 5 % canary with more errors is found soon, and one without is almost never rolled back."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from anabranch.bandit.betting import Claim, ContrastTest
from anabranch.bandit.bounds import contrast_rate, lower_bound
from anabranch.bandit.rivals.thresholds import Thresholds
from anabranch.bandit.scales import FloatArray
from anabranch.bandit.validation.checks import Cell, Check, Trial, mean_check, median_check, rate_check
from anabranch.bandit.validation.many import ManyContrasts
from anabranch.bandit.validation.splits import outcome_shares, split_cells, stopping_times

ALPHA = 0.01
CANARY = 0.05
# Interval averages of 100 canary requests, as an analysis with a fixed threshold of twice the usual errors sees them.
INTERVAL = 2_000


def _detection(
    base: float, errors: float, median: float, plan: float | None, trial: Trial
) -> tuple[Check, ...]:
    p_v, p_c = 1.0 - errors, 1.0 - base
    rate = contrast_rate(p_v=p_v, p_c=p_c, margin=0.0, pi_v=CANARY, pi_c=1.0 - CANARY)
    least = lower_bound(rate, alpha=ALPHA)
    if plan is None:
        test, design = ContrastTest(claim=Claim.HARM), "a tick's own design"
    else:
        test, design = ContrastTest(claim=Claim.HARM, planned_effect=-plan, planned_mean=p_c), "planned"
    stop, _ = stopping_times(
        trial,
        test,
        p_v=p_v,
        p_c=p_c,
        pi=CANARY,
        alpha=ALPHA,
        size=max(round(least / 40), 10),
        limit=20.0 * least,
    )
    world = f"errors {base:.1%} to {errors:.1%}, {design}"
    rivals = {"failed intervals": _threshold_stop(trial, base, errors)}
    note = f"lower bound {least:,.0f} requests; rival: median requests until 4 failed intervals"
    return (
        mean_check("V13", f"mean detection over lower bound, {world}", stop / least, 1.5, note=note),
        median_check("V13", f"median requests to detection, {world}", stop, median, rivals=rivals),
    )


def _threshold_stop(trial: Trial, base: float, errors: float) -> float:
    """Median requests until the threshold analysis rolls back; +inf beyond 100 intervals."""
    rule = Thresholds.start(trial.runs, least=1.0 - 2.0 * base, failure_limit=3)
    stop: FloatArray = np.full(trial.runs, np.inf)
    for interval in range(1, 101):
        seen = trial.rng.binomial(INTERVAL, CANARY, size=trial.runs)
        rule.measure((seen - trial.rng.binomial(seen, errors)).astype(np.float64), seen.astype(np.float64))
        stop = np.where(rule.rolled_back & np.isinf(stop), interval * INTERVAL, stop)
    return float(np.median(stop))


def _false_rollback(base: float, plan: float | None, trial: Trial) -> tuple[Check, ...]:
    test = (
        ContrastTest(claim=Claim.HARM)
        if plan is None
        else ContrastTest(claim=Claim.HARM, planned_effect=-plan, planned_mean=1.0 - base)
    )
    many = ManyContrasts(test, trial.runs)
    top = np.full(trial.runs, -np.inf)
    rule = Thresholds.start(trial.runs, least=1.0 - 2.0 * base, failure_limit=3)
    for segment in range(400):
        counts = trial.rng.multinomial(100, outcome_shares(1.0 - base, 1.0 - base, CANARY), size=trial.runs)
        many.advance([split_cells(counts, CANARY)])
        top = np.maximum(top, many.log_e())
        if segment % 20 == 0:
            seen = trial.rng.binomial(INTERVAL, CANARY, size=trial.runs)
            rule.measure((seen - trial.rng.binomial(seen, base)).astype(np.float64), seen.astype(np.float64))
    design = "a tick's own design" if plan is None else "planned"
    return (
        rate_check(
            "V13",
            f"false rollback at {base:.1%} errors, {design}",
            int((top >= math.log(1.0 / ALPHA)).sum()),
            trial.runs,
            ALPHA,
            rivals={"failed intervals": float(rule.rolled_back.mean())},
            note="40,000 requests",
        ),
    )


def _cells() -> tuple[Cell, ...]:
    cells = []
    for base, errors, median in (
        (0.01, 0.02, 31_000.0),
        (0.01, 0.03, 9_400.0),
        (0.01, 0.05, 2_900.0),
        (0.01, 0.10, 900.0),
        (0.001, 0.01, 9_600.0),
    ):
        for plan, design in ((errors - base, "planned"), (None, "tick")):
            cells.append(
                Cell(
                    row="V13",
                    name=f"{base:g} to {errors:g} {design}",
                    run=partial(_detection, base, errors, median, plan),
                    long=4000,
                    short=200 if errors in (0.03, 0.05) else 0,
                )
            )
    for base in (0.01, 0.001):
        for plan, design in ((0.01, "planned"), (None, "tick")):
            cells.append(
                Cell(
                    row="V13",
                    name=f"no harm at {base:g} {design}",
                    run=partial(_false_rollback, base, plan),
                    long=2000,
                    short=200 if base == 0.01 else 0,
                )
            )
    return tuple(cells)


CELLS = _cells()
