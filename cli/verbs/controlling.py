"""`controller` and `tick`: move experiments on without serving, for ever or once."""

from __future__ import annotations

from typing import Annotated

import typer

from anabranch.cli import options
from anabranch.cli.completion import complete_name
from anabranch.cli.format import Format
from anabranch.cli.places import DEFAULT_MODELS, DEFAULT_STORE
from anabranch.cli.terminal import terminal_of


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for command in (controller, tick):
        app.command(rich_help_panel=options.RUN)(command)


Lease = Annotated[
    float, typer.Option(help="Seconds after the last round of a leading controller until another one leads.")
]


def controller(
    context: typer.Context,
    models: options.Models = DEFAULT_MODELS,
    store: options.Database = DEFAULT_STORE,
    tick: Annotated[float, typer.Option(help="Seconds between two looks at the evidence.")] = 1.0,
    lease: Lease = 10.0,
    keep_days: options.KeepDays = 30.0,
    metrics_port: options.MetricsPort = None,
    metrics_host: options.MetricsHost = "127.0.0.1",
    class_target: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=MILLISECONDS, as the routers have it: what `get --classes` shows; may be given more than once."
        ),
    ] = None,
) -> None:
    """Move the experiments of a store on, while `anabranch serve` on any machine serves them.

    Any number may run: one leads, and another follows it when it ends. Variants are not loaded, only their manifests are read.

    Example: anabranch controller --store postgresql://anabranch@db/anabranch
    """
    from anabranch.cli.controlling import run_controller

    run_controller(
        terminal_of(context),
        store,
        models,
        tick_s=tick,
        lease_s=lease,
        keep_days=keep_days,
        metrics_host=metrics_host,
        metrics_port=metrics_port,
        class_targets=class_target or [],
    )


def tick(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            help="Tell the outcome of this experiment; by default of all that go on.",
            metavar="NAME",
            autocompletion=complete_name,
        ),
    ] = None,
    models: options.Models = DEFAULT_MODELS,
    store: options.Database = DEFAULT_STORE,
    exit_code: Annotated[
        bool,
        typer.Option(
            "--exit-code",
            help="Tell the outcome by the exit status as well: 0 promoted, 10 rolled back or aborted, 11 holding, 12 nothing to do.",
        ),
    ] = False,
    output: options.Output = Format.TABLE,
) -> None:
    """Move every experiment on by one tick, and end: for cron and CI. Servers run with `--controller elsewhere`.

    Example: anabranch tick minilm-int8 --exit-code
    """
    from anabranch.cli.controlling import run_tick

    raise typer.Exit(run_tick(terminal_of(context), store, models, name, output, tells_by_status=exit_code))
