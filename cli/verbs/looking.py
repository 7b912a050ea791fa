"""`get` and `describe`: experiments as they are now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from anabranch.cli import options
from anabranch.cli.completion import complete_name
from anabranch.cli.connection import read_plane
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.cli.format import Format
from anabranch.cli.liveness import standstill
from anabranch.cli.output import encoded, json_line
from anabranch.cli.places import DEFAULT_STORE
from anabranch.cli.terminal import Terminal, terminal_of

if TYPE_CHECKING:
    from anabranch.cli.view_types import ExperimentView

_PIPE_WIDTH = 120
_LEAST_WIDTH = 60
_LINES = 36


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command(rich_help_panel=options.LOOK)(get)
    app.command(rich_help_panel=options.LOOK)(describe)


def get(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            help="Name of the experiment; all of them when absent.",
            metavar="[NAME]",
            autocompletion=complete_name,
            show_default=False,
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow one experiment until it is over or Inconclusive.")
    ] = False,
    output: options.Output = Format.TABLE,
    refresh: Annotated[
        float, typer.Option("--refresh", help="Seconds between two looks with --watch.", min=0.1)
    ] = 1.0,
    classes: Annotated[
        bool,
        typer.Option(
            "--classes",
            help="List models and classes of priority instead: requests a second, and the share within the class's target.",
        ),
    ] = False,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """List the experiments, or show one of them.

    With --watch and -o json a line comes for every change: for scripts.

    Example: anabranch get minilm-int8 --watch
    """
    terminal = terminal_of(context)
    if classes:
        if name is not None or watch:
            raise CommandFailed(ExitCode.BAD_INPUT, "--classes lists all models: leave NAME and --watch out")
        _list_classes(terminal, store, output)
        return
    with read_plane(store) as opened:
        # Imported once there is something to look at.
        from anabranch.cli.loading import load_rows, load_view, view_loader
        from anabranch.cli.tables import experiments_table

        now = terminal.clock.now
        if watch:
            _warn(terminal, store)
            name = name or _only([row.name for row in load_rows(opened, now())])
            _follow(terminal, view_loader(opened, name, now), output, refresh)
        elif name is not None:
            view = load_view(opened, name, now())
            if output is Format.TABLE:
                _draw(terminal, view)
            else:
                terminal.say(encoded(view, output))
            if not view.is_over:
                _warn(terminal, store)
        else:
            rows = load_rows(opened, now())
            if output is not Format.TABLE:
                terminal.say(encoded(rows, output))
            elif rows:
                terminal.show(experiments_table(rows, terminal.out.width))
            else:
                terminal.note("no experiments yet: create one with `anabranch apply -f FILE`")


def describe(
    context: typer.Context,
    name: options.Name,
    output: options.Output = Format.TABLE,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Explain one experiment: every number, verdict and reason.

    Example: anabranch describe minilm-int8
    """
    from anabranch.cli.description import describe_view
    from anabranch.cli.loading import load_view

    terminal = terminal_of(context)
    with read_plane(store) as opened:
        view = load_view(opened, name, terminal.clock.now())
    if output is not Format.TABLE:
        terminal.say(encoded(view, output))
        return
    for line in describe_view(view):
        terminal.out.print(line, soft_wrap=True)
    if not view.is_over:
        _warn(terminal, store)


def _list_classes(terminal: Terminal, url: str, output: Format) -> None:
    from anabranch.cli.connection import existing_store, needs_store
    from anabranch.cli.traffic import classes_table, load_traffic

    needs_store(url, "volumes of requests")
    with existing_store(url) as opened:
        rows = load_traffic(opened, terminal.clock.now())
    if output is not Format.TABLE:
        terminal.say(encoded(rows, output))
    elif rows:
        terminal.show(classes_table(rows, with_forecast=False))
    else:
        terminal.note("no requests in the last hour")


def _warn(terminal: Terminal, url: str) -> None:
    if reason := standstill(url):
        terminal.note(reason, style="yellow")


def _only(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    if not names:
        raise CommandFailed(
            ExitCode.NOT_FOUND, "there is no experiment to watch", "create one with `anabranch apply -f FILE`"
        )
    raise CommandFailed(
        ExitCode.BAD_INPUT,
        f"--watch follows one experiment; there are: {', '.join(names)}",
        "name one of them",
    )


def _draw(terminal: Terminal, view: ExperimentView) -> None:
    from anabranch.cli.dashboard import render

    console = terminal.out
    width = console.width if console.is_terminal else min(console.width, _PIPE_WIDTH)
    # Every variant fits, and the end of the decision log below.
    terminal.show(render(view, max(width, _LEAST_WIDTH), _LINES + 2 * len(view.arms)))


def _follow(terminal: Terminal, load: Callable[[], ExperimentView], output: Format, refresh_s: float) -> None:
    from anabranch.cli.live import LiveDashboard
    from anabranch.cli.story import is_settled

    if output is Format.TABLE:
        dashboard = LiveDashboard(terminal.out)
        last = dashboard.watch(load, until=is_settled, refresh_s=refresh_s, clock=terminal.clock)
        _say_what_is_left(terminal, last)
        return
    shown: ExperimentView | None = None
    while True:
        view = load()
        if shown is None or _timeless(view) != _timeless(shown):
            terminal.say(json_line(view) if output is Format.JSON else f"---\n{encoded(view, output)}")
            shown = view
        if is_settled(view):
            _say_what_is_left(terminal, view)
            return
        terminal.clock.wait(refresh_s)


def _say_what_is_left(terminal: Terminal, view: ExperimentView) -> None:
    for sentence in view.waiting_for:
        terminal.note(f"{view.name} is {view.phase} and waits for {sentence}")


def _timeless(view: ExperimentView) -> ExperimentView:
    """The view without what changes by the clock alone."""
    arms = tuple(
        replace(
            arm,
            requests_per_s=None,
            verdicts=tuple(
                replace(verdict, expected_half_s=None, expected_most_s=None) for verdict in arm.verdicts
            ),
        )
        for arm in view.arms
    )
    return replace(view, at_s=0.0, age_s=0.0, elapsed_s=None, steps=(), waiting_for=(), arms=arms)
