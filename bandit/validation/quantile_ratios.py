"""V5: the ratio of latency quantiles: rarely wrong at the border of the null, soon right when the claim is true."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from anabranch.bandit.bounds import lower_bound, quantile_rate
from anabranch.bandit.quantiles import QuantileRatioTest, RatioClaim, quantile
from anabranch.bandit.scales import LATENCY_SCALE, FloatArray
from anabranch.bandit.validation.checks import Cell, Check, Trial, mean_check, number_check, rate_check
from anabranch.bandit.validation.latencies import GRID, LOGNORMAL, SHAPES, Shape, histogram

ALPHA = 0.05


def ratio_stops(
    trial: Trial, test: QuantileRatioTest, shape: Shape, *, truth: float, pi: float, size: int, looks: int
) -> FloatArray:
    """Requests until the evidence is 1/alpha, run by run; +inf when that is after the last look."""
    stops = np.full(trial.runs, np.inf)
    for run in range(trial.runs):
        state = test.start()
        for look in range(1, looks + 1):
            in_v = int(trial.rng.binomial(size, pi))
            variant = histogram(truth * shape.sample(trial.rng, in_v))
            state = test.advance(state, variant, histogram(shape.sample(trial.rng, size - in_v)))
            if test.log_e(state) >= math.log(1.0 / ALPHA):
                stops[run] = look * size
                break
    return stops


def _at_border(shape: Shape, tau: float, ratio: float, trial: Trial) -> tuple[Check, ...]:
    test = QuantileRatioTest(claim=RatioClaim.BELOW, tau=tau, ratio=ratio, planned_count=2_000.0)
    stops = ratio_stops(trial, test, shape, truth=ratio, pi=0.5, size=400, looks=15)
    name = f"false claim p{100 * tau:g} below {ratio:g} times the baseline's, {shape.name}"
    return (rate_check("V5", name, int(np.isfinite(stops).sum()), trial.runs, ALPHA),)


def _efficiency(
    shape: Shape, tau: float, ratio: float, truth: float, pi: float, trial: Trial
) -> tuple[Check, ...]:
    rate = quantile_rate(
        below_v=shape.below(GRID * ratio / truth), below_c=shape.below(GRID), tau=tau, pi_v=pi, pi_c=1.0 - pi
    )
    least = lower_bound(rate, alpha=ALPHA)
    test = QuantileRatioTest(
        claim=RatioClaim.BELOW,
        tau=tau,
        ratio=ratio,
        planned_count=1.5 * pi * least,
        planned_count_baseline=1.5 * (1.0 - pi) * least,
    )
    stops = ratio_stops(trial, test, shape, truth=truth, pi=pi, size=round(least / 30), looks=400)
    world = f"p{100 * tau:g} below {ratio:g}, truth {truth:g}, pi={pi:g}, {shape.name}"
    note = f"lower bound {least:,.0f} requests; looks at thirtieths of it"
    return (mean_check("V5", f"mean stop over lower bound, {world}", stops / least, 1.9, note=note),)


def _bucket_error(trial: Trial) -> tuple[Check, ...]:
    worst = 0.0
    for shape in SHAPES:
        for _ in range(trial.runs):
            values = np.sort(shape.sample(trial.rng, 5_000))
            for tau in (0.5, 0.95, 0.99):
                exact = float(values[math.ceil(tau * values.size - 1e-9) - 1])
                shown = quantile(LATENCY_SCALE, histogram(values), tau)
                assert shown is not None
                worst = max(worst, abs(shown / exact - 1.0))
    name = "largest relative error of a shown p50, p95 or p99"
    return (number_check("V5", name, worst, LATENCY_SCALE.gamma - 1.0, runs=trial.runs * len(SHAPES)),)


def _cells() -> tuple[Cell, ...]:
    cells = [Cell(row="V5", name="bucket error", run=_bucket_error, long=50, short=5)]
    for shape in SHAPES:
        for tau, ratio in ((0.5, 1.0), (0.95, 1.0), (0.99, 1.05)):
            cells.append(
                Cell(
                    row="V5",
                    name=f"border p{100 * tau:g} {shape.name}",
                    run=partial(_at_border, shape, tau, ratio),
                    long=400,
                    short=60 if tau == 0.95 else 0,
                )
            )
    for tau, ratio, truth, pi in (
        (0.5, 1.0, 0.9, 0.5),
        (0.5, 1.0, 0.8, 0.1),
        (0.95, 1.0, 0.9, 0.5),
        (0.99, 1.05, 0.9, 0.5),
        (0.99, 1.0, 0.8, 0.5),
        (0.99, 1.05, 0.8, 0.1),
    ):
        cells.append(
            Cell(
                row="V5",
                name=f"efficiency p{100 * tau:g} {ratio:g} {truth:g} {pi:g}",
                run=partial(_efficiency, LOGNORMAL, tau, ratio, truth, pi),
                long=400,
                short=40 if tau in (0.5, 0.95) and pi == 0.5 else 0,
            )
        )
    cells.extend(
        Cell(
            row="V5",
            name=f"efficiency {shape.name}",
            run=partial(_efficiency, shape, 0.95, 1.0, 0.8, 0.5),
            long=400,
            short=0,
        )
        for shape in SHAPES[1:]
    )
    return tuple(cells)


CELLS = _cells()
