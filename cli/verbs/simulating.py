"""`simulate`: the engine's promises, tested in virtual time."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from anabranch.cli import options
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed, did_you_mean
from anabranch.cli.format import Format
from anabranch.cli.output import encoded
from anabranch.cli.terminal import Terminal, terminal_of

DEFAULT_SEED = 2026

_NOTES = 10
"""How often a run over an experiment's scenarios says how far it is."""


class Suite(StrEnum):
    """What can be simulated."""

    VALIDATION = "validation"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(rich_help_panel=options.ABOUT)(simulate)


def simulate(
    context: typer.Context,
    file: Annotated[
        str,
        typer.Argument(
            help="An experiment document to try in every scenario; - for stdin.",
            metavar="[FILE]",
            show_default=False,
        ),
    ] = "",
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            help="With FILE: only this scenario, such as healthy or wrong; repeat.", show_default=False
        ),
    ] = None,
    rate: Annotated[float, typer.Option("--rate", help="With FILE: requests a second.", min=1e-6)] = 50.0,
    runs: Annotated[int, typer.Option("--runs", help="With FILE: of each scenario.", min=1)] = 20,
    suite: Annotated[Suite, typer.Option("--suite", help="What to simulate.")] = Suite.VALIDATION,
    short: Annotated[
        bool, typer.Option("--short", help="Few replications of a part of the cells: minutes.")
    ] = False,
    only: Annotated[
        str, typer.Option("--only", help="Rows to run, separated by commas: V3,V7.", metavar="ROWS")
    ] = "",
    seed: Annotated[int, typer.Option("--seed", help="Seed of all randomness.", min=0)] = DEFAULT_SEED,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Processes.", min=1)] = 1,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            help="Keep finished cells in this file (JSON lines), and do not run again what is in it.",
            metavar="FILE",
            dir_okay=False,
        ),
    ] = None,
    output: options.Output = Format.TABLE,
) -> None:
    """Try an experiment in virtual time, or test the decision engine's promises beside other published rules.

    With FILE the whole loop runs in worlds with sound candidates, slow, wrong or failing ones, drift and a near tie; the
    table says how often it promotes and rolls back there, with exact 95 % intervals, and how long it takes. People and
    gates answer at once. Without FILE the engine's suite runs; exit status 1 says that a promise is missed.

    Example: anabranch simulate experiment.yaml --rate 40 --runs 50 --jobs 4
    """
    if file:
        _try(terminal_of(context), file, scenario or [], rate, runs, seed, jobs, output)
        return
    from anabranch.bandit.validation.registry import Form, chosen
    from anabranch.cli.simulating import Plan, in_order, read_results, run_plan
    from anabranch.cli.simulating_views import check_table, check_views, summary

    assert suite is Suite.VALIDATION
    terminal = terminal_of(context)
    rows = tuple(row.strip().upper() for row in only.split(",") if row.strip())
    plan = Plan(form=Form.SHORT if short else Form.LONG, seed=seed, rows=rows, jobs=jobs)
    try:
        total = len(chosen(plan.form, plan.rows))
    except ValueError as error:
        raise CommandFailed(ExitCode.BAD_INPUT, str(error), "check --only") from error
    done = read_results(resume, plan) if resume is not None else []
    results = in_order(plan, done)
    if results:
        terminal.note(f"{len(results)} of {total} cells are in {resume} already")
    for finished in run_plan(plan, resume, results):
        results.append(finished)
        terminal.note(f"{len(results)}/{total} {finished.cell} ({finished.seconds:.1f} s)")
    views = check_views(in_order(plan, results))
    if output is Format.TABLE:
        terminal.show(check_table(views))
        terminal.note(summary(views), style="")
    else:
        terminal.say(encoded(views, output))
    if any(view.ok is False for view in views):
        raise typer.Exit(ExitCode.FAILURE)


def _try(
    terminal: Terminal,
    file: str,
    wanted: list[str],
    rate: float,
    runs: int,
    seed: int,
    jobs: int,
    output: Format,
) -> None:
    from anabranch.bandit.scenarios import SCENARIOS, why_not
    from anabranch.cli.reading import read_experiment
    from anabranch.cli.trying import scenario_table, scenario_views, try_all

    known = [scenario.name for scenario in SCENARIOS]
    for name in wanted:
        if name not in known:
            raise CommandFailed(
                ExitCode.BAD_INPUT,
                f"there is no scenario {name!r}; there are: {', '.join(known)}{did_you_mean(name, known)}",
            )
    experiment = read_experiment(file)
    if reason := why_not(experiment):
        raise CommandFailed(ExitCode.BAD_INPUT, f"{experiment.name} cannot be tried: {reason}")
    names = wanted or known
    total, found = runs * len(names), []
    with terminal.working(f"{runs} runs of {len(names)} scenarios"):
        for ended in try_all(experiment, names, rate=rate, runs=runs, seed=seed, jobs=jobs):
            found.append(ended)
            if len(found) * _NOTES // total > (len(found) - 1) * _NOTES // total:
                terminal.note(f"{len(found)}/{total} runs")
    views = scenario_views(found)
    if output is Format.TABLE:
        terminal.show(scenario_table(views))
        terminal.note(f"{runs} runs of each at {rate:g} requests a second; bold: what a good rule does there")
    else:
        terminal.say(encoded(views, output))
