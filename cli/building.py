"""Build variants for the command line, and show manifests as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.table import Table

from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.variants.availability import available_recipes
from anabranch.variants.build import build
from anabranch.variants.datasets import labelled_texts
from anabranch.variants.encoder_folder import folder_source
from anabranch.variants.errors import BuildError, RecipeError, VariantError
from anabranch.variants.exported_programs import SUFFIX, onnx_of_program
from anabranch.variants.factories import source_from_factory
from anabranch.variants.llm.build import build_language_model
from anabranch.variants.llm.models import LanguageSource
from anabranch.variants.llm.recipes import language_specs
from anabranch.variants.llm.smollm2 import MODEL as LANGUAGE_MODEL
from anabranch.variants.llm.smollm2 import smollm2_source
from anabranch.variants.manifest import Manifest
from anabranch.variants.minilm import MODEL, minilm_source
from anabranch.variants.models import ModelSource
from anabranch.variants.own_models import check_name, import_onnx, source_from_onnx
from anabranch.variants.packages import file_sha256
from anabranch.variants.recipes import Device, Engine, Int8Qat, Mixed, MixedWithin, VariantSpec, variant_spec
from anabranch.variants.tensors import Request

AS_IT_IS = "onnx-fp32"
OWN_DEFAULT = (AS_IT_IS, "onnx-fp16", "onnx-int8-dynamic")
"""What is built of a person's ONNX file when nothing else is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """What a person asks to be built.

    Attributes:
        source: `minilm`, `smollm2`, a folder of an encoder, `module:factory`, an ONNX file or a `torch.export`
            program (.pt2); `onnx-fp32` of a file is the file as it is.
        variants: Default names; with `recipes` empty, every one that can be built of this source without an extra.
        recipes: Names of recipes, for `engine` and `device`.
        max_accuracy_drop: Turns `mixed` into a search for precisions: the largest loss, a share in (0, 1).
        model: What clients call the model; empty means the name of the source.
        root: The folder of all models.
        samples: An `.npz` file of real inputs, see `read_samples`; for an ONNX file only.
        data: Labelled texts, see `labelled_texts`; for the folder of an encoder only.
        layer_errors: Whether to measure the error of every layer of the quantized variants.
    """

    source: str
    root: Path
    variants: Sequence[str] = ()
    recipes: Sequence[str] = ()
    engine: Engine = Engine.ONNX
    device: Device = Device.CPU
    max_accuracy_drop: float | None = None
    model: str = ""
    samples: Path | None = None
    data: str = ""
    layer_errors: bool = False


def build_variants(request: BuildRequest, progress: Callable[[str], None]) -> list[Manifest]:
    """Build what was asked for.

    Args:
        request: The source, and what to build of it.
        progress: Takes a line before each part of the work.
    """
    try:
        made = _made(request)
        if isinstance(made, LanguageSource):
            return _build_language_model(request, made, progress)
        wanted = wanted_specs(request)
        source = made or _source(request, progress)
        if source is None:
            return _build_own(request, wanted, progress)
        specs = wanted or [variant_spec(name) for name in runnable_onnx()]
        return build(source, specs, request.root, progress=progress, layer_errors=request.layer_errors)
    except VariantError as error:
        raise CommandFailed(ExitCode.BAD_INPUT, str(error)) from error


def _made(request: BuildRequest) -> ModelSource | LanguageSource | None:
    """What a function makes: the project's own for the language model, a person's for an import path."""
    if request.source == LANGUAGE_MODEL:
        return smollm2_source()
    if ":" in request.source and not Path(request.source).exists():
        return source_from_factory(request.source)
    return None


def _build_language_model(
    request: BuildRequest, source: LanguageSource, progress: Callable[[str], None]
) -> list[Manifest]:
    if request.samples is not None or request.data:
        raise CommandFailed(
            ExitCode.BAD_INPUT, f"--samples and --data are for other models, {source.name} brings its own"
        )
    if request.max_accuracy_drop is not None:
        raise CommandFailed(
            ExitCode.BAD_INPUT, f"--max-accuracy-drop is for other models, {source.name} has no classes"
        )
    if (request.device is Device.CPU) is not (request.engine is Engine.ONNX):
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            f"{source.name} runs by engine onnx on device cpu, and by engine torch or torch-compile on device cuda",
        )
    specs = language_specs(request.variants, request.recipes, request.engine, request.device)
    return build_language_model(source, specs, request.root, progress=progress)


def wanted_specs(request: BuildRequest) -> list[VariantSpec]:
    """The variants that were named one way or the other; empty when none was.

    Raises:
        RecipeError: A name is not one of a variant, or the search is asked for without `mixed`.
    """
    suffix = "" if request.device is Device.CPU else f"-{request.device}"
    named = [variant_spec(name) for name in request.variants]
    named += [variant_spec(f"{request.engine}-{recipe}{suffix}") for recipe in request.recipes]
    drop = request.max_accuracy_drop
    if drop is None:
        return named
    if not any(isinstance(spec.recipe, Mixed) for spec in named):
        raise RecipeError("--max-accuracy-drop searches the precisions of mixed: add --recipe mixed")
    search = MixedWithin(max_accuracy_drop=drop)
    return [replace(spec, recipe=search) if isinstance(spec.recipe, Mixed) else spec for spec in named]


def _source(request: BuildRequest, progress: Callable[[str], None]) -> ModelSource | None:
    """The source by the form of its name; None for an ONNX file."""
    path = Path(request.source)
    if request.samples is not None and (request.source == MODEL or path.is_dir()):
        raise CommandFailed(
            ExitCode.BAD_INPUT, f"--samples is for an ONNX file, {request.source} brings its own"
        )
    if request.data and not path.is_dir():
        raise CommandFailed(ExitCode.BAD_INPUT, "--data is for the folder of an encoder")
    if request.source == MODEL:
        return minilm_source()
    if path.is_dir():
        if not request.data:
            raise CommandFailed(
                ExitCode.BAD_INPUT,
                f"{path} is an encoder without a head: its texts are missing",
                "give labelled texts with --data FILE (.csv, .jsonl, .parquet) or --data MODULE:FUNCTION",
            )
        progress(f"read {request.data}")
        return folder_source(path, labelled_texts(request.data), request.model or path.resolve().name)
    return None


def runnable_onnx() -> list[str]:
    """The variants on ONNX Runtime and the CPU that this machine can build without training."""
    return [
        status.spec.name
        for status in available_recipes()
        if status.spec.engine is Engine.ONNX
        and status.spec.device is Device.CPU
        and not isinstance(status.spec.recipe, Int8Qat)
        and status.runs_here
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Real requests: some calibrate, the others measure."""

    calibration: Sequence[Request] = ()
    measure: Sequence[Request] = ()
    labels: Sequence[int] | None = None


def read_samples(path: Path) -> Samples:
    """Read an `.npz` file: one array for every input, a row a request, and optionally the true classes as `label`.

    The first quarter of the rows, at most 128, calibrates static quantization; at most 1,000 others measure.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, AttributeError) as error:
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            f"{path} is no .npz file of plain arrays",
            "write it with numpy.savez(path, **inputs)",
        ) from error
    labels = arrays.pop("label", None)
    rows = {name: len(array) for name, array in arrays.items()}
    if not rows or len(set(rows.values()) | ({len(labels)} if labels is not None else set())) != 1:
        given = ", ".join(f"{name} {count}" for name, count in rows.items()) or "no inputs"
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            f"{path} has {given} rows" + (f", label {len(labels)}" if labels is not None else ""),
            "give every input, and label, the same number of rows: one a request",
        )
    count = next(iter(rows.values()))
    cut = min(128, count // 4)
    requests = [
        {name: array[row : row + 1] for name, array in arrays.items()}
        for row in range(min(count, cut + 1_000))
    ]
    return Samples(
        calibration=requests[:cut],
        measure=requests[cut:],
        labels=None if labels is None else [int(label) for label in labels[cut : len(requests)]],
    )


def _build_own(
    request: BuildRequest, wanted: Sequence[VariantSpec], progress: Callable[[str], None]
) -> list[Manifest]:
    path = Path(request.source)
    if not path.is_file():
        raise CommandFailed(
            ExitCode.NOT_FOUND,
            f"no file {path}",
            f"give an ONNX file, a torch.export program (.pt2), the folder of an encoder, MODULE:FUNCTION, `{MODEL}` or `{LANGUAGE_MODEL}`",
        )
    called = request.model or path.stem
    check_name(called)
    if path.suffix == SUFFIX:
        path = _translated(path, request.root / called, progress)
    specs = list(wanted) or [variant_spec(name) for name in OWN_DEFAULT]
    given = read_samples(request.samples) if request.samples is not None else Samples()
    if not given.measure:
        progress("without --samples, nothing is measured: accuracy, agreement and latency stay empty")
    made: list[Manifest] = []
    as_it_is = [spec for spec in specs if spec.name == AS_IT_IS and not given.measure]
    if as_it_is:
        progress(f"{AS_IT_IS}: the file as it is")
        made.append(import_onnx(path, called, AS_IT_IS, request.root))
    source = source_from_onnx(
        path, called, samples=given.measure, labels=given.labels, calibration=given.calibration
    )
    others = [spec for spec in specs if spec not in as_it_is]
    if wanted:
        return made + build(
            source, others, request.root, progress=progress, layer_errors=request.layer_errors
        )
    for spec in others:
        try:
            made += build(source, [spec], request.root, progress=progress, layer_errors=request.layer_errors)
        except (RecipeError, BuildError) as error:
            if spec.name == AS_IT_IS:
                raise
            # Nobody asked for this one by name, and the others are none the worse.
            progress(f"{spec.name}: left out, {error}")
    return made


def _translated(path: Path, home: Path, progress: Callable[[str], None]) -> Path:
    """The ONNX file of a `torch.export` program, beside the model's variants; translated once."""
    target = home / ".program" / file_sha256(path)[:16] / f"{path.stem}.onnx"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{path.stem}.onnx")
        onnx_of_program(path, draft, progress)
        draft.replace(target)
    return target


def variant_table(manifests: Sequence[Manifest]) -> Table:
    """One row a variant; what was not measured is a dash."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (
        ("MODEL", "left"),
        ("VARIANT", "left"),
        ("SIZE", "right"),
        ("ACCURACY", "right"),
        ("AGREEMENT", "right"),
        ("COSINE", "right"),
        ("P50 BATCH 1", "right"),
        ("BUILT IN", "right"),
    ):
        table.add_column(name, justify="left" if justify == "left" else "right", no_wrap=True)
    for manifest in manifests:
        table.add_row(manifest.model, manifest.variant, *_numbers(manifest))
    return table


def _numbers(manifest: Manifest) -> list[str]:
    task, parity = manifest.task, manifest.parity
    single = next((row for row in manifest.latency if row.batch_size == 1), None)
    if manifest.remote is not None:
        return ["remote", "-", "-", "-", "-", "-"]
    return [
        f"{manifest.size_bytes / 1e6:.1f} MB"
        if manifest.size_bytes > 1e5
        else f"{manifest.size_bytes / 1e3:.1f} kB",
        f"{task.value:.1%} [{task.low:.1%}, {task.high:.1%}]" if task else "-",
        f"{parity.top1_agreement:.1%}" if parity else "-",
        f"{parity.cosine_mean:.4f}" if parity else "-",
        f"{single.p50_ms:.2f} ms" if single else "-",
        f"{manifest.build_s:.1f} s",
    ]
