from dataclasses import replace

import numpy as np
import onnx
import pytest

from anabranch.variants.errors import RecipeError
from anabranch.variants.formats import NumberFormat
from anabranch.variants.models import PreparedModel
from anabranch.variants.onnx_recipes import OnnxBuilder
from anabranch.variants.recipes import Int8Static, MixedWithin
from anabranch.variants.sensitivity.search import accuracy_drop, fewest_kept, layers_to_keep


def _quiet(_: str) -> None:
    return


@pytest.mark.parametrize("needed", [0, 1, 5, 12])
def test_halving_finds_the_fewest_layers(needed: int) -> None:
    tried: list[int] = []

    def drop(kept: int) -> float:
        tried.append(kept)
        return 0.0 if kept >= needed else 0.1

    assert fewest_kept(drop, 12, 0.01) == needed
    assert len(tried) <= 4


def test_a_lost_answer_counts_and_a_gained_one_makes_up_for_it() -> None:
    labels = np.array([0, 0, 1, 1])
    reference = np.array([0, 1, 1, 1])
    assert accuracy_drop(reference, np.array([0, 0, 1, 0]), labels) == 0
    assert accuracy_drop(reference, np.array([0, 0, 1, 0]), None) == 0.5


def test_the_layer_that_costs_the_accuracy_is_kept(tiny_encoder: PreparedModel) -> None:
    reduced = OnnxBuilder(tiny_encoder).build(Int8Static())
    name = "layer.1.feedforward.down.weight/scales"
    tensor = next(tensor for tensor in reduced.graph.initializer if tensor.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(-4), name))
    lines: list[str] = []
    unlabelled = replace(tiny_encoder, training_labels=None)
    kept = layers_to_keep(unlabelled, reduced, max_drop=0.01, threads=1, tell=lines.append)
    assert kept[0] == "layer.1.feedforward.down"
    assert len(kept) < 6
    assert lines[0].startswith("6 of 12 layers in INT8: accuracy")


def test_a_limit_that_is_no_share_is_refused(tiny_encoder: PreparedModel) -> None:
    with pytest.raises(RecipeError, match="must be between 0 and 1"):
        layers_to_keep(tiny_encoder, tiny_encoder.graph, max_drop=0, threads=1, tell=_quiet)


def test_the_artifact_says_which_layers_are_int8(tiny_encoder: PreparedModel) -> None:
    builder = OnnxBuilder(tiny_encoder)
    formats = builder.formats(builder.build(MixedWithin(max_accuracy_drop=0.3)))
    assert len(formats) == 12
    assert set(formats.values()) <= {NumberFormat.INT8, NumberFormat.FP32}
    assert NumberFormat.INT8 in formats.values()
