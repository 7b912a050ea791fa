"""Build variants of a model under a folder: `<root>/<model>/<variant>/manifest.json` and its files.

A variant is built once for each digest of (model, data, recipe, tools) and appears whole or not at all; a build that
was cut off goes on with the variants that are missing.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from anabranch.variants.availability import require_runnable
from anabranch.variants.errors import ManifestError
from anabranch.variants.manifest import VERSION, Manifest, load_manifest, save_manifest, tool_versions
from anabranch.variants.models import ModelSource, Progress
from anabranch.variants.pricing import keep_price
from anabranch.variants.recipes import VariantSpec, recipe_fields, variant_spec
from anabranch.variants.sensitivity.report import LAYERS
from anabranch.variants.workshop import Workshop, has_layer_errors

_WORK = ".work"
_DRAFT = ".building-"
# The modules that decide an artifact's bytes: when one of them changes, variants are built again.
_BUILDERS = (
    "datasets.py",
    "encoder_folder.py",
    "encoder_graph.py",
    "encoder_model.py",
    "formats.py",
    "head.py",
    "minilm.py",
    "onnx_recipes.py",
    "own_models.py",
    "quantize/*.py",
    "recipes.py",
    "sensitivity/*.py",
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
    layer_errors: bool = False,
) -> list[Manifest]:
    """Build what is missing or out of date, and return the manifests of all that was asked for, in that order.

    Args:
        source: The model.
        variants: Default names such as `onnx-int8-dynamic`, or pairs of engine and recipe.
        root: The folder of all models.
        progress: Called with one line before each part of the work.
        threads: Threads that evaluation may use; every core by default. Latency is measured with one.
        layer_errors: Whether to measure the error of every layer of the quantized variants: seconds a variant.

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
        cores = threads or len(os.sched_getaffinity(0))
        workshop: Workshop | None = None
        if missing:
            workshop = Workshop(source, home / _WORK, lambda spec: cache_key(source, spec), tell, cores)
            for spec in missing:
                done[spec.name] = _build_one(workshop, spec, home)
        unreported = [
            spec
            for spec in specs
            if layer_errors and has_layer_errors(spec) and not (home / spec.name / LAYERS).is_file()
        ]
        if unreported:
            workshop = workshop or Workshop(
                source, home / _WORK, lambda spec: cache_key(source, spec), tell, cores
            )
            for spec in unreported:
                workshop.report_layers(spec, home / spec.name)
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


def _build_one(workshop: Workshop, spec: VariantSpec, home: Path) -> Manifest:
    """Build one variant in a draft folder, and put it in its place."""
    draft = home / f"{_DRAFT}{spec.name}-{os.getpid()}"
    draft.mkdir()
    try:
        manifest = keep_price(workshop.build(spec, draft), home / spec.name)
        save_manifest(manifest, draft)
        publish(draft, home / spec.name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest
