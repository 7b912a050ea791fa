import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special

from anabranch.bandit.mixtures import (
    Sides,
    beta_binomial_bound,
    beta_prior_size,
    gamma_exponential_bound,
    log_above,
    log_below,
    log_differs,
    log_incomplete_beta,
    normal_bound,
)

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[3] / "data" / "golden-confseq.json").read_text())


def sides(row: dict[str, Any]) -> Sides:
    return Sides.ONE if row["one_sided"] else Sides.TWO


@pytest.mark.parametrize("row", GOLDEN["beta_binomial_mixture_bound"])
def test_beta_binomial_boundary_equals_the_reference(row: dict[str, Any]) -> None:
    bound = beta_binomial_bound(
        row["v"],
        alpha=row["alpha"],
        v_opt=row["v_opt"],
        g=row["g"],
        h=row["h"],
        alpha_opt=row["alpha_opt"],
        sides=sides(row),
    )
    assert bound == pytest.approx(row["val"], rel=1e-9)


@pytest.mark.parametrize("row", GOLDEN["normal_mixture_bound"])
def test_normal_boundary_equals_the_reference(row: dict[str, Any]) -> None:
    bound = normal_bound(
        row["v"], alpha=row["alpha"], v_opt=row["v_opt"], alpha_opt=row["alpha_opt"], sides=sides(row)
    )
    assert bound == pytest.approx(row["val"], rel=1e-9)


@pytest.mark.parametrize("row", GOLDEN["gamma_exponential_mixture_bound"])
def test_gamma_exponential_boundary_equals_the_reference(row: dict[str, Any]) -> None:
    bound = gamma_exponential_bound(
        row["v"], alpha=row["alpha"], v_opt=row["v_opt"], c=row["c"], alpha_opt=row["alpha_opt"]
    )
    assert bound == pytest.approx(row["val"], rel=1e-9)


@pytest.mark.parametrize("row", GOLDEN["quantile_ab_p"])
def test_two_samples_quantiles_differ_by_as_much_as_the_reference_says(row: dict[str, Any]) -> None:
    """The two-sided p-value of theorem 5 of Howard and Ramdas 2022, from the mixtures of both samples."""
    rng = np.random.default_rng(row["seed"])
    first, second = np.sort(rng.lognormal(0.0, 0.5, 2_000)), np.sort(rng.lognormal(0.1, 0.5, 2_000))
    places = np.concatenate((first, second))
    size = beta_prior_size(row["t_opt"], 0.05, Sides.TWO)
    evidence = sum(
        log_differs(np.searchsorted(sample, places, side="right"), sample.size, row["q"], size)
        for sample in (first, second)
    )
    assert min(1.0, math.exp(-float(np.min(evidence)))) == pytest.approx(row["val"], rel=1e-9)


def test_log_incomplete_beta_agrees_with_scipy_where_scipy_has_digits() -> None:
    a, b, x = np.meshgrid([0.3, 2.0, 50.0, 900.0], [0.3, 2.0, 50.0, 900.0], [0.05, 0.4, 0.9])
    exact = special.betainc(a, b, x)
    digits = exact > 1e-250
    assert np.allclose(np.exp(log_incomplete_beta(a, b, x)[digits]), exact[digits], rtol=1e-12)


@pytest.mark.parametrize(("n", "x"), [(1e3, 0.3), (1e5, 0.3), (1e8, 0.499), (1e8, 0.3)])
def test_log_incomplete_beta_does_not_underflow(n: float, x: float) -> None:
    a = b = n / 2.0
    value = float(log_incomplete_beta(a, b, x))
    # Laplace's method at the end point, accurate to the relative order of 1/(distance in deviations)^2.
    slope = abs((a - 1.0) / x - (b - 1.0) / (1.0 - x))
    laplace = (a - 1.0) * math.log(x) + (b - 1.0) * math.log1p(-x) - math.log(slope) - special.betaln(a, b)
    assert math.isfinite(value)
    assert value == pytest.approx(laplace, abs=0.01, rel=1e-6)


def test_the_tail_formula_meets_scipy_where_both_are_exact() -> None:
    x = np.linspace(0.20, 0.28, 400)
    values = log_incomplete_beta(2000.0, 2000.0, x)
    assert (values < math.log(1e-240)).any()
    assert (values > math.log(1e-240)).any()
    # A jump or a kink where the formulas meet would show in the second differences.
    curvature = np.diff(values, n=2)
    assert np.all(np.abs(np.diff(curvature)) < 1e-5)


@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.95, 0.99])
def test_one_sided_mixtures_have_mean_one_at_the_threshold(threshold: float) -> None:
    n = 60
    s = np.arange(n + 1)
    log_probability = (
        special.gammaln(n + 1)
        - special.gammaln(s + 1)
        - special.gammaln(n - s + 1)
        + s * math.log(threshold)
        + (n - s) * math.log1p(-threshold)
    )
    for log_mixture in (log_above, log_below, log_differs):
        mean = np.exp(log_probability + log_mixture(s, n, threshold, 20.0)).sum()
        assert mean == pytest.approx(1.0, abs=1e-9)


def test_evidence_above_is_evidence_below_of_the_failures() -> None:
    assert float(log_above(70, 100, 0.6, 12.0)) == float(log_below(30, 100, 0.4, 12.0))


def test_evidence_above_grows_with_successes() -> None:
    assert np.all(np.diff(log_above(np.arange(501), 500, 0.95, 30.0)) > 0.0)


def test_the_prior_is_an_eighth_of_the_planned_sample() -> None:
    assert beta_prior_size(10_000.0, 0.05, Sides.TWO) == pytest.approx(10_000.0 / 8.0, rel=0.05)


def test_alpha_outside_the_unit_interval_is_refused() -> None:
    with pytest.raises(ValueError, match=r"alpha 1\.5 in \(0, 1\)"):
        beta_prior_size(100.0, 1.5, Sides.TWO)
