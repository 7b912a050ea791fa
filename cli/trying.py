"""Run an experiment in every scenario, many times, and say how often it does what."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
from rich.table import Table
from rich.text import Text
from scipy import special

from anabranch.bandit.information import Assumptions
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.planner import plan
from anabranch.bandit.scenarios import SCENARIOS, Scenario, without_people, world_of
from anabranch.bandit.simulate import run
from anabranch.bandit.spec import Experiment
from anabranch.cli.numbers import count, duration

_TICKS = 400
"""Ticks that a run of planned length takes; one may take four times as long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How one run ended."""

    phase: Phase
    winner: str | None
    seconds: float
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How often something happened, with the exact 95 % interval."""

    times: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioView:
    """An experiment's operating characteristics in one scenario.

    Attributes:
        should: What a good rule does there.
        undecided: Inconclusive, or not over after four times the planned time.
        median_s: Time of the runs that ended; None when none did.
    """

    scenario: str
    says: str
    should: str
    runs: int
    promoted: Share
    rolled_back: Share
    undecided: Share
    median_s: float | None
    most_s: float | None
    median_requests: float | None


def try_all(
    experiment: Experiment, names: Sequence[str], *, rate: float, runs: int, seed: int, jobs: int
) -> Iterator[tuple[str, Run]]:
    """Every run of every scenario, as it ends.

    Args:
        experiment: What is tried; people and gates answer at once.
        names: Of the scenarios.
        rate: Requests a second.
        runs: Of each scenario.
        seed: Of all randomness; the same gives the same runs.
        jobs: Processes.
    """
    tasks = [(name, number) for number in range(runs) for name in names]
    if jobs == 1:
        for name, number in tasks:
            yield name, _run_one(experiment, name, rate, seed, number)
        return
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    pool = ProcessPoolExecutor(max_workers=jobs, mp_context=get_context("spawn"))
    try:
        waiting = {
            pool.submit(_run_one, experiment, name, rate, seed, number): name for name, number in tasks
        }
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def scenario_views(found: Sequence[tuple[str, Run]]) -> list[ScenarioView]:
    """What the runs came to, by scenario."""
    views = []
    for scenario in SCENARIOS:
        runs = [each for name, each in found if name == scenario.name]
        if runs:
            views.append(_view(scenario, runs))
    return views


def scenario_table(views: Sequence[ScenarioView]) -> Table:
    """The characteristics as a table; what a good rule does there is bold."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for heading in (
        "SCENARIO",
        "PROMOTED",
        "ROLLED BACK",
        "UNDECIDED",
        "MEDIAN",
        "9 OF 10",
        "REQUESTS",
        "CANDIDATES ARE",
    ):
        table.add_column(
            heading, no_wrap=True, justify="right" if heading in ("MEDIAN", "9 OF 10", "REQUESTS") else "left"
        )
    for view in views:
        table.add_row(
            view.scenario,
            Text(_share(view.promoted), style="bold green" if view.should == "promote" else ""),
            Text(_share(view.rolled_back), style="bold green" if view.should == "roll back" else ""),
            _share(view.undecided),
            duration(view.median_s),
            duration(view.most_s),
            "-" if view.median_requests is None else count(round(view.median_requests)),
            Text(view.says, style="dim"),
        )
    return table


def _share(value: Share) -> str:
    return f"{100 * value.value:3.0f}% [{100 * value.low:.0f}, {100 * value.high:.0f}]"


def _view(scenario: Scenario, runs: Sequence[Run]) -> ScenarioView:
    ended = [each for each in runs if each.phase.is_over]
    times = [each.seconds for each in ended]
    promoted = sum(each.phase is Phase.PROMOTED for each in runs)
    rolled_back = sum(each.phase is Phase.ROLLED_BACK for each in runs)
    return ScenarioView(
        scenario=scenario.name,
        says=scenario.says,
        should=scenario.should,
        runs=len(runs),
        promoted=exact_share(promoted, len(runs)),
        rolled_back=exact_share(rolled_back, len(runs)),
        undecided=exact_share(len(runs) - promoted - rolled_back, len(runs)),
        median_s=float(np.median(times)) if times else None,
        most_s=float(np.quantile(times, 0.9)) if times else None,
        median_requests=float(np.median([each.requests for each in ended])) if ended else None,
    )


def exact_share(times: int, runs: int) -> Share:
    """A share with its interval of Clopper and Pearson, at 95 %."""
    low = float(special.betaincinv(times, runs - times + 1, 0.025)) if times else 0.0
    high = float(special.betaincinv(times + 1, runs - times, 0.975)) if times < runs else 1.0
    return Share(times=times, value=times / runs, low=low, high=high)


def _run_one(experiment: Experiment, name: str, rate: float, seed: int, number: int) -> Run:
    scenario = next(each for each in SCENARIOS if each.name == name)
    experiment = without_people(experiment)
    planned_s = horizon_s(experiment, rate)
    world = world_of(scenario, experiment, rate, horizon_s=planned_s)
    rng = np.random.default_rng([seed, number, SCENARIOS.index(scenario)])
    interval_s = max(1.0, planned_s / _TICKS)
    last = None
    ticks = 0
    for ticks, last in enumerate(  # noqa: B007  # the last ones are what is asked for
        run(experiment, world, rng, interval_s=interval_s, max_ticks=4 * _TICKS), start=1
    ):
        pass
    assert last is not None
    state = last.state
    return Run(
        phase=state.phase,
        winner=state.winner,
        seconds=ticks * interval_s,
        requests=sum(totals.requests for totals in state.totals.values()),
    )


def horizon_s(experiment: Experiment, rate: float) -> float:
    """About how long the experiment takes: as planned, or what its steps allow where nothing is proven."""
    ends = [step.ends_s[0] for step in plan(experiment, Assumptions(requests_per_s=rate)).steps]
    known = [end for end in ends if math.isfinite(end)]
    return max([60.0, *known])
