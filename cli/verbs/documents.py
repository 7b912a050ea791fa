"""`apply`, `diff` and `schema`: the documents that experiments are written in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from anabranch.cli import options
from anabranch.cli.connection import control_plane, created_store, existing_store, sqlite_path
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed, problem_list
from anabranch.cli.format import Format
from anabranch.cli.output import encoded
from anabranch.cli.places import DEFAULT_MODELS, DEFAULT_STORE
from anabranch.cli.terminal import Terminal, terminal_of


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for command in (apply, diff, schema):
        app.command(rich_help_panel=options.DOCUMENTS)(command)


def apply(
    context: typer.Context,
    file: options.File,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, and say what would happen.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Apply although candidates failed the offline gate, or are not served yet; the audit log says so.",
        ),
    ] = False,
    models: options.Models = DEFAULT_MODELS,
    output: options.Output = Format.TABLE,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Create an experiment, begin it anew with a changed document, or change what is still to come of one that goes on.

    Example: anabranch apply -f experiment.yaml --dry-run
    """
    from anabranch.bandit.costs import unpriced_text
    from anabranch.cli.servers import connect, is_server
    from anabranch.router.applying import (
        Applied,
        built_variants,
        check_applicable,
        failed_gates,
        outcome_of,
        override_remark,
        priced,
        stale_baseline,
    )
    from anabranch.store.catalog_check import catalog_problems
    from anabranch.store.document import document_warnings, parse

    terminal = terminal_of(context)
    document = _read(file)
    name = _checked(file, document)
    for warning in document_warnings(document):
        terminal.note(f"warning: {warning}", style="yellow")
    if is_server(store):
        from anabranch.cli.remote_store import translated

        # The server checks everything, the gate included: it has the variants.
        with connect(store) as client, translated():
            applied = client.apply(document, dry_run=dry_run, force=force)
        _say_applied(terminal, name, applied.outcome, output, dry_run=dry_run)
        if not dry_run and applied.outcome != Applied.UNCHANGED:
            terminal.note(f"follow it with `anabranch get {name} -w --server {store}`")
        return
    failed = failed_gates(parse(document), models)
    if failed and not force:
        raise CommandFailed(
            ExitCode.REFUSED,
            problem_list(
                f"experiment {name}",
                (f"{variant} failed the offline gate: {why}" for variant, why in failed.items()),
            ),
            "leave these candidates out, or say --force",
        )
    path = sqlite_path(store)
    outcome, catalog, stale = Applied.CREATED, None, None
    built = built_variants(parse(document), models)
    if path is None or path.is_file():
        with existing_store(store) as opened:
            kept = opened.experiments()
            document = priced(document, kept, built)
            _checked(file, document)
            check_applicable(parse(document), document, kept)
            outcome, catalog = outcome_of(name, document, kept), opened.ledger.catalog()
            experiment = parse(document)
            stale = stale_baseline(experiment, outcome, opened.baseline(experiment.model))
    else:
        document = priced(document, (), built)
        _checked(file, document)
    if unpriced := unpriced_text(parse(document)):
        raise CommandFailed(ExitCode.REFUSED, unpriced)
    if stale and not force:
        raise CommandFailed(
            ExitCode.REFUSED, stale, "or say --force: the document's baseline gets all traffic at once"
        )
    unserved = [] if catalog is None else catalog_problems(parse(document), catalog)
    if unserved and not force:
        raise CommandFailed(
            ExitCode.REFUSED,
            problem_list(f"experiment {name} on what is served", unserved),
            "build what is missing and send the server SIGHUP, or say --force: the next tick checks again",
        )
    if dry_run:
        _say_applied(terminal, name, outcome, output, dry_run=True)
        if catalog is None:
            terminal.note("no server has said yet what it serves: its next tick checks that")
        return
    if path is not None and not path.is_file():
        terminal.note(f"creating the database {path}")
    with created_store(store) as opened:
        opened.apply(document, terminal.actor, terminal.clock.now(), remark=override_remark(failed, stale))
    _say_applied(terminal, name, outcome, output, dry_run=False)
    if outcome is Applied.REVISED:
        terminal.note(f"the evidence is kept; the controller's next tick answers: `anabranch history {name}`")
    elif outcome is not Applied.UNCHANGED:
        terminal.note(
            "the controller inside `anabranch serve` starts it with its next tick;\n"
            "that tick also checks that the model and variants named in it are served\n"
            f"follow it with `anabranch get {name} -w`"
        )


def diff(
    context: typer.Context,
    file: options.File,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 when there is a difference.")
    ] = False,
    output: options.Output = Format.TABLE,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Compare a document with the one that is applied.

    Example: anabranch diff -f experiment.yaml --exit-code
    """
    from anabranch.cli.servers import is_server
    from anabranch.router.applying import unified

    terminal = terminal_of(context)
    document = _read(file)
    name = _checked(file, document)
    path = None if is_server(store) else sqlite_path(store)
    applied = None
    if path is None or path.is_file():
        with control_plane(store) as opened:
            applied = next((kept for kept in opened.experiments() if kept.name == name), None)
    lines = unified(None if applied is None else applied.document, document, name, file)
    if output is not Format.TABLE:
        terminal.say(encoded({"experiment": name, "is_same": not lines, "lines": lines}, output))
    for line in lines if output is Format.TABLE else ():
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        terminal.out.print(line, style=style, markup=False, soft_wrap=True)
    if not lines:
        terminal.note(f"{name} is applied as it is in {file}")
    elif exit_code:
        raise typer.Exit(ExitCode.FAILURE)


def schema(context: typer.Context, output: options.Output = Format.JSON) -> None:
    """Print the JSON Schema of the document, for editors.

    Example: anabranch schema > experiment.schema.json
    """
    from anabranch.store.document import json_schema

    as_json = Format.JSON if output is Format.TABLE else output
    terminal_of(context).say(encoded(json_schema(), as_json))


def _say_applied(terminal: Terminal, name: str, outcome: str, output: Format, *, dry_run: bool) -> None:
    if output is Format.TABLE:
        terminal.say(f"experiment {name} {outcome}" + (" (dry run)" if dry_run else ""))
    else:
        terminal.say(encoded({"experiment": name, "outcome": outcome, "dry_run": dry_run}, output))


def _read(file: str) -> dict[str, object]:
    from anabranch.store.document import InvalidDocument, read_document

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CommandFailed(ExitCode.BAD_INPUT, f"there is no file {file}", "check --file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(ExitCode.BAD_INPUT, f"cannot read {file}: {error}", "check --file") from error
    try:
        return read_document(text)
    except InvalidDocument as error:
        raise CommandFailed(ExitCode.BAD_INPUT, problem_list(file, error.problems)) from error


def _checked(file: str, document: dict[str, object]) -> str:
    """The experiment's name, once the whole document is found sound."""
    from anabranch.store.document import InvalidDocument, parse

    try:
        return parse(document).name
    except InvalidDocument as error:
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            problem_list(file, error.problems),
            "`anabranch schema` prints what is allowed",
        ) from error
