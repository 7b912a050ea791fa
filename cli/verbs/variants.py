"""`variants`: what is built, and what is taken in: files, and models that are served elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anabranch.cli import options
from anabranch.cli.completion import complete_model, complete_variant
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.cli.format import Format
from anabranch.cli.places import DEFAULT_MODELS
from anabranch.cli.terminal import terminal_of

_PLOT_WIDTH, _PLOT_HEIGHT = 100, 16


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(context_settings={"help_option_names": ["-h", "--help"]})
    group.callback(invoke_without_command=True)(variants)
    group.command("list")(list_variants)
    group.command("show")(show)
    group.command("compare")(compare)
    group.command("profile")(profile)
    group.command("add")(add)
    group.command("add-remote")(add_remote)
    group.command("price")(price)
    app.add_typer(group, name="variants", rich_help_panel=options.RUN)


def variants(
    context: typer.Context, models: options.Models = DEFAULT_MODELS, output: options.Output = Format.TABLE
) -> None:
    """List the variants: size, accuracy, agreement with the reference, latency; see also the commands below.

    Example: anabranch variants -o yaml
    """
    if context.invoked_subcommand is None:
        _list(context, models, output)


def list_variants(
    context: typer.Context, models: options.Models = DEFAULT_MODELS, output: options.Output = Format.TABLE
) -> None:
    """List the variants: size, accuracy, agreement with the reference, latency.

    Example: anabranch variants list --models .state/demo/models
    """
    _list(context, models, output)


def _list(context: typer.Context, models: Path, output: Format) -> None:
    from anabranch.cli.building import variant_table
    from anabranch.cli.output import encoded
    from anabranch.router.models import find_manifests

    terminal = terminal_of(context)
    try:
        found = find_manifests(models)
    except FileNotFoundError as error:
        raise CommandFailed(ExitCode.NOT_FOUND, str(error)) from error
    manifests = [manifest for variants in found.values() for manifest in variants.values()]
    if output is Format.TABLE:
        terminal.show(variant_table(manifests))
    else:
        terminal.say(encoded(manifests, output))


def show(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The model.", autocompletion=complete_model)],
    variant: Annotated[str, typer.Argument(help="The variant.", autocompletion=complete_variant)],
    models: options.Models = DEFAULT_MODELS,
    output: options.Output = Format.TABLE,
) -> None:
    """Show one variant: recipe, precisions, measurements, the offline gate, and which layer costs what.

    Example: anabranch variants show minilm onnx-int8-dynamic
    """
    from anabranch.cli.comparing import details
    from anabranch.cli.output import encoded
    from anabranch.cli.variant_details import describe_variant

    terminal = terminal_of(context)
    found = details(models, model, variant)
    if output is not Format.TABLE:
        terminal.say(encoded(found, output))
        return
    for line in describe_variant(found):
        terminal.say(line)


def compare(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="The model; the only one by default.", autocompletion=complete_model)
    ] = "",
    batch: Annotated[int, typer.Option(help="Requests a call: one of the measured batch sizes.")] = 1,
    hourly_price: Annotated[
        float | None,
        typer.Option(
            help="Price of an hour of what answers one call at a time, a core or a GPU, of variants whose manifest says none: says what 1,000 requests cost, and which variant is the cheapest.",
            metavar="PRICE",
            min=0.0,
        ),
    ] = None,
    max_ms: Annotated[
        float | None, typer.Option(help="With --hourly-price: the largest p95 of the cheapest.", metavar="MS")
    ] = None,
    min_quality: Annotated[
        float | None,
        typer.Option(
            help="With --hourly-price: the least accuracy of the cheapest, in per cent.", metavar="PERCENT"
        ),
    ] = None,
    svg: Annotated[
        Path | None, typer.Option(help="Also write the plot to this file.", metavar="FILE")
    ] = None,
    models: options.Models = DEFAULT_MODELS,
    output: options.Output = Format.TABLE,
) -> None:
    """Compare a model's variants: accuracy against latency, size as the dot, and which of them nothing beats.

    Example: anabranch variants compare minilm --svg pareto.svg
    """
    from anabranch.cli.comparing import compare_variants, comparison_table, costs_of, manifests_of
    from anabranch.cli.costs import Demands, cheapest_text
    from anabranch.cli.output import encoded
    from anabranch.cli.pareto_plots import pareto_svg, pareto_text

    terminal = terminal_of(context)
    comparison = compare_variants(list(manifests_of(models, model).values()), batch)
    is_priced = bool(costs_of(comparison, hourly_price))
    if not is_priced and (max_ms is not None or min_quality is not None):
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            "--max-ms and --min-quality choose the cheapest variant, and not every variant has a price",
            "give --hourly-price, or every variant its own with `anabranch variants price`, or leave them out",
        )
    if svg is not None:
        svg.write_text(pareto_svg(comparison), encoding="utf-8")
        terminal.note(f"wrote {svg}")
    if output is not Format.TABLE:
        terminal.say(encoded(comparison, output))
        return
    terminal.show(comparison_table(comparison, hourly_price))
    terminal.say("\n" + pareto_text(comparison, min(terminal.out.width, _PLOT_WIDTH), _PLOT_HEIGHT))
    if is_priced:
        demands = Demands(max_ms=max_ms, min_quality=None if min_quality is None else min_quality / 100)
        terminal.say("\n" + cheapest_text(comparison, hourly_price, demands))
    if comparison.unmeasured:
        terminal.note(f"not measured: {', '.join(comparison.unmeasured)}")


def profile(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The model.", autocompletion=complete_model)],
    variant: Annotated[str, typer.Argument(help="The variant.", autocompletion=complete_variant)],
    trace: Annotated[Path, typer.Option(help="Where the trace goes.", metavar="FILE")] = Path("trace.json"),
    batch: Annotated[int, typer.Option(help="Requests of one call.")] = 1,
    calls: Annotated[int, typer.Option(help="Calls to trace.")] = 20,
    threads: Annotated[int, typer.Option(help="Threads that share one call's work.")] = 1,
    models: options.Models = DEFAULT_MODELS,
    output: options.Output = Format.TABLE,
) -> None:
    """Trace a few calls of a variant, operator by operator: open the file in https://ui.perfetto.dev.

    Example: anabranch variants profile minilm onnx-int8-dynamic --batch 8 --trace trace.json
    """
    from anabranch.cli.comparing import details
    from anabranch.cli.output import encoded
    from anabranch.variants.errors import VariantError
    from anabranch.variants.profiling import profile_variant

    terminal = terminal_of(context)
    details(models, model, variant)
    try:
        traced = profile_variant(models / model / variant, trace, batch=batch, calls=calls, threads=threads)
    except (VariantError, OSError) as error:
        raise CommandFailed(ExitCode.BAD_INPUT, str(error)) from error
    if output is not Format.TABLE:
        terminal.say(encoded(traced, output))
        return
    terminal.say(
        f"{traced.calls} calls of {traced.rows} rows, {traced.call_ms:.2f} ms each while traced: {traced.trace}"
    )
    terminal.note("open it in https://ui.perfetto.dev or chrome://tracing")


def add(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="What clients call the model.", autocompletion=complete_model)],
    variant: Annotated[str, typer.Argument(help="The new variant's name, such as retrained.")],
    file: Annotated[
        Path, typer.Argument(help="An ONNX file with the same inputs and outputs.", metavar="FILE")
    ],
    samples: Annotated[
        Path | None,
        typer.Option(
            help="Real inputs, .npz, as for `build`; they measure it beside onnx-fp32.", metavar="FILE"
        ),
    ] = None,
    models: options.Models = DEFAULT_MODELS,
    output: options.Output = Format.TABLE,
) -> None:
    """Take an ONNX file in as a further variant of a model: retrained, pruned, distilled or exported otherwise.

    Its tensors must be those of the model's other variants. A file that was added by the same name before is replaced.

    Example: anabranch variants add classifier retrained retrained.onnx --samples held-out.npz
    """
    from anabranch.cli.adding import add_file
    from anabranch.cli.build_progress import shown_progress
    from anabranch.cli.building import variant_table
    from anabranch.cli.output import encoded

    terminal = terminal_of(context)
    with shown_progress(terminal) as tell:
        manifest = add_file(models, model, variant, file, samples, tell)
    if output is Format.TABLE:
        terminal.show(variant_table([manifest]))
    else:
        terminal.say(encoded(manifest, output))
    terminal.note("a running server takes it with SIGHUP")


def add_remote(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="What clients call the model.")],
    variant: Annotated[str, typer.Argument(help="The variant's name, such as triton-fp16.")],
    target: Annotated[
        str, typer.Option(help="gRPC port of an Open Inference server, HOST:PORT.", metavar="HOST:PORT")
    ],
    remote_model: Annotated[str, typer.Option(help="The server's name of the model; MODEL by default.")] = "",
    remote_version: Annotated[
        str, typer.Option(help="The version asked for; by default the server chooses.")
    ] = "",
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS, trusting the system's authorities.")] = False,
    tls_ca: Annotated[
        Path | None,
        typer.Option(help="Speak TLS, trusting these authorities, PEM; the file is copied.", metavar="FILE"),
    ] = None,
    tls_server_name: Annotated[
        str, typer.Option(help="Name in the server's certificate; the target's host by default.")
    ] = "",
    tls_certificate: Annotated[
        Path | None, typer.Option(help="Own certificate for mutual TLS, PEM.", metavar="FILE")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.", metavar="FILE")] = None,
    connections: Annotated[int, typer.Option(help="Connections of one worker.")] = 1,
    max_requests: Annotated[int, typer.Option(help="Most requests of one worker in flight.")] = 1024,
    hourly_price: Annotated[
        float | None,
        typer.Option(
            help="Price of an hour of the server's hardware; experiments may then ask for cost_per_1k, by the time that answers take as seen from here.",
            metavar="PRICE",
        ),
    ] = None,
    models: options.Models = DEFAULT_MODELS,
    output: options.Output = Format.TABLE,
) -> None:
    """Take a model on another server (Triton, KServe, MLServer, Anabranch) in as a variant.

    The server is asked for names, datatypes and shapes; they must be those of the model's other variants.

    Example: anabranch variants add-remote minilm triton-fp16 --target 10.0.0.7:8001 --remote-model minilm_fp16
    """
    from anabranch.cli.adding import RemoteOptions, take_in
    from anabranch.cli.pricing import check_price, price_variant

    check_price(hourly_price)
    manifest = take_in(
        models,
        model,
        variant,
        RemoteOptions(
            target=target,
            model=remote_model or model,
            version=remote_version,
            is_tls=tls,
            ca=tls_ca,
            server_name=tls_server_name,
            certificate=tls_certificate,
            key=tls_key,
            connections=connections,
            max_requests=max_requests,
        ),
    )
    if hourly_price is not None:
        manifest = price_variant(models, model, variant, hourly_price)
    terminal = terminal_of(context)
    assert manifest.remote is not None
    if output is not Format.TABLE:
        from anabranch.cli.output import encoded

        terminal.say(encoded(manifest, output))
        return
    terminal.say(f"{model}/{variant} is {remote_model or model} on {target} ({manifest.remote.server})")
    for what, specs in (("input", manifest.signatures[0].inputs), ("output", manifest.outputs)):
        for spec in specs:
            terminal.say(f"  {what} {spec.name}: {spec.datatype} {list(spec.shape)}")
    terminal.note(f"serve it with `anabranch serve --models {models}`")


def price(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The model.", autocompletion=complete_model)],
    variant: Annotated[str, typer.Argument(help="The variant.", autocompletion=complete_variant)],
    hourly_price: Annotated[
        float,
        typer.Argument(
            help="Of an hour of the hardware that answers one batch at a time; in your currency, the same for all variants."
        ),
    ],
    models: options.Models = DEFAULT_MODELS,
    output: options.Output = Format.TABLE,
) -> None:
    """Say what an hour of a variant's hardware costs, so that experiments may ask for cost_per_1k.

    Example: anabranch variants price minilm onnx-int8-dynamic 0.048
    """
    from anabranch.cli.comparing import details
    from anabranch.cli.output import encoded
    from anabranch.cli.pricing import price_variant

    details(models, model, variant)
    manifest = price_variant(models, model, variant, hourly_price)
    terminal = terminal_of(context)
    if output is not Format.TABLE:
        terminal.say(encoded(manifest, output))
        return
    terminal.say(f"{model}/{variant} costs {hourly_price:g} an hour")
    terminal.note(
        "a running server reads it with SIGHUP; an experiment that goes on keeps the price that it began with"
    )
