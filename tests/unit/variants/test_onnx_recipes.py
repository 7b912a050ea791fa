from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from anabranch.variants.errors import BuildError, RecipeError
from anabranch.variants.measure import run_all
from anabranch.variants.models import PreparedModel
from anabranch.variants.onnx_graphs import with_extra_outputs
from anabranch.variants.onnx_recipes import OnnxBuilder
from anabranch.variants.recipes import (
    Bf16,
    Calibration,
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
)
from anabranch.variants.sessions import OnnxSession

RECIPES: list[Recipe] = [
    Fp16(),
    Int8Dynamic(),
    Int8Dynamic(ranges=Ranges.ROW),
    Int8Static(),
    Int8Static(calibration=Calibration.PERCENTILE),
    Int8Static(calibration=Calibration.KL),
    Int8Qat(steps=4),
    Int8WeightOnly(),
    Int4WeightOnly(),
    Mixed(),
]


@pytest.fixture(scope="module")
def builder(tiny_encoder: PreparedModel) -> OnnxBuilder:
    return OnnxBuilder(tiny_encoder)


def _embeddings(model: onnx.ModelProto, prepared: PreparedModel) -> np.ndarray:
    session = OnnxSession(with_extra_outputs(model, ["embedding"]))
    return run_all(session, prepared.evaluation)["embedding"].astype(np.float64)


def _types(model: onnx.ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_every_recipe_stays_near_the_reference(
    builder: OnnxBuilder, tiny_encoder: PreparedModel, recipe: Recipe
) -> None:
    reference = _embeddings(builder.build(Fp32()), tiny_encoder)
    cosines = (reference * _embeddings(builder.build(recipe), tiny_encoder)).sum(axis=1)
    assert cosines.min() > 0.9
    assert cosines.min() < 1 - 1e-9


def test_fp16_halves_the_file_and_keeps_the_inputs_and_outputs(
    builder: OnnxBuilder, tiny_encoder: PreparedModel
) -> None:
    half = builder.build(Fp16())
    assert half.ByteSize() < 0.62 * tiny_encoder.graph.ByteSize()
    session = OnnxSession(half.SerializeToString())
    full = OnnxSession(tiny_encoder.graph.SerializeToString())
    assert (session.inputs, session.outputs) == (full.inputs, full.outputs)


def test_int8_dynamic_quantizes_every_linear_layer_but_the_head_and_the_embedding_too(
    builder: OnnxBuilder,
) -> None:
    model = builder.build(Int8Dynamic())
    counts = Counter(node.op_type for node in model.graph.node)
    assert counts["MatMulInteger"] == 12
    types = _types(model)
    assert types["head.weight"] == TensorProto.FLOAT
    assert types["embeddings.words_quantized"] in (TensorProto.INT8, TensorProto.UINT8)
    assert "embeddings.words" not in types


def test_int8_with_a_range_a_row_answers_alone_as_in_a_batch_and_a_range_a_tensor_does_not(
    builder: OnnxBuilder, tiny_encoder: PreparedModel
) -> None:
    differences = []
    for ranges in Ranges:
        session = OnnxSession(builder.build(Int8Dynamic(ranges=ranges)).SerializeToString())
        alone = np.concatenate([session.run(request)["logits"] for request in tiny_encoder.evaluation])
        differences.append(float(np.abs(alone - run_all(session, tiny_encoder.evaluation)["logits"]).max()))
    tensor, row = differences
    assert row < 1e-5 < 1e-3 < tensor


def test_int8_with_a_range_a_row_quantizes_the_same_layers_with_standard_operators(
    builder: OnnxBuilder,
) -> None:
    model = builder.build(Int8Dynamic(ranges=Ranges.ROW))
    types = _types(model)
    assert Counter(node.op_type for node in model.graph.node)["MatMulInteger"] == 12
    assert {node.domain for node in model.graph.node} == {""}
    assert "embeddings.words" not in types
    assert [name for name in types if name.endswith(".weight")] == ["head.weight"]


def test_int8_static_quantizes_every_linear_layer_but_the_head(builder: OnnxBuilder) -> None:
    types = _types(builder.build(Int8Static()))
    assert (
        sum(name.endswith("weight/int8") and kind == TensorProto.INT8 for name, kind in types.items()) == 12
    )
    assert [name for name in types if name.endswith(".weight")] == ["head.weight"]


@pytest.mark.parametrize(("recipe", "bits"), [(Int8WeightOnly(), 8), (Int4WeightOnly(), 4)])
def test_weight_only_leaves_no_full_precision_weight_but_the_head(
    builder: OnnxBuilder, recipe: Recipe, bits: int
) -> None:
    model = builder.build(recipe)
    products = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    assert len(products) == 12
    for node in products:
        assert {attribute.i for attribute in node.attribute if attribute.name == "bits"} == {bits}
    types = _types(model)
    assert "embeddings.words" not in types
    assert [name for name in types if name.endswith(".weight")] == ["head.weight"]


def test_training_needs_an_encoder_and_requests(tiny_encoder: PreparedModel) -> None:
    with pytest.raises(RecipeError, match="trains BERT encoders only"):
        OnnxBuilder(replace(tiny_encoder, encoder=None)).build(Int8Qat())
    with pytest.raises(RecipeError, match="the model has 0"):
        OnnxBuilder(replace(tiny_encoder, training=())).build(Int8Qat())


def test_mixed_has_fp16_attention_int8_feedforward_and_fp32_around_them(builder: OnnxBuilder) -> None:
    model = builder.build(Mixed())
    types = _types(model)
    attention = {kind for name, kind in types.items() if ".attention." in name and name.endswith(".weight")}
    feedforward = {
        kind for name, kind in types.items() if ".feedforward." in name and "weight_quantized" in name
    }
    assert attention == {TensorProto.FLOAT16}
    assert feedforward == {TensorProto.INT8}
    assert types["embeddings.words"] == types["head.weight"] == TensorProto.FLOAT
    assert Counter(node.op_type for node in model.graph.node)["MatMulInteger"] == 4


def test_calibrations_give_different_ranges(builder: OnnxBuilder) -> None:
    scales = []
    for calibration in Calibration:
        model = builder.build(Int8Static(calibration=calibration))
        scales.append(
            sum(
                onnx.numpy_helper.to_array(t).item()
                for t in model.graph.initializer
                if t.name.endswith("/scale")
            )
        )
    minmax, percentile, kl = scales
    assert kl < minmax
    assert percentile <= minmax


def test_building_leaves_the_reference_untouched(builder: OnnxBuilder, tiny_encoder: PreparedModel) -> None:
    before = tiny_encoder.graph.SerializeToString()
    for recipe in RECIPES:
        builder.build(recipe)
    assert tiny_encoder.graph.SerializeToString() == before


def test_what_a_model_cannot_take_is_refused_with_the_reason(tiny_encoder: PreparedModel) -> None:
    bare = OnnxBuilder(
        PreparedModel(
            graph=tiny_encoder.graph, signatures=tiny_encoder.signatures, outputs=tiny_encoder.outputs
        )
    )
    with pytest.raises(RecipeError, match="attention"):
        bare.build(Mixed())
    with pytest.raises(RecipeError, match="calibration requests"):
        bare.build(Int8Static())
    with pytest.raises(RecipeError, match="no bf16 kernels"):
        bare.build(Bf16())


def test_mixed_that_misses_a_layer_is_refused(tiny_encoder: PreparedModel) -> None:
    wrong = PreparedModel(
        graph=tiny_encoder.graph,
        signatures=tiny_encoder.signatures,
        outputs=tiny_encoder.outputs,
        half_attention=lambda: tiny_encoder.graph,
        attention=tiny_encoder.attention,
        feedforward=tiny_encoder.feedforward,
    )
    with pytest.raises(BuildError, match="8 attention layers did not become FP16"):
        OnnxBuilder(wrong).build(Mixed())
