import json
from pathlib import Path
from typing import Any

import pytest

from anabranch.cli.offline import of_manifests
from anabranch.cli.starting import choose, document_text
from anabranch.store.document import parse, read_document
from anabranch.variants.manifest import MANIFEST, read_manifest

Shell = Any


def manifest_json(variant: str, agreement: float | None, gate: str = "") -> dict[str, Any]:
    parity = (
        None
        if agreement is None
        else {
            "reference": "onnx-fp32",
            "requests": 500,
            "max_abs": 0.1,
            "top1_agreement": agreement,
            "cosine_tensor": "out",
            "cosine_mean": 0.99,
            "cosine_min": 0.9,
        }
    )
    return {
        "version": 1,
        "model": "digits",
        "variant": variant,
        "engine": "onnx",
        "recipe": {"name": "fp32"},
        "artifact": "model.onnx",
        "files": [{"path": "model.onnx", "sha256": "0" * 64, "size_bytes": 1}],
        "signatures": [],
        "outputs": [],
        "text": None,
        "sources": {},
        "tools": {},
        "cache_key": "k",
        "size_bytes": 1,
        "build_s": 0.1,
        "parity": parity,
        "task": None,
        "latency": [{"batch_size": 1, "p50_ms": 2.5, "p95_ms": 3.0, "calls": 10, "threads": 1}],
        "gate": {"outcome": gate, "reason": "accuracy fell by 9 points", "check": "accuracy"}
        if gate
        else None,
    }


@pytest.fixture
def models(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    for variant, agreement in (("onnx-fp32", None), ("onnx-int8-dynamic", 0.97), ("onnx-fp16", 0.999)):
        folder = root / "digits" / variant
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_text(json.dumps(manifest_json(variant, agreement)), encoding="utf-8")
    return root


def test_what_init_writes_is_applied_as_it_is(shell: Shell, models: Path, tmp_path: Path) -> None:
    file = tmp_path / "first.yaml"
    ran = shell("init", "digits", "--models", str(models), "--file", str(file))
    assert (ran.code, ran.out) == (0, "")
    applied = shell("apply", "-f", str(file), "--models", str(models))
    assert applied.code == 0, applied.err
    assert "experiment digits-variants created" in applied.out


@pytest.mark.parametrize("labels", [[], ["--labels"]])
@pytest.mark.parametrize("unit", [[], ["--unit", "x-user-id"]])
def test_every_form_of_it_is_valid(shell: Shell, models: Path, labels: list[str], unit: list[str]) -> None:
    ran = shell("init", "digits", "--models", str(models), *labels, *unit)
    experiment = parse(read_document(ran.out))
    assert experiment.baseline == "onnx-fp32"
    assert set(experiment.candidates) == {"onnx-fp16", "onnx-int8-dynamic"}
    assert ("accuracy" in {metric.name for metric in experiment.metrics}) == bool(labels)
    assert experiment.unit_metadata == ("x-user-id" if unit else None)
    assert shell("plan", "-", "--rate", "50", typed=ran.out).code == 0


def test_the_limit_of_fidelity_leaves_room_below_what_was_measured(shell: Shell, models: Path) -> None:
    ran = shell("init", "digits", "--models", str(models))
    experiment = parse(read_document(ran.out))
    fidelity = next(metric for metric in experiment.metrics if metric.name == "fidelity")
    assert fidelity.minimum == pytest.approx(0.95)
    assert "Measured offline: 97.0% of 500 requests for onnx-int8-dynamic" in ran.out


def test_a_model_or_variant_that_is_not_there_is_named(shell: Shell, models: Path) -> None:
    ran = shell("init", "digit", "--models", str(models))
    assert (ran.code, ran.out) == (3, "")
    assert "did you mean digits?" in ran.err
    ran = shell("init", "digits", "--models", str(models), "--candidate", "onnx-fp61")
    assert ran.code == 3
    assert "did you mean onnx-fp16?" in ran.err


def test_one_variant_alone_has_nothing_to_be_compared_with(models: Path) -> None:
    only = {"onnx-fp32": read_manifest(models / "digits" / "onnx-fp32")}
    with pytest.raises(Exception, match="has no candidate beside onnx-fp32"):
        choose("digits", of_manifests(only))


def test_a_file_is_not_replaced_without_force(shell: Shell, models: Path, tmp_path: Path) -> None:
    file = tmp_path / "first.yaml"
    file.write_text("mine", encoding="utf-8")
    ran = shell("init", "digits", "--models", str(models), "-f", str(file))
    assert ran.code == 4
    assert file.read_text() == "mine"
    assert shell("init", "digits", "--models", str(models), "-f", str(file), "--force").code == 0


def test_names_of_models_become_names_of_experiments(models: Path) -> None:
    found = of_manifests(
        {variant: read_manifest(models / "digits" / variant) for variant in ("onnx-fp32", "onnx-fp16")}
    )
    start = choose("My_Model.v2", found, reference="onnx-fp32")
    assert (
        parse(read_document(document_text(start, found).replace("My_Model.v2", "m"))).name
        == "my-model.v2-fp16"
    )


def test_without_measurements_the_file_as_it_was_given_is_the_baseline(models: Path) -> None:
    for variant in ("onnx-fp16", "onnx-int8-dynamic"):
        recipe = {"recipe": {"name": "fp16"}}
        text = json.dumps(manifest_json(variant, None) | recipe)
        (models / "digits" / variant / MANIFEST).write_text(text, encoding="utf-8")
    found = of_manifests(
        {folder.name: read_manifest(folder) for folder in sorted((models / "digits").iterdir())}
    )
    assert choose("digits", found).baseline == "onnx-fp32"
    del found["onnx-fp32"]
    with pytest.raises(Exception, match="which variant of digits is the baseline"):
        choose("digits", found)
