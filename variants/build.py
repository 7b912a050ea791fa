"""Build variants of a model under a folder: `<root>/<model>/<variant>/manifest.json` and its files.

A variant is built once for each digest of (model, data, recipe, tools) and appears whole or not at all; a build that
was cut off goes on with the variants that are missing.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import assert_never

import numpy as np
import onnx

from anabranch.variants.availability import require_runnable
from anabranch.variants.engines import open_session
from anabranch.variants.errors import BuildError, ManifestError
from anabranch.variants.manifest import (
    VERSION,
    Manifest,
    Parity,
    TaskMetric,
    describe_files,
    load_manifest,
    save_manifest,
    tool_versions,
)
from anabranch.variants.measure import accuracy, compare, latencies, run_all
from anabranch.variants.models import ModelSource, PreparedModel, Progress
from anabranch.variants.onnx_graphs import with_extra_outputs
from anabranch.variants.onnx_recipes import OnnxBuilder
from anabranch.variants.recipes import Engine, Tf32, VariantSpec, recipe_fields, variant_spec
from anabranch.variants.safetensors_file import load_tensors, save_tensors
from anabranch.variants.sessions import OnnxSession, Session
from anabranch.variants.tensors import Array

REFERENCE = "onnx-fp32"
_WORK = ".work"
_DRAFT = ".building-"
_ONNX_FILE = "model.onnx"
_TORCH_FILE = "model.safetensors"
# The modules that decide an artifact's bytes: when one of them changes, variants are built again.
_BUILDERS = (
    "encoder_graph.py",
    "formats.py",
    "head.py",
    "minilm.py",
    "onnx_recipes.py",
    "own_models.py",
    "quantize/*.py",
    "recipes.py",
    "reviews.py",
    "torch_engine/*.py",
    "wordpiece.py",
)


def build(
    source: ModelSource,
    variants: Sequence[str | VariantSpec],
    root: Path,
    *,
    progress: Progress | None = None,
    threads: int | None = None,
) -> list[Manifest]:
    """Build what is missing or out of date, and return the manifests of all that was asked for, in that order.

    Args:
        source: The model.
        variants: Default names such as `onnx-int8-dynamic`, or pairs of engine and recipe.
        root: The folder of all models.
        progress: Called with one line before each part of the work.
        threads: Threads that evaluation may use; every core by default. Latency is measured with one.

    Raises:
        RecipeError: A variant is unknown, or cannot be built here; nothing is built then.
        BuildError: An artifact is not what its recipe promises; variants before it are complete.
        FetchError: The model or its data cannot be fetched.
    """
    specs = [variant_spec(variant) if isinstance(variant, str) else variant for variant in variants]
    for spec in specs:
        require_runnable(spec)
    tell = progress or _silent
    home = root / source.name
    home.mkdir(parents=True, exist_ok=True)
    with only_builder(home):
        for leftover in home.glob(f"{_DRAFT}*"):
            shutil.rmtree(leftover)
        done = {spec.name: load_cached(home / spec.name, cache_key(source, spec)) for spec in specs}
        missing = [spec for spec in specs if done[spec.name] is None]
        if missing:
            cores = threads or len(os.sched_getaffinity(0))
            workshop = _Workshop(source, home, tell, cores)
            for spec in missing:
                done[spec.name] = workshop.build(spec)
    return [manifest for spec in specs if (manifest := done[spec.name]) is not None]


def cache_key(source: ModelSource, spec: VariantSpec) -> str:
    """Digest of everything that determines a variant's bytes."""
    parts = {
        "model": source.name,
        "sources": dict(source.identity),
        "engine": spec.engine,
        "device": spec.device,
        "recipe": recipe_fields(spec.recipe),
        "tools": tool_versions(spec),
        "manifest": VERSION,
        "builders": _builders_digest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _builders_digest() -> str:
    folder = Path(__file__).parent
    modules = [path for pattern in _BUILDERS for path in sorted(folder.glob(pattern))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in modules)).hexdigest()


def _silent(_: str) -> None:
    return


@contextmanager
def only_builder(home: Path) -> Iterator[None]:
    """Builds of one model, in any process, take turns."""
    with (home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def load_cached(folder: Path, key: str) -> Manifest | None:
    """The variant as it stands, if it is whole and was built from the same things."""
    try:
        manifest = load_manifest(folder)
    except ManifestError:
        return None
    return manifest if manifest.cache_key == key else None


def publish(draft: Path, target: Path) -> None:
    """Put a finished folder in its place; an older one there is replaced."""
    old = draft.with_name(f"{draft.name}.old")
    if target.exists():
        target.replace(old)
    draft.replace(target)
    shutil.rmtree(old, ignore_errors=True)


class _Workshop:
    """One build run over a prepared model."""

    def __init__(self, source: ModelSource, home: Path, tell: Progress, cores: int) -> None:
        self._source, self._home, self._tell, self._cores = source, home, tell, cores
        self._work = home / _WORK
        self._work.mkdir(exist_ok=True)
        self._model: PreparedModel = source.prepare(self._work, tell)
        self._onnx = OnnxBuilder(self._model, tell)
        self._reference: Mapping[str, Array] | None = None

    def build(self, spec: VariantSpec) -> Manifest:
        """Build one variant, measure it, and put it in its place."""
        self._tell(f"build {spec.name}")
        draft = self._home / f"{_DRAFT}{spec.name}-{os.getpid()}"
        draft.mkdir()
        try:
            manifest = self._write(spec, draft)
            save_manifest(manifest, draft)
            publish(draft, self._home / spec.name)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return manifest

    def _write(self, spec: VariantSpec, draft: Path) -> Manifest:
        start = time.perf_counter()
        graph: onnx.ModelProto | None = None
        match spec.engine:
            case Engine.ONNX:
                name = _ONNX_FILE
                graph = self._onnx.build(spec.recipe)
                onnx.save(graph, str(draft / name))
            case Engine.TORCH | Engine.TORCH_COMPILE:
                from anabranch.variants.torch_engine.artifact import write_encoder

                name = _TORCH_FILE
                write_encoder(self._model, spec, draft / name)
            case _:
                assert_never(spec.engine)
        for asset, data in self._model.assets.items():
            (draft / asset).write_bytes(data)
        build_s = time.perf_counter() - start
        files = describe_files(draft, [name, *sorted(self._model.assets)])
        self._tell(f"measure {spec.name}")
        parity, task = self._evaluate(spec, graph, draft / name)
        session = open_session(
            spec.engine, draft / name, threads=1, device=spec.device, recipe=spec.recipe.name
        )
        requests = self._model.evaluation
        return Manifest(
            version=VERSION,
            model=self._source.name,
            variant=spec.name,
            engine=spec.engine,
            device=spec.device,
            recipe=recipe_fields(spec.recipe),
            artifact=name,
            files=files,
            signatures=self._model.signatures,
            outputs=self._model.outputs,
            text=self._model.text,
            sources=self._source.identity,
            tools=tool_versions(spec),
            cache_key=cache_key(self._source, spec),
            size_bytes=sum(file.size_bytes for file in files),
            build_s=round(build_s, 3),
            parity=parity,
            task=task,
            latency=latencies(session, requests, threads=1) if requests else (),
        )

    def _evaluate(
        self, spec: VariantSpec, graph: onnx.ModelProto | None, artifact: Path
    ) -> tuple[Parity | None, TaskMetric | None]:
        if not self._model.evaluation:
            return None, None
        session: Session
        if graph is not None:
            session = OnnxSession(
                with_extra_outputs(graph, self._probes()),
                threads=self._cores,
                device=spec.device,
                uses_tf32=isinstance(spec.recipe, Tf32),
            )
        else:
            # One thread: torch's threads wait for each other by spinning, which a shared machine punishes tenfold.
            session = open_session(
                spec.engine,
                artifact,
                threads=1,
                device=spec.device,
                recipe=spec.recipe.name,
                embedding=True,
            )
        reference = self._reference_outputs()
        is_reference = spec.name == REFERENCE
        outputs = reference if is_reference else run_all(session, self._model.evaluation)
        names = [output.name for output in self._model.outputs]
        for name in names:
            if not np.isfinite(outputs[name].astype(np.float64)).all():
                raise BuildError(
                    f"{spec.name} answers with values that are not finite in {name!r}: refuse the recipe"
                )
        parity = compare(
            reference,
            outputs,
            outputs=names,
            cosine_tensor=self._model.probe or names[0],
            reference_name=REFERENCE,
        )
        labels = self._model.labels
        return parity, accuracy(outputs[names[0]], labels) if labels is not None else None

    def _probes(self) -> tuple[str, ...]:
        return (self._model.probe,) if self._model.probe else ()

    def _reference_outputs(self) -> Mapping[str, Array]:
        """The FP32 graph's answers to the evaluation requests; kept for builds of further variants."""
        if self._reference is not None:
            return self._reference
        key = cache_key(self._source, variant_spec(REFERENCE))
        saved = self._work / f"reference-{key[:16]}.safetensors"
        if not saved.is_file():
            self._tell(f"run the reference on {len(self._model.evaluation)} held-out requests")
            session = OnnxSession(with_extra_outputs(self._model.graph, self._probes()), threads=self._cores)
            draft = saved.with_suffix(".tmp")
            save_tensors(draft, run_all(session, self._model.evaluation))
            draft.replace(saved)
        self._reference = load_tensors(saved)
        return self._reference
