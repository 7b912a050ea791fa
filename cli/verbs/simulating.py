"""`simulate`: the engine's promises, tested in virtual time."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from anabranch.cli import options
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.cli.format import Format
from anabranch.cli.output import encoded
from anabranch.cli.terminal import terminal_of

DEFAULT_SEED = 2026


class Suite(StrEnum):
    """What can be simulated."""

    VALIDATION = "validation"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(rich_help_panel=options.ABOUT)(simulate)


def simulate(
    context: typer.Context,
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
    """Test the decision engine's promises by simulation, beside other published rules.

    Exit status 1 says that a promise is missed.

    Example: anabranch simulate --short --only V1,V2
    """
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
