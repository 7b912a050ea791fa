"""`build`: variants of a model, and the list of what can be built here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anabranch.cli import options
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.cli.format import Format
from anabranch.cli.places import DEFAULT_MODELS
from anabranch.cli.terminal import terminal_of


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(rich_help_panel=options.RUN)(build)


def build(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="`minilm`, the sentence classifier of the demo; `smollm2`, a small language model; an ONNX file; a torch.export program (.pt2); the folder of a BERT encoder (config.json, model.safetensors, vocab.txt); or MODULE:FUNCTION, which returns a ModelSource."
        ),
    ] = "",
    variant: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            help="What to build, such as onnx-int8-dynamic; repeat for several. Of an ONNX file by default: onnx-fp32 (the file as it is), onnx-fp16 and onnx-int8-dynamic.",
        ),
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe", help="The same by recipe, such as int8-static-kl, for --engine and --device; repeat."
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="Of --recipe: onnx, torch or torch-compile.")] = "onnx",
    device: Annotated[str, typer.Option(help="Of --recipe: cpu or cuda.")] = "cpu",
    max_accuracy_drop: Annotated[
        str,
        typer.Option(
            help="With --recipe mixed: search the layers that may be INT8 so that accuracy falls by at most this, such as 0.5%.",
            metavar="PERCENT",
        ),
    ] = "",
    list_recipes: Annotated[
        bool, typer.Option("--list-recipes", help="Print every variant there is, and whether it runs here.")
    ] = False,
    layer_errors: Annotated[
        bool,
        typer.Option(
            "--layer-errors/--no-layer-errors",
            help="Measure the error of every layer of quantized variants: some seconds a variant.",
        ),
    ] = True,
    model: Annotated[
        str, typer.Option(help="What clients will call the model; the file's name by default.")
    ] = "",
    samples: Annotated[
        Path | None,
        typer.Option(
            help="Real inputs of your own ONNX file, .npz: an array for each input, a row a request, and the true classes as `label` where known. They measure the variants and calibrate static ones."
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            help="Labelled texts for the folder of an encoder: a .csv, .jsonl or .parquet file with the columns text and label, or MODULE:FUNCTION, which yields pairs."
        ),
    ] = "",
    hourly_price: Annotated[
        float | None,
        typer.Option(
            help="Price of an hour of the hardware that answers one batch at a time; kept in the manifests. Experiments may then ask for cost_per_1k.",
            metavar="PRICE",
        ),
    ] = None,
    models: options.Models = DEFAULT_MODELS,
    output: options.Output = Format.TABLE,
) -> None:
    """Build variants of a model, each with a manifest of what it is and how it compares.

    What is built already from the same things is kept; a build that was cut off goes on where it ended.

    Example: anabranch build classifier.onnx --variant onnx-fp32 --variant onnx-int8-dynamic
    """
    from anabranch.cli.build_progress import shown_progress
    from anabranch.cli.building import BuildRequest, build_variants, variant_table
    from anabranch.cli.output import encoded
    from anabranch.cli.pricing import check_price, price_variant
    from anabranch.cli.recipe_list import parse_drop, recipe_rows, recipe_table
    from anabranch.variants.recipes import Device, Engine

    terminal = terminal_of(context)
    if list_recipes:
        rows = recipe_rows()
        if output is Format.TABLE:
            terminal.show(recipe_table(rows))
        else:
            terminal.say(encoded(rows, output))
        return
    if not source:
        raise CommandFailed(
            ExitCode.BAD_INPUT, "nothing to build", "name a source, or ask for --list-recipes"
        )
    for given, allowed in ((engine, Engine), (device, Device)):
        if given not in list(allowed):
            raise CommandFailed(ExitCode.BAD_INPUT, f"{given!r} must be one of {', '.join(allowed)}")
    request = BuildRequest(
        source=source,
        root=models,
        variants=variant or [],
        recipes=recipe or [],
        engine=Engine(engine),
        device=Device(device),
        max_accuracy_drop=parse_drop(max_accuracy_drop),
        model=model,
        samples=samples,
        data=data,
        layer_errors=layer_errors,
    )
    check_price(hourly_price)
    with shown_progress(terminal) as tell:
        manifests = build_variants(request, tell)
    if hourly_price is not None:
        manifests = [price_variant(models, made.model, made.variant, hourly_price) for made in manifests]
    if output is Format.TABLE:
        terminal.show(variant_table(manifests))
    else:
        terminal.say(encoded(manifests, output))
    terminal.note(f"serve them with `anabranch serve --models {models}`")
