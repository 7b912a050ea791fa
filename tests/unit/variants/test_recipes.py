import importlib.util

import pytest

from anabranch.variants.errors import RecipeError
from anabranch.variants.recipes import (
    RECIPES,
    Calibration,
    Engine,
    Int8Static,
    VariantSpec,
    available_recipes,
    recipe_fields,
    require_runnable,
    variant_spec,
)


def test_a_name_is_engine_and_recipe() -> None:
    spec = variant_spec("onnx-int8-static-kl")
    assert spec == VariantSpec(engine=Engine.ONNX, recipe=Int8Static(calibration=Calibration.KL))
    assert spec.name == "onnx-int8-static-kl"


def test_every_pair_is_found_by_its_own_name() -> None:
    for status in available_recipes():
        assert variant_spec(status.spec.name) == status.spec


def test_names_are_unique_and_every_pair_is_listed() -> None:
    names = [status.spec.name for status in available_recipes()]
    assert len(set(names)) == len(names) == len(Engine) * len(RECIPES)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"'onnx-int3'.*onnx-int8-dynamic"):
        variant_spec("onnx-int3")


def test_a_pair_that_does_not_run_here_says_why_and_the_others_do_not() -> None:
    for status in available_recipes():
        assert bool(status.reason) != status.runs_here


@pytest.mark.parametrize(
    ("name", "reason"),
    [("onnx-bf16", "bfloat16"), ("torch-fp16", "bf16"), ("torch-int8-static-kl", "onnx engine")],
)
def test_an_unsupported_pair_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        require_runnable(variant_spec(name))


def test_a_missing_engine_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"torch is not installed: pip install 'anabranch\[torch\]'"):
        require_runnable(variant_spec("torch-bf16"))


def test_a_recipe_is_written_with_all_its_settings() -> None:
    assert recipe_fields(Int8Static(calibration=Calibration.KL, samples=5)) == {
        "name": "int8-static-kl",
        "calibration": "kl",
        "samples": 5,
    }
