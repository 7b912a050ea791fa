"""`init` and `doctor`: a first document for a model, and what an installation lacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anabranch.cli import options
from anabranch.cli.completion import complete_model
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed, did_you_mean
from anabranch.cli.format import Format
from anabranch.cli.places import DEFAULT_MODELS, DEFAULT_STATE
from anabranch.cli.terminal import Terminal, terminal_of

if TYPE_CHECKING:
    from anabranch.cli.offline import Offline
    from anabranch.cli.surgery import Finding


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command(rich_help_panel=options.DOCUMENTS)(init)
    app.command(rich_help_panel=options.ABOUT)(doctor)


def init(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="A model that is built.", autocompletion=complete_model, show_default=False)
    ],
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", help="Write there instead of to stdout.", dir_okay=False, show_default=False
        ),
    ] = None,
    baseline: Annotated[
        str, typer.Option(help="Which variant is the baseline; the reference by default.")
    ] = "",
    candidate: Annotated[
        list[str] | None,
        typer.Option(help="A candidate; repeat. By default all variants that did not fail the offline gate."),
    ] = None,
    name: Annotated[str, typer.Option(help="Of the experiment.")] = "",
    labels: Annotated[
        bool, typer.Option("--labels", help="Clients send the true class: ask for accuracy too.")
    ] = False,
    unit: Annotated[
        str, typer.Option(help="Request metadata that names the unit, such as x-user-id.", metavar="KEY")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    models: options.Models = DEFAULT_MODELS,
    server: options.Server = "",
) -> None:
    """Write a commented experiment document for a model, from what is known of its variants.

    It is valid as it is: read its comments, change what is not yours, and apply it. With --server the variants are those that
    a server serves, and its baseline is the baseline.

    Example: anabranch init minilm -f experiment.yaml
    """
    from anabranch.cli.starting import choose, document_text

    terminal = terminal_of(context)
    reference, known = _served_variants(server, model) if server else _built_variants(models, model)
    start = choose(
        model,
        known,
        reference=reference,
        baseline=baseline,
        candidates=candidate or (),
        name=name,
        has_labels=labels,
        unit=unit,
    )
    text = document_text(start, known)
    if file is None:
        terminal.say(text.rstrip("\n"))
        return
    if file.exists() and not force:
        raise CommandFailed(
            ExitCode.CONFLICT, f"{file} is there already", "choose another --file, or say --force"
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandFailed(
            ExitCode.FAILURE, f"cannot write {file}: {error.strerror}", "check --file"
        ) from error
    there = f" --server {server}" if server else ""
    terminal.note(f"wrote {file}; apply it with `anabranch apply -f {file}{there}`")


def _built_variants(models: Path, model: str) -> tuple[str, dict[str, Offline]]:
    """Who serves a built model by itself, if that is known, and what is known of its variants."""
    from anabranch.cli.offline import of_manifests
    from anabranch.router.models import UnknownModel, default_baseline, find_manifests

    try:
        found = find_manifests(models)
    except FileNotFoundError as error:
        raise CommandFailed(ExitCode.NOT_FOUND, str(error), "or say where they are with --models") from error
    if model not in found:
        raise CommandFailed(
            ExitCode.NOT_FOUND,
            f"there is no model {model!r} in {models}; there are: {', '.join(found)}{did_you_mean(model, found)}",
        )
    try:
        reference = default_baseline(found[model])
    except UnknownModel:
        reference = ""
    return reference, of_manifests(found[model])


def _served_variants(server: str, model: str) -> tuple[str, dict[str, Offline]]:
    """Who serves a model of a server without an experiment, and what is known of its variants."""
    from anabranch.cli.offline import of_served
    from anabranch.cli.remote_store import translated
    from anabranch.cli.servers import connect

    with connect(server) as client, translated():
        served = client.variants()
    found = {each.name: each for each in served if each.model == model}
    if not found:
        known = sorted({each.model for each in served})
        raise CommandFailed(
            ExitCode.NOT_FOUND,
            f"{server} serves no model {model!r}; it serves: {', '.join(known) or 'none'}{did_you_mean(model, known)}",
        )
    reference = next((name for name, each in found.items() if each.is_baseline), "")
    return reference, of_served(found)


def doctor(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address that a server would use.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port that a server would use.")] = 8001,
    state: Annotated[
        Path, typer.Option(help="Folder of the journal and the default database.", metavar="DIR")
    ] = DEFAULT_STATE,
    models: options.Models = DEFAULT_MODELS,
    store: Annotated[
        str,
        typer.Option(
            "--store",
            envvar="ANABRANCH_STORE",
            help="Database; a file in the state folder by default.",
            metavar="URL",
        ),
    ] = "",
    server: options.Server = "",
    output: options.Output = Format.TABLE,
) -> None:
    """Check the installation, runtimes, port, folders, database, disk and clock, and say what to do.

    With --server a server is examined from here: whether it answers, whom it takes you for, its release, its variants, its
    experiments and its clock. Exits with 1 when something would not work.

    Example: anabranch doctor --port 8001
    """
    from anabranch.cli.surgery import Surgery, examine

    terminal = terminal_of(context)
    if server:
        from anabranch.cli.remote_surgery import examine_server

        with terminal.working(f"looking at {server}"):
            _tell(terminal, examine_server(server, terminal.clock.now()), output)
        return
    surgery = Surgery(
        host=host,
        port=port,
        state=state,
        models=models,
        store=store or f"sqlite:///{state / 'anabranch.db'}",
        now=terminal.clock.now(),
    )
    with terminal.working("looking at everything"):
        findings = examine(surgery)
    _tell(terminal, findings, output)


def _tell(terminal: Terminal, findings: Sequence[Finding], output: Format) -> None:
    from anabranch.cli.output import encoded
    from anabranch.cli.surgery import Grade, findings_table

    if output is Format.TABLE:
        terminal.show(findings_table(findings))
    else:
        terminal.say(encoded(findings, output))
    bad = [finding for finding in findings if finding.grade is Grade.BAD]
    if bad:
        terminal.note(f"{len(bad)} of {len(findings)} checks failed", style="bold red")
        raise typer.Exit(ExitCode.FAILURE)
