import pytest

from anabranch.variants.errors import RecipeError
from anabranch.variants.recipes import (
    RECIPES,
    Calibration,
    Device,
    Engine,
    Fp16,
    Int8Static,
    VariantSpec,
    all_specs,
    recipe_fields,
    variant_spec,
)


def test_a_name_is_engine_and_recipe() -> None:
    spec = variant_spec("onnx-int8-static-kl")
    assert spec == VariantSpec(engine=Engine.ONNX, recipe=Int8Static(calibration=Calibration.KL))
    assert spec.name == "onnx-int8-static-kl"


def test_every_combination_is_found_by_its_own_name() -> None:
    for spec in all_specs():
        assert variant_spec(spec.name) == spec


def test_names_are_unique_and_every_combination_is_listed() -> None:
    names = [spec.name for spec in all_specs()]
    assert len(set(names)) == len(names) == len(Engine) * len(RECIPES) * len(Device)


def test_a_device_other_than_the_cpu_is_part_of_the_name() -> None:
    assert variant_spec("torch-compile-fp16-cuda") == VariantSpec(
        engine=Engine.TORCH_COMPILE, recipe=Fp16(), device=Device.CUDA
    )


def test_an_unknown_name_is_refused_with_the_nearest_ones() -> None:
    with pytest.raises(RecipeError, match=r"'onnx-int8-dynamik'.*did you mean onnx-int8-dynamic"):
        variant_spec("onnx-int8-dynamik")


def test_a_recipe_is_written_with_all_its_settings() -> None:
    assert recipe_fields(Int8Static(calibration=Calibration.KL, samples=5)) == {
        "name": "int8-static-kl",
        "calibration": "kl",
        "samples": 5,
    }
