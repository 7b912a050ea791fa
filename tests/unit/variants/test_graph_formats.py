import pytest

from anabranch.variants.errors import BuildError
from anabranch.variants.formats import NumberFormat, count_formats, promised_formats
from anabranch.variants.graph_formats import require_formats
from anabranch.variants.models import PreparedModel
from anabranch.variants.onnx_recipes import OnnxBuilder
from anabranch.variants.recipes import (
    Engine,
    Fp16,
    Fp32,
    Int4WeightOnly,
    Int8Dynamic,
    Int8Qat,
    Int8Static,
    Int8WeightOnly,
    Mixed,
    Ranges,
    Recipe,
    VariantSpec,
)


@pytest.mark.parametrize(
    "recipe",
    [
        Fp32(),
        Fp16(),
        Int8Dynamic(),
        Int8Dynamic(ranges=Ranges.ROW),
        Int8Static(),
        Int8Qat(steps=1),
        Int8WeightOnly(),
        Int4WeightOnly(),
        Mixed(),
    ],
    ids=lambda recipe: recipe.name,
)
def test_the_formats_in_the_file_are_those_that_the_recipe_promises(
    tiny_encoder: PreparedModel, recipe: Recipe
) -> None:
    builder = OnnxBuilder(tiny_encoder)
    found = builder.formats(builder.build(recipe))
    promised = promised_formats(
        VariantSpec(engine=Engine.ONNX, recipe=recipe),
        attention=tiny_encoder.attention,
        feedforward=tiny_encoder.feedforward,
    )
    require_formats(found, promised)
    assert found == promised


def test_a_layer_in_another_format_is_refused_by_name() -> None:
    with pytest.raises(BuildError, match=r"layer a is fp32 in the file, must be int8"):
        require_formats({"a": NumberFormat.FP32}, {"a": NumberFormat.INT8})


def test_a_graph_without_the_layer_is_refused(tiny_encoder: PreparedModel) -> None:
    builder = OnnxBuilder(tiny_encoder)
    graph = builder.build(Int8Dynamic())
    del graph.graph.node[:]
    with pytest.raises(BuildError, match="not found in the built graph"):
        builder.formats(graph)


def test_formats_are_counted_in_words() -> None:
    assert (
        count_formats({"a": NumberFormat.INT8, "b": NumberFormat.FP16, "c": NumberFormat.INT8})
        == "1 fp16, 2 int8"
    )
