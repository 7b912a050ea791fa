"""`forecast`: the requests of the next minutes."""

from __future__ import annotations

from typing import Annotated

import typer

from anabranch.cli import options
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.cli.format import Format
from anabranch.cli.places import DEFAULT_STORE
from anabranch.cli.terminal import terminal_of


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(rich_help_panel=options.LOOK)(forecast)


def forecast(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(help="Only this model.", metavar="[MODEL]", show_default=False),
    ] = None,
    output: options.Output = Format.TABLE,
    store: options.Database = DEFAULT_STORE,
) -> None:
    """Forecast the requests of the next 15 minutes, by model and class of priority, over all servers of a store.

    `serve --forecast` tells the same as metrics, for autoscalers. An hour of history is needed; after two days the habits of a day
    are known, after two weeks those of a week. Needs the extra forecast.

    Example: anabranch forecast minilm -o json
    """
    from anabranch.cli.connection import existing_store, needs_store
    from anabranch.cli.output import encoded
    from anabranch.cli.traffic import classes_table, load_forecast

    terminal = terminal_of(context)
    needs_store(store, "volumes of requests")
    with existing_store(store) as opened:
        rows = load_forecast(opened, terminal.clock.now())
    if model is not None:
        found = [row for row in rows if row.model == model]
        if rows and not found:
            known = ", ".join(sorted({row.model for row in rows}))
            raise CommandFailed(ExitCode.NOT_FOUND, f"no requests of {model!r} are kept; there are: {known}")
        rows = found
    if output is not Format.TABLE:
        terminal.say(encoded(rows, output))
    elif rows:
        terminal.show(classes_table(rows, with_forecast=True))
    else:
        terminal.note("no requests are kept yet: servers store what they answered a few times a minute")
