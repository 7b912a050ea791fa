"""`export`: the raw outcomes of an experiment for tools of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anabranch.cli import options
from anabranch.cli.connection import existing_store, find_experiment
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.cli.format import Format
from anabranch.cli.output import encoded
from anabranch.cli.places import DEFAULT_STATE, DEFAULT_STORE
from anabranch.cli.terminal import terminal_of


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(rich_help_panel=options.LOOK)(export)


def export(
    context: typer.Context,
    name: options.Name,
    parquet: Annotated[Path, typer.Option(help="The file to write.", metavar="FILE")],
    state: Annotated[
        Path, typer.Option(help="State folder of the server, which holds the journal.", metavar="DIR")
    ] = DEFAULT_STATE,
    store: options.Store = DEFAULT_STORE,
    output: options.Output = Format.TABLE,
) -> None:
    """Write an experiment's raw outcomes as a Parquet file: requests, compared replies and feedback, a row each.

    They come from the journal of one server, as far back as it is kept (`serve --journal-days`). What decisions rest on
    is in the store, and is not needed for this.

    Example: anabranch export minilm-int8 --parquet outcomes.parquet
    """
    try:
        from anabranch.store.outcome_table import Wanted, write_outcomes
    except ImportError as error:
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            "Parquet needs pyarrow",
            "pip install 'anabranch[parquet]'",
        ) from error
    from anabranch.store.document import parse

    terminal = terminal_of(context)
    journal = state / "journal"
    if not journal.is_dir():
        raise CommandFailed(
            ExitCode.NOT_FOUND,
            f"there is no journal at {journal}",
            "give the server's state folder with --state",
        )
    with existing_store(store) as opened:
        kept = find_experiment(opened, name)
    wanted = Wanted(experiment=kept.id, arms=parse(kept.document).arms, first_epoch=kept.first_epoch)
    done = write_outcomes(journal, wanted, parquet)
    if output is Format.TABLE:
        terminal.say(f"{done.rows:,} rows in {parquet}")
    else:
        terminal.say(encoded({"rows": done.rows, "file": str(parquet), "damage": done.damage}, output))
    for reason in done.damage:
        terminal.note(f"read in part only: {reason}", style="yellow")
