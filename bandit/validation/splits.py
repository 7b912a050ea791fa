"""V1 to V3: equal arms, variants at the margin, and how soon a sound variant is proven, on a split of binary outcomes."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from anabranch.bandit.betting import Claim, ContrastTest
from anabranch.bandit.bounds import contrast_rate, lower_bound
from anabranch.bandit.rivals import asymptotic_cs, likelihood_ratio, mixture_sprt, probability_best, z_test
from anabranch.bandit.rivals.two_arms import BoolArray, TwoArms
from anabranch.bandit.scales import FloatArray, IntArray
from anabranch.bandit.validation.checks import Cell, Check, Trial, mean_check, rate_check, shares
from anabranch.bandit.validation.many import ManyCells, ManyContrasts

ALPHA = 0.05
# Single requests first, where plug-in variances break; then a look inside at every request all the same.
SEGMENTS = (1,) * 50 + (10,) * 45 + (100,) * 195
RIVAL_MINIMUM = 100


def split_cells(counts: IntArray, pi: float | FloatArray) -> ManyCells:
    """One epoch of a two-arm split from counts (variant bad, good, baseline bad, good), shape (runs, 4)."""
    runs = counts.shape[0]
    share = np.broadcast_to(np.asarray(pi, dtype=np.float64), (runs,)).copy()
    return ManyCells(
        pi_v=share,
        pi_c=1.0 - share,
        counts_v=counts[:, :2],
        counts_c=counts[:, 2:],
        others=np.zeros(runs, dtype=np.int64),
    )


def outcome_shares(p_v: float, p_c: float, pi: float) -> list[float]:
    """Probabilities of variant bad, good, baseline bad, good."""
    return [pi * (1.0 - p_v), pi * p_v, (1.0 - pi) * (1.0 - p_c), (1.0 - pi) * p_c]


def two_arms(total: IntArray) -> TwoArms:
    """Cumulative counts (variant bad, good, baseline bad, good) as the rivals read them."""
    numbers = total.astype(np.float64)
    return TwoArms(
        good_v=numbers[:, 1],
        seen_v=numbers[:, 0] + numbers[:, 1],
        good_c=numbers[:, 3],
        seen_c=numbers[:, 2] + numbers[:, 3],
    )


def ever_claimed(
    trial: Trial, tests: list[ContrastTest], *, p_v: float, p_c: float, pi: float
) -> tuple[list[BoolArray], dict[str, BoolArray]]:
    """Which runs of 20,000 requests ever reach 1/alpha at any single request, and which rivals ever decide.

    The rivals look every 100 requests.
    """
    many = [ManyContrasts(test, trial.runs) for test in tests]
    tops = [np.full(trial.runs, -np.inf) for _ in tests]
    hits: dict[str, BoolArray] = {}
    total = np.zeros((trial.runs, 4), dtype=np.int64)
    cumulative = np.cumsum(outcome_shares(p_v, p_c, pi))[:3]
    weight = np.full(trial.runs, pi)
    for size in SEGMENTS:
        outcomes = np.searchsorted(cumulative, trial.rng.random((trial.runs, size)), side="right")
        counts = np.stack([(outcomes == kind).sum(axis=1) for kind in range(4)], axis=1)
        for number, test in enumerate(many):
            tops[number] = np.maximum(tops[number], test.peaks(weight, 1.0 - weight, outcomes))
            test.advance([split_cells(counts, pi)])
        total += counts
        if size >= 100:
            _note(hits, _rivals_differ(two_arms(total)))
    threshold = math.log(1.0 / ALPHA)
    hits["fixed-horizon z"] = z_test.differs(two_arms(total), alpha=ALPHA, least=RIVAL_MINIMUM)
    return [top >= threshold for top in tops], hits


def _rivals_differ(arms: TwoArms) -> dict[str, BoolArray]:
    return {
        "z, peeking": z_test.differs(arms, alpha=ALPHA, least=RIVAL_MINIMUM),
        "P(best) >= 95 %": probability_best.differs(arms, least=RIVAL_MINIMUM),
        "AsympCS (GrowthBook)": asymptotic_cs.differs(arms, alpha=ALPHA, least=RIVAL_MINIMUM),
        "mSPRT (Statsig)": mixture_sprt.differs(arms, alpha=ALPHA, least=RIVAL_MINIMUM),
        "GLR (TensorZero)": likelihood_ratio.differs(arms, alpha=ALPHA, least=RIVAL_MINIMUM),
    }


def _rivals_not_inferior(arms: TwoArms, margin: float, alpha: float) -> dict[str, BoolArray]:
    return {
        "z, peeking": z_test.not_inferior(arms, margin=margin, alpha=alpha, least=RIVAL_MINIMUM),
        "AsympCS (GrowthBook)": asymptotic_cs.not_inferior(
            arms, margin=margin, alpha=alpha, least=RIVAL_MINIMUM
        ),
        "mSPRT (Statsig)": mixture_sprt.not_inferior(arms, margin=margin, alpha=alpha, least=RIVAL_MINIMUM),
        "GLR (TensorZero)": likelihood_ratio.not_inferior(
            arms, margin=margin, alpha=alpha, least=RIVAL_MINIMUM
        ),
    }


def _note(hits: dict[str, BoolArray], found: dict[str, BoolArray]) -> None:
    for name, array in found.items():
        hits[name] = hits[name] | array if name in hits else array


def _equal_arms(p: float, pi: float, trial: Trial) -> tuple[Check, ...]:
    tests = [ContrastTest(claim=Claim.SUPERIORITY), ContrastTest(claim=Claim.HARM)]
    found, hits = ever_claimed(trial, tests, p_v=p, p_c=p, pi=pi)
    world = f"p={p:g} pi={pi:g}"
    note = "one-sided at .05; the rivals are two-sided at .05, look every 100 requests, from 100 in each arm"
    return tuple(
        rate_check(
            "V1",
            f"false {test.claim}, {world}",
            int(hit.sum()),
            trial.runs,
            ALPHA,
            rivals=shares(hits),
            note=note,
        )
        for test, hit in zip(tests, found, strict=True)
    )


def _at_margin(margin: float, pi: float, trial: Trial) -> tuple[Check, ...]:
    p = 0.95
    test = ContrastTest(claim=Claim.NON_INFERIORITY, margin=margin, planned_mean=p)
    many = ManyContrasts(test, trial.runs)
    top = np.full(trial.runs, -np.inf)
    hits: dict[str, BoolArray] = {}
    total = np.zeros((trial.runs, 4), dtype=np.int64)
    cumulative = np.cumsum(outcome_shares(p - margin, p, pi))[:3]
    weight = np.full(trial.runs, pi)
    for size in SEGMENTS:
        outcomes = np.searchsorted(cumulative, trial.rng.random((trial.runs, size)), side="right")
        counts = np.stack([(outcomes == kind).sum(axis=1) for kind in range(4)], axis=1)
        top = np.maximum(top, many.peaks(weight, 1.0 - weight, outcomes))
        many.advance([split_cells(counts, pi)])
        total += counts
        if size >= 100:
            _note(hits, _rivals_not_inferior(two_arms(total), margin, ALPHA))
    events = int((top >= math.log(1.0 / ALPHA)).sum())
    name = f"false promotion at p={p:g} minus {margin:g}, pi={pi:g}"
    return (rate_check("V2", name, events, trial.runs, ALPHA, rivals=shares(hits)),)


def stopping_times(
    trial: Trial,
    test: ContrastTest,
    *,
    p_v: float,
    p_c: float,
    pi: float,
    alpha: float,
    size: int,
    limit: float,
    rival_margin: float | None = None,
) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Requests until the evidence is 1/alpha, of every run and rule; +inf where the limit came first.

    Looks are `size` requests apart; a stop is counted at the look.
    """
    many = ManyContrasts(test, trial.runs)
    stop = np.full(trial.runs, np.inf)
    rivals: dict[str, FloatArray] = {}
    total = np.zeros((trial.runs, 4), dtype=np.int64)
    probabilities = outcome_shares(p_v, p_c, pi)
    requests = 0
    while requests < limit:
        counts = trial.rng.multinomial(size, probabilities, size=trial.runs)
        many.advance([split_cells(counts, pi)])
        requests += size
        total += counts
        stop = np.where((many.log_e() >= math.log(1.0 / alpha)) & np.isinf(stop), requests, stop)
        if rival_margin is not None:
            for name, hit in _rivals_not_inferior(two_arms(total), rival_margin, alpha).items():
                before = rivals.get(name, np.full(trial.runs, np.inf))
                rivals[name] = np.where(hit & np.isinf(before), requests, before)
        if np.isfinite(stop).all() and all(np.isfinite(times).all() for times in rivals.values()):
            break
    return stop, rivals


def _efficiency(
    p: float, margin: float, pi: float, alpha: float, target: float, trial: Trial
) -> tuple[Check, ...]:
    least = lower_bound(contrast_rate(p_v=p, p_c=p, margin=margin, pi_v=pi, pi_c=1.0 - pi), alpha=alpha)
    test = ContrastTest(claim=Claim.NON_INFERIORITY, margin=margin, planned_mean=p, plan_capital=0.8)
    stop, rivals = stopping_times(
        trial,
        test,
        p_v=p,
        p_c=p,
        pi=pi,
        alpha=alpha,
        size=max(round(least / 100), 1),
        limit=20.0 * least,
        rival_margin=margin,
    )
    ratios = {name: float(times.mean() / least) for name, times in rivals.items()}
    ratios["fixed n, 80 % power"] = z_test.planned_size(p=p, margin=margin, pi=pi, alpha=alpha) / least
    world = f"p={p:g} m={margin:g} pi={pi:g} alpha={alpha:g}"
    name = f"mean stop over lower bound, {world}"
    note = f"lower bound {least:,.0f} requests; 80 % of the capital on the plan; stops at 1 % of the bound"
    checks = [mean_check("V3", name, stop / least, target, rivals=ratios, note=note)]
    if pi == 0.5:
        against = rivals["AsympCS (GrowthBook)"]
        checks.append(
            mean_check(
                "V3", f"mean stop over that of AsympCS, {world}", stop / against.mean(), 1.0, note=note
            )
        )
    return tuple(checks)


def _default_design(p: float, margin: float, pi: float, target: float, trial: Trial) -> tuple[Check, ...]:
    """The design that a tick uses: no planned mean, the default capital, a segment a tick."""
    least = lower_bound(contrast_rate(p_v=p, p_c=p, margin=margin, pi_v=pi, pi_c=1.0 - pi), alpha=ALPHA)
    test = ContrastTest(claim=Claim.NON_INFERIORITY, margin=margin)
    stop, _ = stopping_times(
        trial, test, p_v=p, p_c=p, pi=pi, alpha=ALPHA, size=max(round(least / 25), 1), limit=20.0 * least
    )
    name = f"mean stop over lower bound, a tick's own design, p={p:g} m={margin:g} pi={pi:g} alpha={ALPHA:g}"
    note = f"lower bound {least:,.0f} requests; ticks of 4 % of it, no planned mean"
    return (mean_check("V3", name, stop / least, target, note=note),)


def _cells() -> tuple[Cell, ...]:
    cells: list[Cell] = []
    for p in (0.5, 0.9, 0.95, 0.99, 0.999):
        for pi in (0.05, 0.1, 0.5):
            short = 200 if (p, pi) in ((0.95, 0.5), (0.95, 0.05), (0.999, 0.05)) else 0
            cells.append(
                Cell(
                    row="V1",
                    name=f"p={p:g} pi={pi:g}",
                    run=partial(_equal_arms, p, pi),
                    long=2000,
                    short=short,
                )
            )
    for margin in (0.005, 0.01, 0.02, 0.05):
        for pi in (0.05, 0.5):
            short = 200 if margin == 0.02 else 0
            cells.append(
                Cell(
                    row="V2",
                    name=f"m={margin:g} pi={pi:g}",
                    run=partial(_at_margin, margin, pi),
                    long=2000,
                    short=short,
                )
            )
    for p, margin, pi, alpha, target in (
        (0.95, 0.01, 0.5, 0.05, 1.25),
        (0.95, 0.02, 0.5, 0.05, 1.25),
        (0.95, 0.02, 0.1, 0.05, 1.4),
        (0.95, 0.02, 0.05, 0.05, 1.4),
        (0.95, 0.01, 0.5, 0.001, 1.15),
    ):
        cells.append(
            Cell(
                row="V3",
                name=f"m={margin:g} pi={pi:g} alpha={alpha:g}",
                run=partial(_efficiency, p, margin, pi, alpha, target),
                long=1000,
                short=150 if margin == 0.02 else 0,
            )
        )
    for margin, pi, target in ((0.02, 0.5, 1.25), (0.02, 0.05, 1.4)):
        cells.append(
            Cell(
                row="V3",
                name=f"tick m={margin:g} pi={pi:g}",
                run=partial(_default_design, 0.95, margin, pi, target),
                long=4000,
                short=150,
            )
        )
    return tuple(cells)


CELLS = _cells()
