"""Build variants for the command line, and show manifests as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.table import Table

from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.variants.build import build
from anabranch.variants.errors import VariantError
from anabranch.variants.manifest import Manifest
from anabranch.variants.minilm import MODEL, minilm_source
from anabranch.variants.own_models import import_onnx, source_from_onnx
from anabranch.variants.recipes import Engine, available_recipes

AS_IT_IS = "onnx-fp32"


def build_variants(
    source: str, names: Sequence[str], model: str, root: Path, *, progress: Callable[[str], None]
) -> list[Manifest]:
    """Build variants of the demo's model or of a person's ONNX file.

    Args:
        source: `minilm`, or the path of an ONNX file; its `onnx-fp32` is the file as it is.
        names: Variants to build; empty means every one that can be built of this source without an extra.
        model: What clients call the model; empty means the name of the source.
        root: The folder of all models.
        progress: Takes a line before each part of the work.
    """
    try:
        if source == MODEL:
            return build(minilm_source(), names or runnable_onnx(), root, progress=progress)
        return _build_own(Path(source), names, model, root, progress)
    except VariantError as error:
        raise CommandFailed(ExitCode.BAD_INPUT, str(error)) from error


def runnable_onnx() -> list[str]:
    """The variants on ONNX Runtime that this machine can build."""
    return [
        status.spec.name
        for status in available_recipes()
        if status.spec.engine is Engine.ONNX and status.runs_here
    ]


def _build_own(
    path: Path, names: Sequence[str], model: str, root: Path, progress: Callable[[str], None]
) -> list[Manifest]:
    if not path.is_file():
        raise CommandFailed(
            ExitCode.NOT_FOUND, f"no file {path}", f"give an ONNX file, or `{MODEL}` for the demo's model"
        )
    called = model or path.stem
    wanted = list(names) or [AS_IT_IS, "onnx-fp16", "onnx-int8-dynamic"]
    made: list[Manifest] = []
    if AS_IT_IS in wanted:
        progress(f"{AS_IT_IS}: the file as it is")
        made.append(import_onnx(path, called, AS_IT_IS, root))
    others = [name for name in wanted if name != AS_IT_IS]
    return made + build(source_from_onnx(path, called), others, root, progress=progress)


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
    return [
        f"{manifest.size_bytes / 1e6:.1f} MB",
        f"{task.value:.1%} [{task.low:.1%}, {task.high:.1%}]" if task else "-",
        f"{parity.top1_agreement:.1%}" if parity else "-",
        f"{parity.cosine_mean:.4f}" if parity else "-",
        f"{single.p50_ms:.2f} ms" if single else "-",
        f"{manifest.build_s:.1f} s",
    ]
