"""How well the volume of the next quarter of an hour is forecast, beside naive rules, on series made for it.

Four weeks at five minutes are made by a recipe that is written out below, and forecast from 300 moments of the fifth week on, each from
what was known then. The series are synthetic: no public trace of inference traffic could be had on the machine that this was made on. What
is scaled for is the busiest of the next stretches, so errors are of that, beside those of every stretch; a share is of the mean volume.

    python -m bench.forecast --figure docs/images/forecast.svg
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from anabranch.cli.plots.canvas import Canvas
from anabranch.router.forecast.model import AHEAD, DAY, WEEK, predict
from anabranch.store.volume_port import SLOT_S

Rates = npt.NDArray[np.float64]
WEEKS = 5
SEED = 20261128


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a series is made.

    Attributes:
        about: In words.
        shape: Requests a second by hour of the day and day of the week, before noise.
        persistence: Share of a deviation that is left after five minutes.
        noise: Standard deviation, of the logarithm, of what comes new in five minutes.
        surges: Surges a week: the volume doubles at once and falls back within 40 minutes.
    """

    about: str
    shape: Callable[[Rates, Rates], Rates]
    persistence: float
    noise: float
    surges: int


def _people(hour: Rates, day: Rates) -> Rates:
    """Two humps a day, a third less at weekends."""
    humps = (
        0.25 + 0.9 * np.exp(-0.5 * ((hour - 11) / 2.6) ** 2) + 0.7 * np.exp(-0.5 * ((hour - 20) / 1.8) ** 2)
    )
    return 40.0 * humps * np.where(day < 5, 1.0, 0.65)


def _jobs(hour: Rates, day: Rates) -> Rates:
    """Little, and jobs at 2 and 14 o'clock on weekdays that run for an hour and a half."""
    runs = ((hour % 12 >= 2) & (hour % 12 < 3.5)) & (day < 5)
    return np.where(runs, 60.0, 4.0)


RECIPES = {
    "people": Recipe(
        about="two humps a day, weekends", shape=_people, persistence=0.97, noise=0.03, surges=0
    ),
    "surges": Recipe(
        about="the same with 4 surges a week", shape=_people, persistence=0.97, noise=0.03, surges=4
    ),
    "jobs": Recipe(about="batch jobs by the clock", shape=_jobs, persistence=0.6, noise=0.05, surges=0),
    "drift": Recipe(
        about="humps, and a level that wanders", shape=_people, persistence=0.999, noise=0.05, surges=0
    ),
}


def made(recipe: Recipe, rng: np.random.Generator) -> Rates:
    """A series of requests a second: the shape, growing 4 % a week, times an AR(1) in logarithms; then Poisson counts."""
    count = WEEKS * WEEK
    places = np.arange(count)
    mean = recipe.shape((places % DAY) * SLOT_S / 3600.0, (places // DAY % 7).astype(float))
    deviation = np.zeros(count)
    fresh = rng.normal(0.0, recipe.noise, count)
    for place in range(1, count):
        deviation[place] = recipe.persistence * deviation[place - 1] + fresh[place]
    mean = mean * np.exp(0.04 * places / WEEK + deviation)
    for start in rng.choice(count - 8, recipe.surges * WEEKS, replace=False):
        mean[start : start + 8] *= 1.0 + np.exp(-np.arange(8) / 3.0)
    return rng.poisson(mean * SLOT_S) / SLOT_S


def _by_model(known: Rates) -> Rates:
    found = predict(known)
    assert found is not None
    return np.array(found.mean)


RULES: dict[str, Callable[[Rates], Rates]] = {
    "anabranch": _by_model,
    "naive (the last five minutes)": lambda known: np.full(AHEAD, known[-1]),
    "mean of the last quarter hour": lambda known: np.full(AHEAD, known[-3:].mean()),
    "seasonal naive (yesterday)": lambda known: known[-DAY:][:AHEAD],
    "seasonal naive (last week)": lambda known: known[-WEEK:][:AHEAD],
}


def measured(name: str, moments: int) -> list[dict[str, object]]:
    """The errors of every rule on one series."""
    rng = np.random.default_rng([SEED, list(RECIPES).index(name)])
    series = made(RECIPES[name], rng)
    ends = np.sort(rng.choice(np.arange(4 * WEEK, len(series) - AHEAD), moments, replace=False))
    level = float(series[4 * WEEK :].mean())
    rows: list[dict[str, object]] = []
    for rule, forecast in RULES.items():
        begun = time.process_time()
        errors, peaks = [], []
        for end in ends:
            told_rates, truth = forecast(series[:end]), series[end : end + AHEAD]
            errors.append(float(np.abs(told_rates - truth).mean()))
            peaks.append(abs(float(told_rates.max() - truth.max())))
        cpu_ms = 1000.0 * (time.process_time() - begun) / moments
        row: dict[str, object] = {
            "series": name,
            "rule": rule,
            "error_share": round(float(np.mean(errors)) / level, 4),
            "peak_error_share": round(float(np.mean(peaks)) / level, 4),
            "cpu_ms": round(cpu_ms, 2),
        }
        if rule == "anabranch":
            kept = [float(series[end : end + AHEAD].max()) <= max(_high(series[:end])) for end in ends]
            row["peaks_below_high"] = round(float(np.mean(kept)), 3)
        rows.append(row)
    return rows


def _high(known: Rates) -> tuple[float, ...]:
    found = predict(known)
    assert found is not None
    return found.high


def figure(rows: Sequence[dict[str, object]]) -> str:
    """Bars of the errors of the busiest stretch, in groups by series, as SVG."""
    left, bar, room, gap = 230.0, 15.0, 430.0, 34.0
    most = max(cast(float, row["peak_error_share"]) for row in rows)
    canvas = Canvas(760, (gap + bar * len(RULES)) * len(RECIPES) + 10)
    top = 0.0
    for name, recipe in RECIPES.items():
        canvas.text(8, top + 22, f"{name}: {recipe.about}", fill="var(--ink)", more=' font-weight="bold"')
        top += gap
        for row in (row for row in rows if row["series"] == name):
            error, is_ours = cast(float, row["peak_error_share"]), row["rule"] == "anabranch"
            canvas.text(left - 8, top + 11, str(row["rule"]), anchor="end")
            canvas.rect(left, top, room * error / most, bar - 4, "#1a7f5a" if is_ours else "#8c959f")
            canvas.text(left + room * error / most + 6, top + 11, f"{error:.1%}")
            top += bar
    title = "Error of the busiest five minutes of the next quarter hour, as a share of the mean volume"
    return canvas.svg(title, f"Shorter is better. {json.dumps(list(rows))}", stands_alone=True) + "\n"


def main() -> None:
    """Measure, and print a JSON line for every series and rule."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--moments", type=int, default=300)
    parser.add_argument("--figure", type=Path, help="an SVG file to write")
    asked = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    about = {
        "bench": "forecast",
        "commit": commit.stdout.strip(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "statsforecast": version("statsforecast"),
        "moments": asked.moments,
    }
    # The first call imports the library: that is not what a forecast costs.
    predict(np.ones(DAY))
    rows = [row for name in RECIPES for row in measured(name, asked.moments)]
    for row in rows:
        print(json.dumps({**about, **row}), flush=True)
    if asked.figure is not None:
        asked.figure.write_text(figure(rows))


if __name__ == "__main__":
    main()
