import numpy as np
import onnx
import pytest

from anabranch.variants.measure import run_all
from anabranch.variants.models import PreparedModel
from anabranch.variants.onnx_graphs import with_extra_outputs
from anabranch.variants.quantize.calibrate import Range, choose_ranges, observe
from anabranch.variants.quantize.static import linear_layers, quantize_static
from anabranch.variants.recipes import Calibration, Int8Qat
from anabranch.variants.sessions import OnnxSession
from anabranch.variants.torch_engine.training import train_for_int8


def _distance(model: onnx.ModelProto, prepared: PreparedModel) -> float:
    """Mean of 1 - cosine to the reference's embeddings of the training requests."""
    reference, other = (
        run_all(OnnxSession(with_extra_outputs(graph, ["embedding"])), prepared.training)["embedding"]
        for graph in (prepared.graph, model)
    )
    return float(1 - (reference * other).sum(axis=1).mean())


@pytest.fixture(scope="module")
def narrow(tiny_encoder: PreparedModel) -> dict[str, Range]:
    """Ranges that cut off two thirds of every activation's: what a bad calibration does."""
    sources = sorted({layer.source for layer in linear_layers(tiny_encoder.graph, tiny_encoder.keep)})
    ranges = choose_ranges(observe(tiny_encoder.graph, sources, tiny_encoder.calibration), Calibration.MINMAX)
    return {name: Range(low=span.low / 3, high=span.high / 3) for name, span in ranges.items()}


def test_training_recovers_most_of_what_bad_ranges_cost(
    tiny_encoder: PreparedModel, narrow: dict[str, Range]
) -> None:
    layers = linear_layers(tiny_encoder.graph, tiny_encoder.keep)
    by_layer = {layer.node: narrow[layer.source] for layer in layers}
    untrained = _distance(quantize_static(tiny_encoder.graph, layers, narrow), tiny_encoder)
    lines: list[str] = []
    graph = train_for_int8(tiny_encoder, Int8Qat(steps=60, learning_rate=3e-3), by_layer, lines.append)
    trained = _distance(quantize_static(graph, layers, narrow), tiny_encoder)
    assert untrained > 0.01
    assert trained < untrained / 2
    assert len(lines) == 5


def test_the_same_training_gives_the_same_weights(
    tiny_encoder: PreparedModel, narrow: dict[str, Range]
) -> None:
    layers = linear_layers(tiny_encoder.graph, tiny_encoder.keep)
    by_layer = {layer.node: narrow[layer.source] for layer in layers}
    first, second = (
        train_for_int8(tiny_encoder, Int8Qat(steps=3), by_layer, lambda _: None) for _ in range(2)
    )
    assert first.SerializeToString() == second.SerializeToString()


def test_the_reference_is_not_trained_along(tiny_encoder: PreparedModel) -> None:
    assert tiny_encoder.encoder is not None
    copied = {name: np.array(array) for name, array in tiny_encoder.encoder.weights.items()}
    train_for_int8(tiny_encoder, Int8Qat(steps=2, learning_rate=1e-2), {}, lambda _: None)
    for name, array in tiny_encoder.encoder.weights.items():
        np.testing.assert_array_equal(array, copied[name])
