"""`bench load`: what a server takes, and how long its users wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from anabranch.cli import options
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.cli.format import Format
from anabranch.cli.output import encoded
from anabranch.cli.terminal import Terminal, terminal_of


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    bench = typer.Typer(help="Measure servers.", no_args_is_help=True)
    # With one verb alone, Typer would drop its name.
    bench.callback()(lambda: None)
    bench.command()(load)
    app.add_typer(bench, name="bench", rich_help_panel=options.RUN)


def load(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="The server's inference port.", metavar="HOST:PORT")],
    model: Annotated[str, typer.Option(help="The model to call, as the server names it.")] = "",
    rate: Annotated[
        float | None,
        typer.Option(
            help="Requests a second, at random moments (Poisson), whether or not earlier ones are answered. Absent: a number always in flight.",
            min=0.001,
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Requests always in flight, without --rate.", min=1)] = 64,
    duration: Annotated[float, typer.Option(help="Seconds that are measured.", min=0.001)] = 10.0,
    warm_up: Annotated[float, typer.Option(help="Seconds before that, not counted.", min=0.0)] = 1.0,
    connections: Annotated[int, typer.Option(help="Connections to the server.", min=1, max=1000)] = 4,
    deadline: Annotated[
        float, typer.Option(help="Seconds after which a request has failed.", min=0.001)
    ] = 10.0,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--input", help="An input of the request, NAME=JSON or NAME=@file.npy; repeat for several."
        ),
    ] = None,
    text: Annotated[str | None, typer.Option(help="A text for the model's one input of type BYTES.")] = None,
    tensor_bytes: Annotated[
        int | None, typer.Option(help="Grow the first input to this size; zeros.", min=1)
    ] = None,
    request_file: Annotated[
        Path | None, typer.Option(help="A serialized ModelInferRequest to send as it is.", metavar="FILE")
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(help="Sent with each request, NAME=VALUE; repeat for several.")
    ] = None,
    unit_metadata: Annotated[
        str, typer.Option(help="Metadata field that names the unit, such as x-user-id.", metavar="NAME")
    ] = "",
    units: Annotated[
        int, typer.Option(help="Number of units with --unit-metadata.", min=1, max=1_000_000)
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Of the moments and the units.")] = 0,
    tls_ca: Annotated[
        Path | None, typer.Option(help="Speak TLS; authorities of the server's certificate.", metavar="PEM")
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="Certificate of this client, for mutual TLS.", metavar="PEM")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Key of that certificate.", metavar="PEM")] = None,
    tls_server_name: Annotated[
        str, typer.Option(help="Name in the server's certificate, where it is not HOST.")
    ] = "",
    output: options.Output = Format.TABLE,
) -> None:
    """Send one request over and over, and report the answers by status, variant and latency.

    Latency counts from the moment at which a request was meant to leave, so that a server that stalls is charged for the
    requests that it held up. Without any input given, the request is zeros in the shapes of the model's metadata.

    A token in ANABRANCH_TOKEN, or in the file that ANABRANCH_TOKEN_FILE names, goes along.

    Exits with 1 when a request was not answered with OK, or none was sent.

    Example: anabranch bench load 127.0.0.1:8001 --model minilm --text "fine film" --rate 500
    """
    from anabranch.cli.bench.infer_request import parse_pairs
    from anabranch.cli.bench.load import Plan
    from anabranch.cli.bench.report import load_table
    from anabranch.cli.bench.run import Request, run_load, with_token
    from anabranch.cli.numbers import milliseconds
    from anabranch.wire.client import ClientTls

    if sum(each is not None for each in (given or None, text, tensor_bytes, request_file)) > 1:
        raise CommandFailed(
            ExitCode.BAD_INPUT, "give one of --input, --text, --tensor-bytes and --request-file"
        )
    if not model and request_file is None:
        raise CommandFailed(ExitCode.BAD_INPUT, "--model is missing: give it, or a whole --request-file")
    terminal = terminal_of(context)
    has_tls = tls_ca is not None or tls_certificate is not None or bool(tls_server_name)
    tls = ClientTls(
        ca_file=tls_ca,
        certificate_file=tls_certificate,
        key_file=tls_key,
        server_name=tls_server_name or None,
    )
    plan = Plan(
        message=b"",
        rate_per_s=rate,
        concurrency=concurrency,
        warm_up_s=warm_up,
        duration_s=duration,
        deadline_s=deadline,
        metadata=with_token(
            tuple(parse_pairs(metadata or (), "--metadata").items()), target, has_tls=has_tls
        ),
        unit_field=unit_metadata,
        units=units,
        seed=seed,
    )
    request = Request(
        model=model,
        given=parse_pairs(given or (), "--input"),
        text=text,
        tensor_bytes=tensor_bytes,
        file=request_file,
    )
    with _progress(terminal) as progress:
        report = run_load(
            target,
            request,
            plan,
            connections=connections,
            tls=tls if has_tls else None,
            progress=progress,
        )
    if output is Format.TABLE:
        terminal.show(load_table(report))
    else:
        terminal.say(encoded(report, output))
    for status, message in report.errors.items():
        terminal.note(f"{status}: {message}", style="red")
    if not report.kept_up:
        terminal.note(
            f"the generator could not keep up: one request in a hundred left {milliseconds(report.send_lag_ms.p99)} ms late "
            f"or later, and {report.skipped} not at all; ask for a lower rate, or give it a core of its own",
            style="yellow",
        )
    if not report.is_clean:
        raise typer.Exit(ExitCode.FAILURE)


@contextmanager
def _progress(terminal: Terminal) -> Iterator[Callable[[str], None] | None]:
    """A line that says how it goes, while people look."""
    if not terminal.err.is_terminal:
        yield None
        return
    from rich.live import Live
    from rich.text import Text

    # Refreshed only when told: a thread of its own would take time from the generator.
    with Live(console=terminal.err, auto_refresh=False, transient=True) as live:
        yield lambda line: live.update(Text(line, style="dim"), refresh=True)
