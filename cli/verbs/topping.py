"""`top`: experiments on the whole screen, live."""

from __future__ import annotations

from typing import Annotated

import typer

from anabranch.cli import options
from anabranch.cli.completion import complete_name
from anabranch.cli.connection import control_plane
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.cli.places import DEFAULT_STORE
from anabranch.cli.terminal import terminal_of


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(rich_help_panel=options.LOOK)(top)


def top(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            help="Name of the experiment; the list of all when absent.",
            metavar="[NAME]",
            autocompletion=complete_name,
            show_default=False,
        ),
    ] = None,
    refresh: options.Refresh = 1.0,
    light: Annotated[bool, typer.Option("--light", help="For a light background; t changes it.")] = False,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Watch experiments on the whole screen: split, latency, posterior, verdicts, decisions; ask by keys.

    Pages by 1 to 5; p pauses, r resumes, m promotes, a aborts, u undoes, each after one more question; q leaves.

    Example: anabranch top minilm-int8
    """
    terminal = terminal_of(context)
    if not terminal.out.is_terminal:
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            "top draws on a terminal, and stdout is none",
            "use `anabranch get --watch`, with -o json for scripts",
        )
    from anabranch.cli.top.app import Top
    from anabranch.cli.top.looker import Looker

    with control_plane(store) as opened:
        looker = Looker(store=opened, now=terminal.clock.now, actor=terminal.actor)
        if name is not None:
            looker.look(name)
        Top(looker, name=name, refresh_s=refresh, is_light=light).run()
