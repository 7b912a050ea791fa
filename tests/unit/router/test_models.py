from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from anabranch.router.models import (
    Models,
    ServedModel,
    UnknownModel,
    default_baseline,
    find_manifests,
    load_models,
)
from anabranch.variants.manifest import VERSION, Manifest, Parity, describe_files, save_manifest
from anabranch.variants.recipes import Engine
from anabranch.variants.runtime import LoadedVariant

PARITY = Parity(
    reference="fp32",
    requests=1,
    max_abs=0.0,
    top1_agreement=1.0,
    cosine_tensor="logits",
    cosine_mean=1.0,
    cosine_min=1.0,
)


def manifest(variant: str, parity: Parity | None = None) -> Manifest:
    return Manifest(
        version=VERSION,
        model="m",
        variant=variant,
        engine=Engine.ONNX,
        recipe={},
        artifact="m.onnx",
        files=(),
        signatures=(),
        outputs=(),
        text=None,
        sources={},
        tools={},
        cache_key="",
        size_bytes=0,
        build_s=0.0,
        parity=parity,
        task=None,
        latency=(),
    )


@pytest.fixture
def models() -> Models:
    variants = {name: cast(LoadedVariant, object()) for name in ("fp32", "int8", "1")}
    return Models({"m": ServedModel(name="m", variants=variants)})


@pytest.mark.parametrize(
    ("name", "version", "chosen"),
    [
        ("m", "", None),
        ("m", "int8", "int8"),
        ("m/int8", "", "int8"),
        ("m/int8", "int8", "int8"),
        ("m", "1", "1"),
        ("m/", "", None),
    ],
)
def test_a_variant_is_chosen_by_version_or_by_name(
    models: Models, name: str, version: str, chosen: str | None
) -> None:
    model, found = models.locate(name, version)
    assert (model.name, found) == ("m", chosen)


@pytest.mark.parametrize(
    ("name", "version", "said"),
    [
        ("", "", "no model ''. There are: m"),
        ("mm", "", "no model 'mm', did you mean m? There are: m"),
        ("m", "int", "model m has no variant 'int', did you mean int8? There are: 1, fp32, int8"),
        ("m/int8/x", "", "model m has no variant 'int8/x', did you mean int8? There are: 1, fp32, int8"),
        ("m/int8", "fp32", "choose different variants: send one of them"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(
    models: Models, name: str, version: str, said: str
) -> None:
    with pytest.raises(UnknownModel) as caught:
        models.locate(name, version)
    assert said in str(caught.value)


def test_the_default_baseline_is_what_the_others_were_compared_with() -> None:
    manifests = {"fp32": manifest("fp32"), "int8": manifest("int8", PARITY)}
    assert default_baseline(manifests) == "fp32"
    assert default_baseline({"only": manifest("only")}) == "only"


@pytest.mark.parametrize(
    "parities",
    [
        {"a": None, "b": None},
        {"a": PARITY, "b": PARITY},
        {"fp32": replace(PARITY, reference="fp16"), "fp16": PARITY},
    ],
)
def test_where_the_variants_do_not_say_a_person_must(parities: dict[str, Parity | None]) -> None:
    manifests = {name: manifest(name, parity) for name, parity in parities.items()}
    with pytest.raises(UnknownModel, match="say so with --baseline MODEL=VARIANT"):
        default_baseline(manifests)


def test_manifests_are_found_by_model_and_variant(tmp_path: Path) -> None:
    for model, variant in (("m", "fp32"), ("m", "int8"), ("n", "fp32")):
        folder = tmp_path / model / variant
        folder.mkdir(parents=True)
        made = replace(manifest(variant), model=model, artifact="m.onnx")
        (folder / "m.onnx").write_bytes(b"x")
        save_manifest(replace(made, files=describe_files(folder, ["m.onnx"])), folder)
    found = find_manifests(tmp_path)
    assert {model: sorted(variants) for model, variants in found.items()} == {
        "m": ["fp32", "int8"],
        "n": ["fp32"],
    }


def test_an_empty_folder_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="build some with `anabranch build` first"):
        find_manifests(tmp_path)


def test_every_variant_is_warm_before_its_worker_takes_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    class Cold:
        def __init__(self, folder: Path) -> None:
            self.name = folder.name

        def warm(self) -> None:
            done.append(self.name)

    for name in ("fp32", "int8"):
        folder = tmp_path / "m" / name
        folder.mkdir(parents=True)
        (folder / "m.onnx").write_bytes(b"x")
        save_manifest(replace(manifest(name), files=describe_files(folder, ["m.onnx"])), folder)
    monkeypatch.setattr("anabranch.router.models.load_variant", lambda folder, threads: Cold(folder))
    models = load_models(tmp_path)
    assert sorted(done) == ["fp32", "int8"]
    assert [model.name for model in models] == ["m"]
