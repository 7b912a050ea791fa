"""Build variants for the command line, and show manifests as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.variants.availability import available_recipes
from anabranch.variants.build import build
from anabranch.variants.errors import VariantError
from anabranch.variants.llm.build import build_language_model
from anabranch.variants.llm.recipes import language_specs
from anabranch.variants.llm.smollm2 import MODEL as LANGUAGE_MODEL
from anabranch.variants.llm.smollm2 import smollm2_source
from anabranch.variants.manifest import Manifest
from anabranch.variants.minilm import MODEL, minilm_source
from anabranch.variants.own_models import import_onnx, source_from_onnx
from anabranch.variants.recipes import Device, Engine, Int8Qat
from anabranch.variants.tensors import Request

AS_IT_IS = "onnx-fp32"
OWN_DEFAULT = (AS_IT_IS, "onnx-fp16", "onnx-int8-dynamic")
"""What is built of a person's ONNX file when nothing else is asked for."""


def build_variants(
    source: str,
    names: Sequence[str],
    model: str,
    root: Path,
    *,
    progress: Callable[[str], None],
    samples: Path | None = None,
) -> list[Manifest]:
    """Build variants of the demo's model or of a person's ONNX file.

    Args:
        source: `minilm`, `smollm2`, or the path of an ONNX file; its `onnx-fp32` is the file as it is.
        names: Variants to build; empty means every one that can be built of this source without an extra.
        model: What clients call the model; empty means the name of the source.
        root: The folder of all models.
        progress: Takes a line before each part of the work.
        samples: An `.npz` file of real inputs, see `read_samples`; for an ONNX file only.
    """
    try:
        if source == MODEL:
            if samples is not None:
                raise CommandFailed(
                    ExitCode.BAD_INPUT, f"--samples is for an ONNX file, {MODEL} brings its own"
                )
            return build(minilm_source(), names or runnable_onnx(), root, progress=progress)
        if source == LANGUAGE_MODEL:
            return _build_language_model(names, root, progress, samples)
        return _build_own(Path(source), names, model, root, progress, samples)
    except VariantError as error:
        raise CommandFailed(ExitCode.BAD_INPUT, str(error)) from error


def _build_language_model(
    names: Sequence[str], root: Path, progress: Callable[[str], None], samples: Path | None
) -> list[Manifest]:
    if samples is not None:
        raise CommandFailed(
            ExitCode.BAD_INPUT, f"--samples is for an ONNX file, {LANGUAGE_MODEL} brings its own"
        )
    return build_language_model(smollm2_source(), language_specs(names, ()), root, progress=progress)


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
    path: Path,
    names: Sequence[str],
    model: str,
    root: Path,
    progress: Callable[[str], None],
    samples: Path | None,
) -> list[Manifest]:
    if not path.is_file():
        raise CommandFailed(
            ExitCode.NOT_FOUND, f"no file {path}", f"give an ONNX file, or `{MODEL}` for the demo's model"
        )
    called = model or path.stem
    wanted = list(names) or list(OWN_DEFAULT)
    given = read_samples(samples) if samples is not None else Samples()
    if not given.measure:
        progress("without --samples, nothing is measured: accuracy, agreement and latency stay empty")
    made: list[Manifest] = []
    if AS_IT_IS in wanted and not given.measure:
        progress(f"{AS_IT_IS}: the file as it is")
        made.append(import_onnx(path, called, AS_IT_IS, root))
    others = [name for name in wanted if given.measure or name != AS_IT_IS]
    source = source_from_onnx(
        path, called, samples=given.measure, labels=given.labels, calibration=given.calibration
    )
    return made + build(source, others, root, progress=progress)


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
