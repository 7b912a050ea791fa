"""`serve` and `demo`: the verbs that do the work the others look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anabranch.cli import options
from anabranch.cli.completion import complete_baseline
from anabranch.cli.places import DEFAULT_MODELS, DEFAULT_STATE
from anabranch.cli.terminal import terminal_of


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for command in (demo, serve):
        app.command(rich_help_panel=options.RUN)(command)


def serve(
    context: typer.Context,
    models: options.Models = DEFAULT_MODELS,
    state: Annotated[
        Path, typer.Option(help="Folder of the journal and the default database.", metavar="DIR")
    ] = DEFAULT_STATE,
    store: Annotated[
        str,
        typer.Option(
            "--store",
            envvar="ANABRANCH_STORE",
            help="Database; a file in the state folder by default.",
            metavar="URL",
        ),
    ] = "",
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="MODEL=VARIANT that serves without an experiment; by default the variants' reference.",
            autocompletion=complete_baseline,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Inference port; 0 takes a free one.")] = 8001,
    workers: Annotated[int, typer.Option(help="Processes that share the port.")] = 1,
    threads: Annotated[int, typer.Option(help="Threads a worker runs models with; 0: a fair share.")] = 0,
    wire: Annotated[str, typer.Option(help="Transport of the inference port: ngh2 or grpcio.")] = "ngh2",
    metrics_port: options.MetricsPort = None,
    metrics_host: options.MetricsHost = "127.0.0.1",
    log_format: Annotated[
        str, typer.Option(help="Lines of the log: text, or json for a collector.")
    ] = "text",
    trace_share: Annotated[
        float,
        typer.Option(help="Share of the requests that get an OpenTelemetry span (extra otel); 0 sends none."),
    ] = 0.0,
    otlp_endpoint: Annotated[
        str,
        typer.Option(
            help="Collector of spans, OTLP over HTTP, as http://host:4318; by default OTEL_EXPORTER_OTLP_ENDPOINT.",
            metavar="URL",
        ),
    ] = "",
    max_message_bytes: Annotated[
        int, typer.Option(help="Largest request accepted, after decompression.")
    ] = 64 << 20,
    control_port: Annotated[
        int | None,
        typer.Option(help="Port of the control service; 0 takes a free one, none is opened by default."),
    ] = None,
    control_host: Annotated[str, typer.Option(help="Address of the control service.")] = "127.0.0.1",
    identities: Annotated[
        Path | None,
        typer.Option(help="YAML file that gives names in client certificates a role.", metavar="FILE"),
    ] = None,
    clients: Annotated[
        str,
        typer.Option(
            help="Who is served on the inference port: anyone, or known (a token or a certificate); beyond loopback always known.",
            metavar="WHO",
        ),
    ] = "anyone",
    class_target: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=MILLISECONDS: within what 99 of 100 requests of a class (realtime, interactive, batch) should be answered; may be given more than once."
        ),
    ] = None,
    forecast: Annotated[
        bool,
        typer.Option(
            "--forecast",
            help="Tell the requests of the next 15 minutes as metrics, for autoscalers; needs the extra forecast.",
        ),
    ] = False,
    max_feedback_rate: Annotated[
        float, typer.Option(help="Outcomes a second that one caller may report to one worker.")
    ] = 20_000.0,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=NUMBER: a limit of the inference port, see docs/security.md; may be given more than once."
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            help="Certificate of both ports and its chain, PEM; read again when it changes.", metavar="FILE"
        ),
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.", metavar="FILE")] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            help="Authorities of client certificates, PEM: a client must show one.",
            metavar="FILE",
        ),
    ] = None,
    worker_timeout: Annotated[
        float, typer.Option(help="Seconds without a sign of life after which a worker is replaced.")
    ] = 15.0,
    tick: Annotated[float, typer.Option(help="Seconds between two looks at the evidence.")] = 1.0,
    controller: Annotated[
        str,
        typer.Option(
            help="Where experiments are moved on: inside this server, or elsewhere, by `anabranch controller` or `tick`."
        ),
    ] = "inside",
    lease: Annotated[
        float,
        typer.Option(
            help="Of several servers on one store one moves experiments on: seconds after its last round until another does."
        ),
    ] = 10.0,
    keep_days: options.KeepDays = 30.0,
    journal_days: Annotated[
        float, typer.Option(help="Days for which raw outcomes stay in the journal, for export and replay.")
    ] = 30.0,
    journal_gib: Annotated[
        float, typer.Option(help="GiB of raw outcomes that stay; the oldest go first.")
    ] = 10.0,
    assignment_key: Annotated[
        Path | None,
        typer.Option(
            help="Key of assignment ids, the same for all servers of a store; made in the state folder by default.",
            metavar="FILE",
        ),
    ] = None,
    candidate_timeout: Annotated[
        float,
        typer.Option(
            help="Seconds after which the baseline stands in for a candidate that has not answered; earlier where a request's deadline needs it."
        ),
    ] = 10.0,
    max_queue: Annotated[
        int,
        typer.Option(
            help="Requests that may wait for each variant of a worker; beyond that copies give way first, then the least urgent, and the rest is refused at once."
        ),
    ] = 256,
    dataplane: Annotated[
        str, typer.Option(help="What is on the path of a request: router, or envoy with remote variants.")
    ] = "router",
    envoy: Annotated[
        Path | None,
        typer.Option(
            envvar="ANABRANCH_ENVOY",
            help="Envoy's program, to be run with --dataplane envoy; without it, start Envoy yourself.",
            metavar="FILE",
        ),
    ] = None,
    xds_port: Annotated[
        int, typer.Option(help="Where Envoy asks for its configuration, on loopback; 0 takes a free port.")
    ] = 18000,
) -> None:
    """Serve models over gRPC (Open Inference Protocol), and move their experiments on.

    SIGHUP reads the models folder and the TLS files again, and replaces the workers one by one, without a lost request.

    Example: anabranch serve --models .state/models --port 8001
    """
    from anabranch.cli.serving import run_server

    terminal = terminal_of(context)
    run_server(
        models=models,
        state=state,
        store=store,
        baselines=baseline or [],
        host=host,
        port=port,
        workers=workers,
        threads=threads,
        wire=wire,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        log_format=log_format,
        trace_share=trace_share,
        otlp_endpoint=otlp_endpoint,
        max_message_bytes=max_message_bytes,
        control_port=control_port,
        control_host=control_host,
        identities=identities,
        clients=clients,
        max_feedback_per_s=max_feedback_rate,
        limits=limit or [],
        class_targets=class_target or [],
        forecast=forecast,
        tls_certificate=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        worker_silence_s=worker_timeout,
        tick_s=tick,
        controller=controller,
        lease_s=lease,
        keep_days=keep_days,
        journal_days=journal_days,
        journal_gib=journal_gib,
        assignment_key=assignment_key,
        candidate_timeout_s=candidate_timeout,
        max_queue_size=max_queue,
        dataplane=dataplane,
        envoy=envoy,
        xds_port=xds_port,
        say=terminal.say,
    )


def demo(
    context: typer.Context,
    fast: Annotated[
        bool, typer.Option("--fast", help="Fewer variants and coarser claims: a short run for CI.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Go on serving afterwards.")] = False,
    state: Annotated[Path, typer.Option(help="Folder of everything the demo leaves.", metavar="DIR")] = Path(
        ".state/demo"
    ),
    rate: Annotated[float, typer.Option(help="Requests a second.")] = 50.0,
    port: Annotated[int, typer.Option(help="Inference port; 0 takes a free one.")] = 8001,
) -> None:
    """Build real variants of a real model, serve them, and let live traffic find the one to promote.

    Example: anabranch demo --fast
    """
    from anabranch.cli.demo.run import Demo, DemoSettings

    terminal = terminal_of(context)
    settings = DemoSettings(state=state, is_fast=fast, keeps_serving=keep, requests_per_s=rate, port=port)
    raise typer.Exit(Demo(settings, terminal).run())
