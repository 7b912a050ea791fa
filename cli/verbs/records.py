"""`history`, `report` and `events`: what was decided, who served a model when, and who asked for what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anabranch.cli import options
from anabranch.cli.completion import complete_name
from anabranch.cli.connection import find_experiment, naming_others, read_plane
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.cli.format import Format
from anabranch.cli.output import encoded
from anabranch.cli.places import DEFAULT_STORE
from anabranch.cli.plots.pictures import MissingRenderer, PictureKind, picture, require
from anabranch.cli.terminal import Terminal, terminal_of

if TYPE_CHECKING:
    from anabranch.store.ledger_port import Tenure

_PLOT_WIDTH = 820.0
"""Of a plot as a file, in pixels of a page."""


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command(rich_help_panel=options.LOOK)(history)
    app.command(rich_help_panel=options.LOOK)(report)
    app.command(rich_help_panel=options.LOOK)(events)


def history(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="Name of the experiment.",
            metavar="[NAME]",
            autocompletion=complete_name,
            show_default=False,
        ),
    ] = "",
    model: Annotated[
        str,
        typer.Option("--model", help="A model instead: who served it when, and why.", show_default=False),
    ] = "",
    output: options.Output = Format.TABLE,
    last: Annotated[
        int | None, typer.Option("--last", help="Only the last decisions.", min=1, show_default=False)
    ] = None,
    watch: options.Watch = False,
    refresh: options.Refresh = 1.0,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Show the decision log: what changed, when, and why; or with --model, who was its baseline when, and why.

    With --watch new decisions follow, a line each, until the experiment is over or Inconclusive.

    Example: anabranch history minilm-int8 --last 5
    """
    from anabranch.cli.following import follow_decisions
    from anabranch.cli.loading import load_decisions
    from anabranch.cli.tables import history_table

    terminal = terminal_of(context)
    if bool(name) == bool(model):
        raise CommandFailed(
            ExitCode.BAD_INPUT, "give the name of an experiment, or --model", "see `anabranch history --help`"
        )
    if model:
        with read_plane(store) as opened:
            _show_tenures(terminal, opened.ledger.tenures(model), model, output)
        return
    with read_plane(store) as opened:
        decisions = load_decisions(opened, name)
        shown = decisions if last is None else decisions[-last:]
        if watch:
            follow_decisions(terminal, opened, name, shown, output, refresh)
            return
    if output is not Format.TABLE:
        terminal.say(encoded(shown, output))
    elif shown:
        terminal.show(history_table(shown))
    else:
        terminal.note(f"{name} has no decisions yet: the controller inside `anabranch serve` takes them")


def _show_tenures(terminal: Terminal, tenures: Sequence[Tenure], model: str, output: Format) -> None:
    from anabranch.cli.tables import tenures_table

    if output is not Format.TABLE:
        terminal.say(encoded(tenures, output))
    elif tenures:
        terminal.show(tenures_table(tenures))
    else:
        terminal.note(f"nothing of {model} was promoted on this store: the server's own baseline serves")


def report(
    context: typer.Context,
    name: options.Name,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help="Write Markdown there instead of to stdout.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            help="Write one HTML page with plots there, which needs nothing else.",
            dir_okay=False,
            show_default=False,
            metavar="FILE",
        ),
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(
            "--plots",
            help="Write every plot into this folder.",
            file_okay=False,
            show_default=False,
            metavar="DIR",
        ),
    ] = None,
    plots_as: Annotated[
        PictureKind,
        typer.Option(
            "--plots-as",
            help="How --plots writes them; png needs `pip install 'anabranch[png]'`, and a font.",
        ),
    ] = PictureKind.SVG,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Tell the experiment's story: what was asked, what happened, why; as Markdown or as a page with plots.

    Example: anabranch report minilm-int8 --html report.html
    """
    terminal = terminal_of(context)
    if plots is None and plots_as is not PictureKind.SVG:
        raise CommandFailed(
            ExitCode.BAD_INPUT, "--plots-as says how plots are written, and none are", "add --plots DIR"
        )
    try:
        require(plots_as)
    except MissingRenderer as error:
        raise CommandFailed(ExitCode.FAILURE, str(error)) from error
    if html is not None or plots is not None:
        from anabranch.cli.reports.page import page as write_page
        from anabranch.cli.reports.telling import tell

        with read_plane(store) as opened, terminal.working("computing the past again"):
            story = tell(opened, name, terminal.clock.now())
        if html is not None:
            _write(terminal, html, write_page(story).encode(), "--html")
        for figure in story.figures if plots is not None else ():
            assert plots is not None
            drawn = picture(figure.draw(_PLOT_WIDTH, True), plots_as)
            _write(terminal, plots / f"{figure.name}.{plots_as}", drawn, "--plots")
        if file is None:
            return
    from anabranch.cli.loading import load_decisions, load_view
    from anabranch.cli.report import report as write_report

    with read_plane(store) as opened:
        view = load_view(opened, name, terminal.clock.now())
        text = write_report(view, load_decisions(opened, name), find_experiment(opened, name).document)
    if file is None:
        terminal.say(text.rstrip("\n"))
        return
    _write(terminal, file, text.encode(), "--file")


def _write(terminal: Terminal, file: Path, content: bytes, option: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    except OSError as error:
        raise CommandFailed(
            ExitCode.FAILURE, f"cannot write {file}: {error.strerror}", f"check {option}"
        ) from error
    terminal.note(f"wrote {file}")


def events(
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
    output: options.Output = Format.TABLE,
    watch: options.Watch = False,
    refresh: options.Refresh = 1.0,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Show the audit log: who asked for what, when.

    Example: anabranch events minilm-int8 -o json
    """
    from anabranch.cli.following import follow_events
    from anabranch.cli.tables import events_table

    terminal = terminal_of(context)
    with read_plane(store) as opened:
        if name is not None:
            with naming_others(opened, name):
                opened.ledger.specs(name)
        if watch:
            follow_events(terminal, opened, name, output, refresh)
        found = opened.events(name)
    if output is not Format.TABLE:
        terminal.say(encoded(found, output))
    elif found:
        terminal.show(events_table(found))
    else:
        terminal.note("no events yet")
