import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anabranch.variants import build as build_module
from anabranch.variants import workshop
from anabranch.variants.build import build
from anabranch.variants.errors import BuildError, RecipeError
from anabranch.variants.manifest import MANIFEST, load_manifest
from anabranch.variants.measure import run_all
from anabranch.variants.models import ModelSource, PreparedModel
from anabranch.variants.onnx_recipes import OnnxBuilder

NAMES = ["onnx-fp32", "onnx-fp16", "onnx-int8-dynamic", "onnx-int8-static", "onnx-int8-static-kl"]


def _built(source: ModelSource, names: list[str], root: Path) -> list[str]:
    """Names of the variants that a run had to build."""
    lines: list[str] = []
    build(source, names, root, progress=lines.append, threads=1)
    return [line.removeprefix("build ") for line in lines if line.startswith("build ")]


def test_every_variant_is_described_and_measured(digits_source: ModelSource, tmp_path: Path) -> None:
    manifests = build(digits_source, NAMES, tmp_path, threads=1)
    assert [manifest.variant for manifest in manifests] == NAMES
    for manifest in manifests:
        folder = tmp_path / "digits" / manifest.variant
        assert load_manifest(folder) == manifest
        assert manifest.size_bytes == sum(
            path.stat().st_size for path in folder.iterdir() if path.name != MANIFEST
        )
        assert manifest.parity is not None
        assert manifest.parity.requests == 597
        assert manifest.parity.top1_agreement > 0.98
        assert manifest.task is not None
        assert manifest.task.low < manifest.task.value < manifest.task.high
        assert [entry.batch_size for entry in manifest.latency] == [1, 8]
        assert manifest.cold_ms is not None
        assert manifest.cold_ms > manifest.latency[0].p50_ms
    reference, half, dynamic = manifests[0], manifests[1], manifests[2]
    assert reference.parity is not None
    assert reference.parity.max_abs == 0
    assert dynamic.size_bytes < half.size_bytes < reference.size_bytes


def test_a_second_build_builds_nothing(digits_source: ModelSource, tmp_path: Path) -> None:
    first = build(digits_source, NAMES, tmp_path, threads=1)
    unprepared = replace(digits_source, prepare=None)  # type: ignore[arg-type]  # must not be called
    assert build(unprepared, NAMES, tmp_path, threads=1) == first


def test_only_what_is_missing_is_built(digits_source: ModelSource, tmp_path: Path) -> None:
    assert _built(digits_source, NAMES[:2], tmp_path) == NAMES[:2]
    assert _built(digits_source, NAMES[:3], tmp_path) == [NAMES[2]]


def test_a_tampered_variant_is_built_again(digits_source: ModelSource, tmp_path: Path) -> None:
    build(digits_source, NAMES[:2], tmp_path, threads=1)
    artifact = tmp_path / "digits" / "onnx-fp16" / "model.onnx"
    artifact.write_bytes(b"tampered")
    assert _built(digits_source, NAMES[:2], tmp_path) == ["onnx-fp16"]
    assert artifact.stat().st_size > 100


def test_other_sources_are_built_again(digits_source: ModelSource, tmp_path: Path) -> None:
    build(digits_source, NAMES[:1], tmp_path, threads=1)
    other = replace(digits_source, identity={**digits_source.identity, "samples": "other"})
    assert _built(other, NAMES[:1], tmp_path) == NAMES[:1]


def test_changed_builders_are_built_again(
    digits_source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(digits_source, NAMES[:1], tmp_path, threads=1)
    monkeypatch.setattr(build_module, "_builders_digest", lambda: "other")
    assert _built(digits_source, NAMES[:1], tmp_path) == NAMES[:1]


def test_a_build_that_dies_leaves_the_finished_variants_and_no_half_ones(
    digits_source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(OnnxBuilder, "_dynamic", die)
    with pytest.raises(KeyboardInterrupt):
        build(digits_source, NAMES, tmp_path, threads=1)
    left = sorted(path.name for path in (tmp_path / "digits").iterdir() if not path.name.startswith("."))
    assert left == ["onnx-fp16", "onnx-fp32"]
    monkeypatch.undo()
    assert _built(digits_source, NAMES, tmp_path) == NAMES[2:]


def test_leftovers_of_a_killed_build_are_cleared(digits_source: ModelSource, tmp_path: Path) -> None:
    leftover = tmp_path / "digits" / ".building-onnx-fp32-1"
    leftover.mkdir(parents=True)
    (leftover / "model.onnx").write_bytes(b"half")
    build(digits_source, NAMES[:1], tmp_path, threads=1)
    assert not leftover.exists()


def test_a_variant_that_cannot_run_here_is_refused_before_anything_is_built(
    digits_source: ModelSource, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="onnx-bf16"):
        build(digits_source, ["onnx-fp32", "onnx-bf16"], tmp_path, threads=1)
    assert not (tmp_path / "digits").exists()


def test_a_recipe_that_the_model_cannot_take_leaves_no_folder(
    digits_source: ModelSource, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="attention"):
        build(digits_source, ["onnx-mixed"], tmp_path, threads=1)
    assert not (tmp_path / "digits" / "onnx-mixed").exists()


def test_answers_that_are_not_finite_are_refused(
    digits_source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest: Callable[..., dict[str, np.ndarray]] = run_all

    def overflow(*args: object) -> dict[str, np.ndarray]:
        return {name: array * np.inf for name, array in honest(*args).items()}

    build(digits_source, ["onnx-fp32"], tmp_path, threads=1)
    monkeypatch.setattr(workshop, "run_all", overflow)
    with pytest.raises(BuildError, match="not finite in 'logits'"):
        build(digits_source, ["onnx-fp16"], tmp_path, threads=1)


def test_an_encoder_is_built_for_both_engines(
    tiny_source: ModelSource, tiny_encoder: PreparedModel, tmp_path: Path
) -> None:
    names = ["onnx-fp32", "onnx-mixed", "torch-bf16", "torch-int8-dynamic"]
    for manifest in build(tiny_source, names, tmp_path, threads=1):
        assert manifest.parity is not None
        assert manifest.parity.cosine_tensor == "embedding"
        assert manifest.parity.cosine_min > 0.95
        assert manifest.text == tiny_encoder.text
        assert {file.path for file in manifest.files} == {manifest.artifact, "vocab.txt"}


def test_a_model_without_samples_is_built_unmeasured(digits_source: ModelSource, tmp_path: Path) -> None:
    prepare = digits_source.prepare
    bare = replace(
        digits_source,
        prepare=lambda work, progress: replace(
            prepare(work, progress), evaluation=(), labels=None, calibration=()
        ),
    )
    [manifest] = build(bare, ["onnx-int8-dynamic"], tmp_path, threads=1)
    assert (manifest.parity, manifest.task, manifest.latency) == (None, None, ())
    assert (manifest.gate, manifest.cold_ms) == (None, None)
    shutil.rmtree(tmp_path / "digits")
