"""`plan`: how many requests and how long until each verdict, before anything is served."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anabranch.cli import options
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.cli.format import Format
from anabranch.cli.terminal import terminal_of


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(rich_help_panel=options.DOCUMENTS)(plan)


def plan(
    context: typer.Context,
    file: Annotated[
        str, typer.Argument(help="The experiment document; - for stdin.", metavar="FILE", show_default=False)
    ],
    rate: Annotated[float, typer.Option("--rate", help="Requests a second to the model.", min=1e-6)],
    error_rate: Annotated[float, typer.Option(help="Share of requests that fail, of every variant.")] = 0.001,
    accuracy: Annotated[float, typer.Option(help="Share of right answers, of every variant.")] = 0.9,
    discordance: Annotated[
        float, typer.Option(help="Share of compared replies of which one is right and one wrong.")
    ] = 0.05,
    agreement: Annotated[float, typer.Option(help="Share of compared replies with the same class.")] = 0.99,
    label_share: Annotated[float, typer.Option(help="Share of requests that get feedback.")] = 1.0,
    latency_spread: Annotated[
        float,
        typer.Option(help="Standard deviation of the logarithm of the latency; 0.3 is steady, 1 is wild."),
    ] = 0.5,
    speedup: Annotated[float, typer.Option(help="How much faster candidates are: 0.2 is a fifth.")] = 0.2,
    gain: Annotated[float, typer.Option(help="How much better, in an objective that is no latency.")] = 0.02,
    within_limit: Annotated[float, typer.Option(help="Share of requests within a latency limit.")] = 0.998,
    svg: Annotated[
        Path | None, typer.Option("--svg", help="Also draw the plan into this file.", metavar="FILE")
    ] = None,
    output: options.Output = Format.TABLE,
) -> None:
    """Say how long an experiment will take, for sound candidates that are as good as is assumed.

    Half and nine of ten are shares of such experiments. Bad candidates leave earlier.

    Example: anabranch plan experiment.yaml --rate 40 --speedup 0.3
    """
    from anabranch.bandit.information import Assumptions
    from anabranch.cli.output import encoded
    from anabranch.cli.planning import assumptions_text, plan_svg, plan_table, plan_view
    from anabranch.cli.reading import read_experiment

    terminal = terminal_of(context)
    experiment = read_experiment(file)
    try:
        assumed = Assumptions(
            requests_per_s=rate,
            error_rate=error_rate,
            accuracy=accuracy,
            discordance=discordance,
            agreement=agreement,
            label_share=label_share,
            latency_spread=latency_spread,
            speedup=speedup,
            gain=gain,
            within_limit=within_limit,
        )
    except ValueError as error:
        raise CommandFailed(ExitCode.BAD_INPUT, str(error)) from error
    view = plan_view(experiment, assumed)
    if svg is not None:
        svg.write_text(plan_svg(view), encoding="utf-8")
        terminal.note(f"wrote {svg}")
    if output is not Format.TABLE:
        terminal.say(encoded(view, output))
        return
    terminal.show(plan_table(view))
    terminal.note(assumptions_text(view))
