import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from anabranch.variants.errors import ManifestError
from anabranch.variants.manifest import (
    MANIFEST,
    Manifest,
    load_manifest,
    read_manifest,
    save_manifest,
    wilson_interval,
)
from anabranch.variants.own_models import import_onnx


@pytest.fixture
def variant(digits_onnx: Path, tmp_path: Path) -> Path:
    import_onnx(digits_onnx, "digits", "mine", tmp_path)
    return tmp_path / "digits" / "mine"


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# Source: scipy 1.17.1, binomtest(k, n).proportion_ci(0.95, method="wilson").
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.27753279986288926),
        (10, 10, 0.7224672001371109, 1.0),
        (791, 1_000, 0.7647095198771303, 0.8150633066842765),
        (1, 2, 0.09453120573423074, 0.9054687942657693),
    ],
)
def test_an_interval_equals_the_reference(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-12)


def test_a_manifest_is_read_back_as_it_was_written(variant: Path) -> None:
    manifest = load_manifest(variant)
    save_manifest(manifest, variant)
    assert load_manifest(variant) == manifest


def test_measurements_survive_the_file(minilm: dict[str, Manifest], minilm_root: Path) -> None:
    for name, manifest in minilm.items():
        assert read_manifest(minilm_root / "minilm" / name) == manifest
        assert None not in (manifest.parity, manifest.task, manifest.text)
        assert manifest.latency


def test_bytes_that_differ_are_refused_with_both_digests(variant: Path) -> None:
    right = load_manifest(variant).files[0].sha256
    path = variant / "digits.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ManifestError, match=f"has sha256 [0-9a-f]{{64}}, the manifest says {right}"):
        load_manifest(variant)


def test_a_missing_file_is_refused(variant: Path) -> None:
    (variant / "digits.onnx").unlink()
    with pytest.raises(ManifestError, match=r"digits\.onnx is missing"):
        load_manifest(variant)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="holds no manifest"):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 0}, "version 0, must be 1"),
        ({"engine": "steam"}, "engine"),
        ({"files": [{"path": "../x", "sha256": "0", "size_bytes": 1}]}, "leaves its folder"),
        ({"files": [{"path": "/x", "sha256": "0", "size_bytes": 1}]}, "leaves its folder"),
        ({"artifact": "other.onnx"}, "without a digest"),
        ({"files": []}, "without a digest"),
    ],
)
def test_a_manifest_that_cannot_be_trusted_is_refused(
    variant: Path, changes: dict[str, Any], words: str
) -> None:
    _edit(variant, **changes)
    with pytest.raises(ManifestError, match=words):
        load_manifest(variant)


def test_broken_json_is_refused(variant: Path) -> None:
    (variant / MANIFEST).write_text("{")
    with pytest.raises(ManifestError, match="not a manifest"):
        load_manifest(variant)


def test_every_field_is_in_the_file(variant: Path) -> None:
    written = json.loads((variant / MANIFEST).read_text())
    assert written.keys() == {field.name for field in dataclasses.fields(Manifest)}
