"""Take a file of a person's own in as a further variant of a model: retrained, pruned, distilled or exported otherwise."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anabranch.variants.build import only_builder
from anabranch.variants.errors import ManifestError, VariantError
from anabranch.variants.evaluation import Evaluation, evaluate
from anabranch.variants.manifest import MANIFEST, Manifest, load_manifest, read_manifest
from anabranch.variants.measure import latencies, run_all, run_batch
from anabranch.variants.models import Progress
from anabranch.variants.own_models import Measured, check_name, import_onnx
from anabranch.variants.recipes import all_specs
from anabranch.variants.remote_check import differences
from anabranch.variants.sessions import OnnxSession
from anabranch.variants.tensors import Request, Signature
from anabranch.variants.workshop import REFERENCE


def add_onnx(
    path: Path,
    model: str,
    variant: str,
    root: Path,
    *,
    samples: Sequence[Request] = (),
    labels: Sequence[int] | None = None,
    tell: Progress,
) -> Manifest:
    """Check a file against the model's other variants, measure it, and copy it under `root`.

    Args:
        path: The `.onnx` file.
        model: What clients call the model, which has variants already.
        variant: The new variant's name; one that was added by that name is replaced.
        root: The folder of all models.
        samples: Real one-row requests: they measure it, beside `onnx-fp32` where the model has that.
        labels: The right class of every sample, where known.
        tell: Takes a line before each part of the work.

    Raises:
        VariantError: A name cannot be used, the model has no variants, the file's tensors are not theirs, ONNX Runtime does not run
            it, or an answer is not finite.
    """
    check_name(model)
    check_name(variant)
    if variant in {spec.name for spec in all_specs()}:
        raise VariantError(
            f"{variant!r} is the name of what `anabranch build` makes: choose another, such as 'retrained'"
        )
    if not path.is_file():
        raise VariantError(f"{path} is no file: name an .onnx file")
    home = root / model
    session = OnnxSession(path)
    _require_same_tensors(home, variant, session)
    with only_builder(home):
        found = _measured(path, home, variant, session, samples, labels, tell) if samples else None
        return import_onnx(path, model, variant, root, measured=found)


def _require_same_tensors(home: Path, variant: str, session: OnnxSession) -> None:
    others = [folder.parent for folder in sorted(home.glob(f"*/{MANIFEST}")) if folder.parent.name != variant]
    if not others:
        raise VariantError(
            f"model {home.name!r} has no variants in {home.parent}: build it first, with `anabranch build FILE --model {home.name}`"
        )
    existing = _existing(home / variant)
    if existing is not None and existing.recipe.get("name") != "imported":
        raise VariantError(f"{home / variant} was not added from a file: choose another name, or remove it")
    known = read_manifest(others[0])
    if known.text is not None or known.generation is not None:
        raise VariantError(
            f"{known.model} takes text, which a file alone does not: build a folder, or MODULE:FUNCTION"
        )
    problems = differences("input", session.inputs, known.signatures[-1].inputs)
    problems += differences("output", session.outputs, known.outputs)
    if problems:
        raise VariantError(
            f"the file's tensors are not those of {known.model}/{known.variant}: {'; '.join(problems)}"
        )


def _existing(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder)
    except ManifestError:
        return None


def _measured(
    path: Path,
    home: Path,
    variant: str,
    session: OnnxSession,
    samples: Sequence[Request],
    labels: Sequence[int] | None,
    tell: Progress,
) -> Measured:
    signature = Signature(name="inputs", inputs=session.inputs)
    for request in samples:
        signature.check(request)
    tell(f"measure {variant}")
    names = [output.name for output in session.outputs]
    outputs = run_all(session, samples)
    evaluation = Evaluation()
    try:
        known = load_manifest(home / REFERENCE)
    except ManifestError:
        tell(f"{home.name} has no {REFERENCE} to compare with: only latency is measured")
    else:
        evaluation = evaluate(
            variant,
            outputs,
            run_all(OnnxSession(home / REFERENCE / known.artifact), samples),
            REFERENCE,
            names=names,
            labels=None if labels is None else np.array(labels, dtype=np.int64),
            is_same_model=False,
            tell=tell,
        )
    opened = time.perf_counter()
    alone = OnnxSession(path, threads=1)
    run_batch(alone, samples[:1])
    cold_ms = (time.perf_counter() - opened) * 1e3
    return Measured(
        evaluation=evaluation, latency=latencies(alone, samples, threads=1), cold_ms=round(cold_ms, 3)
    )
