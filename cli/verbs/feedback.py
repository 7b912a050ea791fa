"""`feedback import`: outcomes that became known in bulk, out of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anabranch.cli import options
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.cli.format import Format
from anabranch.cli.output import encoded
from anabranch.cli.terminal import terminal_of

_SHOWN = 10


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    feedback = typer.Typer(help="Report what became known about answers.", no_args_is_help=True)
    # With one verb alone, Typer would drop its name.
    feedback.callback()(lambda: None)
    feedback.command("import")(import_file)
    app.add_typer(feedback, name="feedback", rich_help_panel=options.CHANGE)


def import_file(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="Outcomes: .csv, .jsonl, .ndjson or .parquet.", metavar="FILE", exists=True)
    ],
    server: Annotated[
        str, typer.Option(help="The inference port: HOST:PORT, grpcs://HOST:PORT.", metavar="ADDRESS")
    ] = "127.0.0.1:8001",
    metric: Annotated[str, typer.Option(help="Metric of rows that name none.")] = "correct",
    id_column: Annotated[str, typer.Option(help="Column of the assignment ids.")] = "assignment_id",
    batch: Annotated[int, typer.Option(help="Rows a call.", min=1, max=10_000)] = 1_000,
    patience: Annotated[
        float, typer.Option(help="Seconds for which a server that takes nothing is asked again.", min=0.0)
    ] = 60.0,
    restart: Annotated[bool, typer.Option(help="Begin anew, whatever an earlier run did.")] = False,
    refused: Annotated[
        Path | None,
        typer.Option(
            help="Write every row that does not count, with the reason, as JSON lines.", metavar="FILE"
        ),
    ] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(help="Speak TLS; authorities of the server's certificate.", metavar="PEM")
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="Certificate of this client, for mutual TLS.", metavar="PEM")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Key of that certificate.", metavar="PEM")] = None,
    output: options.Output = Format.TABLE,
) -> None:
    """Send the outcomes of a file to a server; an outcome counts once, however often it is sent.

    Columns: assignment_id, optionally metric, and of label, correct and value the one that the row fills. What was
    acknowledged is on the server's disk; FILE.import remembers how far that is, so that an interrupted import goes on.

    Exits with 1 when a row was refused or the server took nothing for too long.

    Example: anabranch feedback import labels.csv --server 127.0.0.1:8001
    """
    from anabranch.cli.feedback.importing import Refused, import_rows
    from anabranch.cli.feedback.progress import ProgressFile
    from anabranch.cli.feedback.rows import read_rows
    from anabranch.cli.output import json_line
    from anabranch.client.sync import Client
    from anabranch.client.target import BadTarget, Credentials, token_from_environment

    terminal = terminal_of(context)
    kept = ProgressFile(file, {"server": server, "metric": metric, "id_column": id_column})
    if restart:
        kept.remove()
    done = kept.load()
    if done.rows:
        terminal.note(f"going on after row {done.rows}, which was the last one acknowledged")
    shown: list[Refused] = []
    try:
        client = Client(
            server,
            Credentials(
                token=token_from_environment(),
                ca_file=tls_ca,
                certificate_file=tls_certificate,
                key_file=tls_key,
            ),
        )
    except BadTarget as error:
        raise CommandFailed(ExitCode.BAD_INPUT, str(error)) from error
    written = refused.open("a" if done.rows else "w", encoding="utf-8") if refused else None

    def refuse(row: Refused) -> None:
        if len(shown) < _SHOWN:
            shown.append(row)
        if written is not None:
            written.write(json_line(row) + "\n")

    try:
        with client:
            import_rows(
                read_rows(file, id_column=id_column, metric=metric),
                done,
                submit=client.feedback,
                save=kept.save,
                refuse=refuse,
                clock=terminal.clock,
                batch_rows=batch,
                patience_s=patience,
            )
    finally:
        if written is not None:
            written.close()
    kept.remove()
    if output is not Format.TABLE:
        terminal.say(encoded({"rows": done.rows, "accepted": done.accepted, "refused": done.refused}, output))
    else:
        by_metric = ", ".join(f"{number:,} {name}" for name, number in sorted(done.accepted.items()))
        terminal.say(f"{done.rows:,} rows: accepted {by_metric or 'none'}; refused {done.refused:,}")
        for row in shown:
            terminal.note(f"  row {row.row}: {row.problem}")
        if done.refused > len(shown):
            terminal.note(f"  and {done.refused - len(shown):,} more: --refused FILE lists all of them")
    if done.refused:
        raise typer.Exit(ExitCode.FAILURE)
