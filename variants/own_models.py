"""Bring your own ONNX file: serve it as it is, or build recipes of it."""

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from anabranch.variants.build import cache_key, publish
from anabranch.variants.errors import VariantError
from anabranch.variants.evaluation import Evaluation
from anabranch.variants.manifest import (
    VERSION,
    BatchLatency,
    Manifest,
    describe_files,
    save_manifest,
    tool_versions,
)
from anabranch.variants.models import ModelSource, PreparedModel, Progress
from anabranch.variants.onnx_graphs import external_files, load_graph
from anabranch.variants.packages import file_sha256
from anabranch.variants.pricing import keep_price
from anabranch.variants.recipes import Engine, Imported, VariantSpec, recipe_fields
from anabranch.variants.runtime import zeros
from anabranch.variants.sessions import OnnxSession
from anabranch.variants.tensors import Array, Request, Signature

_NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured of a file before it is imported: answers, times by batch size, milliseconds to the first answer."""

    evaluation: Evaluation = field(default_factory=Evaluation)
    latency: tuple[BatchLatency, ...] = ()
    cold_ms: float | None = None


def import_onnx(
    path: Path, model: str, variant: str, root: Path, *, measured: Measured | None = None
) -> Manifest:
    """Copy an ONNX file, and the data files beside it, under `root` and describe it.

    The graph is loaded; where its inputs leave the batch size open it is run once with zeros too, and what comes out
    must have the shapes that the graph declares.

    Args:
        path: The `.onnx` file.
        model: What clients call the model.
        variant: The variant's name; an older variant of that name is replaced.
        root: The folder of all models.
        measured: What is known of its answers and times.

    Raises:
        VariantError: A name cannot be a folder's, or ONNX Runtime does not load or run the file.
    """
    for name in (model, variant):
        check_name(name)
    found = measured or Measured()
    source = source_from_onnx(path, model)
    spec = VariantSpec(engine=Engine.ONNX, recipe=Imported())
    start = time.perf_counter()
    session = OnnxSession(path)
    try_run(session)
    extra = external_files(path)
    home = root / model
    home.mkdir(parents=True, exist_ok=True)
    draft = home / f".importing-{variant}-{os.getpid()}"
    draft.mkdir()
    try:
        for name in (path.name, *extra):
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path.parent / name, draft / name)
        files = describe_files(draft, [path.name, *extra])
        manifest = Manifest(
            version=VERSION,
            model=model,
            variant=variant,
            engine=Engine.ONNX,
            recipe=recipe_fields(spec.recipe),
            artifact=path.name,
            files=files,
            signatures=(Signature(name="inputs", inputs=session.inputs),),
            outputs=session.outputs,
            text=None,
            sources=source.identity,
            tools=tool_versions(spec),
            cache_key=cache_key(source, spec),
            size_bytes=sum(file.size_bytes for file in files),
            build_s=round(time.perf_counter() - start, 3),
            parity=found.evaluation.parity,
            task=found.evaluation.task,
            gate=found.evaluation.gate,
            latency=found.latency,
            cold_ms=found.cold_ms,
        )
        manifest = keep_price(manifest, home / variant)
        save_manifest(manifest, draft)
        publish(draft, home / variant)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


def check_name(name: str) -> None:
    """Refuse a name of a model or variant that cannot be a folder's.

    Raises:
        VariantError: It cannot.
    """
    if not name or not set(name) <= _NAME_CHARS or name.startswith("."):
        raise VariantError(f"name {name!r} must be letters, digits, '-', '_' and '.', and not start with '.'")


def source_from_onnx(
    path: Path,
    model: str,
    *,
    samples: Sequence[Request] = (),
    labels: Sequence[int] | None = None,
    calibration: Sequence[Request] = (),
) -> ModelSource:
    """A user's FP32 graph as the source of further recipes.

    Args:
        path: The `.onnx` file.
        model: What clients call the model.
        samples: Real one-row requests: parity and latency are measured with them.
        labels: The right class of every sample, where known.
        calibration: Real one-row requests for static quantization; not those that measure it.

    Raises:
        VariantError: The file is missing, or there are not as many labels as samples.
    """
    if not path.is_file():
        raise VariantError(f"{path} is no file: name an .onnx file")
    if labels is not None and len(labels) != len(samples):
        raise VariantError(f"{len(labels)} labels for {len(samples)} samples: give one each")
    identity = {name: file_sha256(path.parent / name) for name in (path.name, *external_files(path))}
    identity["samples"] = _digest(samples)
    identity["labels"] = "none" if labels is None else hashlib.sha256(str(list(labels)).encode()).hexdigest()
    identity["calibration"] = _digest(calibration)
    return ModelSource(
        name=model,
        identity=identity,
        prepare=lambda _work, progress: _prepare(path, progress, samples, labels, calibration),
    )


def _prepare(
    path: Path,
    progress: Progress,
    samples: Sequence[Request],
    labels: Sequence[int] | None,
    calibration: Sequence[Request],
) -> PreparedModel:
    progress(f"load {path.name}")
    session = OnnxSession(path)
    graph: onnx.ModelProto = load_graph(path)
    signature = Signature(name="inputs", inputs=session.inputs)
    for request in (*samples, *calibration):
        rows = signature.check(request)
        if rows != 1:
            raise VariantError(f"a sample has {rows} rows, must have 1: batches are made of them")
    return PreparedModel(
        graph=graph,
        signatures=(signature,),
        outputs=session.outputs,
        calibration=tuple(calibration),
        evaluation=tuple(samples),
        labels=None if labels is None else np.array(labels, dtype=np.int64),
    )


def try_run(session: OnnxSession) -> dict[str, Array] | None:
    """Run a session once with zeros and check what comes out against what it declares.

    Returns:
        The outputs; None where an inner dimension is open, for a size chosen at random may be one it cannot take.

    Raises:
        VariantError: It fails, or an output has another shape or dtype than declared.
    """
    signature = Signature(name="inputs", inputs=session.inputs)
    if any(-1 in spec.shape[1:] for spec in session.inputs):
        return None
    outputs = session.run(zeros(signature))
    for spec in session.outputs:
        problem = spec.mismatch(outputs[spec.name])
        if problem is not None:
            raise VariantError(f"output {spec.name!r} {problem}: the graph declares it wrongly")
    return outputs


def _digest(requests: Sequence[Request]) -> str:
    digest = hashlib.sha256()
    for request in requests:
        for name in sorted(request):
            array = np.ascontiguousarray(request[name])
            digest.update(f"{name}:{array.dtype}:{array.shape}".encode())
            digest.update(
                array.tobytes() if array.dtype != np.object_ else b"\0".join(array.ravel().tolist())
            )
    return digest.hexdigest()
