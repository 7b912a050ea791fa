"""V19: boundaries and intervals equal those of the reference implementation, confseq 0.0.11."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from anabranch.bandit.mixtures import (
    Sides,
    beta_binomial_bound,
    beta_prior_size,
    gamma_exponential_bound,
    log_differs,
    normal_bound,
)
from anabranch.bandit.sequences import proportion_interval
from anabranch.bandit.validation.checks import Cell, Check, Trial, not_run, number_check

LARGEST = 1e-6

Row = Mapping[str, Any]


def _sides(row: Row) -> Sides:
    return Sides.ONE if row["one_sided"] else Sides.TWO


def _beta_binomial(row: Row) -> tuple[float, ...]:
    bound = beta_binomial_bound(
        row["v"],
        alpha=row["alpha"],
        v_opt=row["v_opt"],
        g=row["g"],
        h=row["h"],
        alpha_opt=row["alpha_opt"],
        sides=_sides(row),
    )
    return (bound,)


def _normal(row: Row) -> tuple[float, ...]:
    return (
        normal_bound(
            row["v"],
            alpha=row["alpha"],
            v_opt=row["v_opt"],
            alpha_opt=row["alpha_opt"],
            sides=_sides(row),
        ),
    )


def _gamma_exponential(row: Row) -> tuple[float, ...]:
    return (
        gamma_exponential_bound(
            row["v"], alpha=row["alpha"], v_opt=row["v_opt"], c=row["c"], alpha_opt=row["alpha_opt"]
        ),
    )


def _proportion(row: Row) -> tuple[float, ...]:
    return proportion_interval(row["s"], row["n"], alpha=row["alpha"], planned_count=row["t_opt"])


def _two_quantiles(row: Row) -> tuple[float, ...]:
    """The two-sided p-value of equal quantiles, from the mixtures of both samples; the row says how they are drawn."""
    rng = np.random.default_rng(row["seed"])
    samples = [np.sort(rng.lognormal(location, 0.5, 2_000)) for location in (0.0, 0.1)]
    places = np.concatenate(samples)
    size = beta_prior_size(row["t_opt"], 0.05, Sides.TWO)
    evidence = sum(
        log_differs(np.searchsorted(sample, places, side="right"), sample.size, row["q"], size)
        for sample in samples
    )
    return (min(1.0, math.exp(-float(np.min(evidence)))),)


_COMPUTED: Mapping[str, Callable[[Row], tuple[float, ...]]] = {
    "beta_binomial_mixture_bound": _beta_binomial,
    "normal_mixture_bound": _normal,
    "gamma_exponential_mixture_bound": _gamma_exponential,
    "bernoulli_ci": _proportion,
    "quantile_ab_p": _two_quantiles,
}


def _golden(trial: Trial) -> tuple[Check, ...]:
    if trial.reference is None:
        reason = "the reference values are in the repository (tests/data), not in the installed package"
        return (not_run("V19", "largest relative difference to confseq", LARGEST, reason),)
    checks = []
    for name, rows in trial.reference.items():
        if not isinstance(rows, list):
            continue
        if name not in _COMPUTED:
            reason = f"{len(rows)} values of a quantity that the engine does not compute"
            checks.append(not_run("V19", f"largest relative difference to confseq, {name}", LARGEST, reason))
            continue
        worst = max(_difference(_COMPUTED[name](row), row["val"]) for row in rows)
        checks.append(
            number_check(
                "V19", f"largest relative difference to confseq, {name}", worst, LARGEST, runs=len(rows)
            )
        )
    return tuple(checks)


def _difference(found: Sequence[float], expected: float | Sequence[float]) -> float:
    values = [expected] if isinstance(expected, float | int) else list(expected)
    return max(abs(a - b) / max(abs(b), 1e-300) for a, b in zip(found, values, strict=True))


CELLS = (Cell(row="V19", name="confseq", run=_golden, long=1, short=1),)
