from pathlib import Path

import numpy as np
import onnx
import pytest

from anabranch.variants.errors import BuildError
from anabranch.variants.measure import run_all
from anabranch.variants.models import PreparedModel
from anabranch.variants.onnx_recipes import OnnxBuilder
from anabranch.variants.quantize.static import linear_layers
from anabranch.variants.recipes import Int4WeightOnly, Int8Dynamic, Int8Static, Ranges, Recipe
from anabranch.variants.sensitivity.report import load_report, measure_layers, save_report
from anabranch.variants.sensitivity.switches import SwitchedModel, switch_graph
from anabranch.variants.sessions import OnnxSession

RECIPES: list[Recipe] = [Int8Dynamic(), Int8Dynamic(ranges=Ranges.ROW), Int8Static(), Int4WeightOnly()]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_with_every_switch_on_the_joined_graph_is_the_reduced_one(
    tiny_encoder: PreparedModel, recipe: Recipe
) -> None:
    reduced = OnnxBuilder(tiny_encoder).build(recipe)
    layers = linear_layers(tiny_encoder.graph, tiny_encoder.keep)
    switched = SwitchedModel(tiny_encoder.graph, reduced, layers, probe=None, threads=1)
    both = switched.run(tiny_encoder.evaluation, {layer.node for layer in layers})["logits"]
    alone = run_all(OnnxSession(reduced.SerializeToString()), tiny_encoder.evaluation)["logits"]
    np.testing.assert_allclose(both, alone, atol=1e-4)


def test_with_every_switch_off_only_the_embedding_table_is_reduced(tiny_encoder: PreparedModel) -> None:
    reduced = OnnxBuilder(tiny_encoder).build(Int8Static())
    layers = linear_layers(tiny_encoder.graph, tiny_encoder.keep)
    switched = SwitchedModel(tiny_encoder.graph, reduced, layers, probe=None, threads=1)
    off = switched.run(tiny_encoder.evaluation, ())["logits"]
    full = run_all(OnnxSession(tiny_encoder.graph.SerializeToString()), tiny_encoder.evaluation)["logits"]
    np.testing.assert_allclose(off, full, atol=1e-5)


def test_a_graph_without_the_layers_outputs_is_refused(tiny_encoder: PreparedModel) -> None:
    layers = linear_layers(tiny_encoder.graph, tiny_encoder.keep)
    with pytest.raises(BuildError, match=r"lacks 'layer\.0\.attention\.query'"):
        switch_graph(tiny_encoder.graph, onnx.ModelProto(), layers)


def test_a_layer_that_was_spoiled_is_found(tiny_encoder: PreparedModel, tmp_path: Path) -> None:
    reduced = OnnxBuilder(tiny_encoder).build(Int8Static())
    spoiled = "layer.1.feedforward.down.weight/scales"
    tensor = next(tensor for tensor in reduced.graph.initializer if tensor.name == spoiled)
    tensor.CopyFrom(
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(1.5), spoiled)
    )
    report = measure_layers(tiny_encoder, reduced, threads=1)
    assert report is not None
    assert report.layers[0].layer == "layer.1.feedforward.down"
    assert report.layers[0].distance > 5 * report.layers[1].distance
    assert len(report.layers) == 12
    assert report.together > 0
    save_report(report, tmp_path)
    assert load_report(tmp_path) == report


def test_a_graph_in_full_precision_has_no_report(tiny_encoder: PreparedModel, tmp_path: Path) -> None:
    assert measure_layers(tiny_encoder, tiny_encoder.graph, threads=1) is None
    assert load_report(tmp_path) is None
