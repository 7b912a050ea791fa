"""V4: how soon mirrored pairs prove non-inferiority, against the bound and against a split of the same traffic."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from anabranch.bandit.betting import Claim, ContrastTest
from anabranch.bandit.bounds import contrast_rate, lower_bound, paired_rate
from anabranch.bandit.paired import PairedTest
from anabranch.bandit.scales import FloatArray
from anabranch.bandit.validation.checks import Cell, Check, Sense, Trial, mean_check, number_check, rate_check
from anabranch.bandit.validation.many import ManyPairs
from anabranch.bandit.validation.splits import stopping_times

ALPHA = 0.05
MARGIN = 0.01


def _pair_stops(
    trial: Trial, test: PairedTest, shares: list[float], *, size: int, limit: float
) -> FloatArray:
    """Pairs until the evidence is 1/alpha in every run; +inf where the limit came first."""
    many = ManyPairs(test, trial.runs)
    stop = np.full(trial.runs, np.inf)
    pairs = 0
    while pairs < limit and not np.isfinite(stop).all():
        many.advance(trial.rng.multinomial(size, shares, size=trial.runs))
        pairs += size
        stop = np.where((many.log_e() >= math.log(1.0 / ALPHA)) & np.isinf(stop), pairs, stop)
    return stop


def _efficiency(discordance: float, trial: Trial) -> tuple[Check, ...]:
    least = lower_bound(paired_rate(discordance=discordance, effect=0.0, margin=MARGIN), alpha=ALPHA)
    test = PairedTest(claim=Claim.NON_INFERIORITY, margin=MARGIN, planned_discordance=discordance)
    half = discordance / 2.0
    stop = _pair_stops(trial, test, [half, 1.0 - discordance, half], size=10, limit=20.0 * least)
    p = 0.95
    bound = lower_bound(contrast_rate(p_v=p, p_c=p, margin=MARGIN, pi_v=0.5, pi_c=0.5), alpha=ALPHA)
    split, _ = stopping_times(
        trial,
        ContrastTest(claim=Claim.NON_INFERIORITY, margin=MARGIN, planned_mean=p, plan_capital=0.8),
        p_v=p,
        p_c=p,
        pi=0.5,
        alpha=ALPHA,
        size=round(bound / 50),
        limit=20.0 * bound,
    )
    world = f"discordance={discordance:g} m={MARGIN:g}"
    note = f"lower bound {least:,.0f} pairs; a split of accuracy {p:g} needs {split.mean():,.0f} requests"
    return (
        mean_check("V4", f"mean stop over lower bound, {world}", stop / least, 1.5, note=note),
        number_check(
            "V4",
            f"requests of a 50/50 split over pairs, {world}",
            float(split.mean() / stop.mean()),
            5.0,
            sense=Sense.AT_LEAST,
            runs=trial.runs,
            note=note,
        ),
    )


def _at_margin(discordance: float, trial: Trial) -> tuple[Check, ...]:
    test = PairedTest(claim=Claim.NON_INFERIORITY, margin=MARGIN, planned_discordance=discordance)
    shares = [(discordance + MARGIN) / 2.0, 1.0 - discordance, (discordance - MARGIN) / 2.0]
    stop = _pair_stops(trial, test, shares, size=10, limit=10_000)
    events = int(np.isfinite(stop).sum())
    name = f"false promotion of pairs at the margin, discordance={discordance:g} m={MARGIN:g}"
    return (rate_check("V4", name, events, trial.runs, ALPHA),)


CELLS = tuple(
    cell
    for discordance in (0.01, 0.02, 0.04)
    for cell in (
        Cell(
            row="V4",
            name=f"efficiency d={discordance:g}",
            run=partial(_efficiency, discordance),
            long=1000,
            short=200 if discordance == 0.02 else 0,
        ),
        Cell(
            row="V4",
            name=f"margin d={discordance:g}",
            run=partial(_at_margin, discordance),
            long=2000,
            short=200 if discordance == 0.02 else 0,
        ),
    )
)
