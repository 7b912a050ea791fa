"""`db`: the tables of a store, for those who run databases."""

from __future__ import annotations

from typing import Annotated

import typer

from anabranch.cli import options
from anabranch.cli.format import Format
from anabranch.cli.places import DEFAULT_STORE
from anabranch.cli.terminal import terminal_of


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
    group.callback()(database)
    for command in (upgrade, current, check, compact):
        group.command()(command)
    app.add_typer(group, name="db", rich_help_panel=options.RUN)


def database() -> None:
    """See and bring on the tables of a store; servers make and upgrade them by themselves where they may."""


def upgrade(
    context: typer.Context, store: options.Database = DEFAULT_STORE, output: options.Output = Format.TABLE
) -> None:
    """Make the tables, or bring them to this release's; of several that do it at once, one does.

    Example: anabranch db upgrade --store postgresql://owner@db/anabranch
    """
    from anabranch.cli.database import upgrade_tables
    from anabranch.cli.output import encoded

    view = upgrade_tables(store)
    terminal = terminal_of(context)
    if output is not Format.TABLE:
        terminal.say(encoded(view, output))
    elif view.found == view.now:
        terminal.say(f"at version {view.now}: nothing to do")
    else:
        terminal.say(f"upgraded from {view.found or 'nothing'} to version {view.now}")


def current(
    context: typer.Context, store: options.Database = DEFAULT_STORE, output: options.Output = Format.TABLE
) -> None:
    """Show the version of the tables, the one this release needs, and how large each table is.

    Example: anabranch db current -o json
    """
    from anabranch.cli.database import look_at, size_table
    from anabranch.cli.output import encoded

    terminal = terminal_of(context)
    view = look_at(store)
    if output is not Format.TABLE:
        terminal.say(encoded(view, output))
        return
    terminal.say(f"tables at version {view.found or 'none'}, this release needs {view.needed}")
    if view.tables:
        terminal.show(size_table(view))


def check(
    context: typer.Context, store: options.Database = DEFAULT_STORE, output: options.Output = Format.TABLE
) -> None:
    """See that the tables are exactly those that this release needs; the exit status says it as well.

    Example: anabranch db check
    """
    from anabranch.cli.database import check_tables
    from anabranch.cli.output import encoded

    view = check_tables(store)
    said = f"the tables are those of version {view.found}"
    terminal_of(context).say(said if output is Format.TABLE else encoded(view, output))


def compact(
    context: typer.Context,
    store: options.Database = DEFAULT_STORE,
    keep_days: options.KeepDays = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    output: options.Output = Format.TABLE,
) -> None:
    """Remove what is not needed any more, as a leading controller does once an hour.

    Outcomes that are folded into evidence go, and single requests of experiments that ended long ago. Evidence, decisions and
    the audit log stay: every decision can still be verified.

    Example: anabranch db compact --dry-run
    """
    from anabranch.cli.database import compact_tables
    from anabranch.cli.output import encoded

    terminal = terminal_of(context)
    view = compact_tables(store, ended_before_s=terminal.clock.now() - keep_days * 86_400.0, is_dry=dry_run)
    if output is not Format.TABLE:
        terminal.say(encoded(view, output))
        return
    terminal.say(
        f"{'would remove' if dry_run else 'removed'} {view.deltas} deltas, {view.units} units, {view.pairs} pairs, {view.feedback} feedback, "
        f"{view.waiting} batches that wait for labels"
    )
