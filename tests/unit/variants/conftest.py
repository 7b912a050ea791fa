"""Models and fakes that the tests of variants share."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from anabranch.variants.build import build
from anabranch.variants.encoder_graph import (
    AttentionPrecision,
    EncoderShape,
    attention_nodes,
    encoder_graph,
    feedforward_nodes,
)
from anabranch.variants.manifest import Manifest
from anabranch.variants.minilm import minilm_source
from anabranch.variants.models import Encoder, ModelSource, PreparedModel
from anabranch.variants.own_models import source_from_onnx
from anabranch.variants.tensors import Array, Datatype, Request, Signature, TensorSpec
from anabranch.variants.wordpiece import TextEncoding

_REPOSITORY = Path(__file__).parents[3]
_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "##e", "good", "bad", "film", ".", ","]


@pytest.fixture(scope="session")
def test_data() -> Path:
    return _REPOSITORY / "tests" / "data"


@pytest.fixture(scope="session")
def digits_model(test_data: Path) -> ModuleType:
    """The module that trains the small digits network, loaded by its path."""
    spec = importlib.util.spec_from_file_location("digits_model", test_data / "digits_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def digits_onnx(digits_model: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "digits.onnx"
    digits_model.write_digits_onnx(path)
    return path


@pytest.fixture(scope="session")
def digits_samples(digits_model: ModuleType) -> tuple[list[Request], list[int]]:
    digits = digits_model.load_digits()
    return [{"pixels": row[None]} for row in digits.test_pixels], digits.test_labels.tolist()


@pytest.fixture(scope="session")
def digits_source(
    digits_onnx: Path, digits_model: ModuleType, digits_samples: tuple[list[Request], list[int]]
) -> ModelSource:
    requests, labels = digits_samples
    calibration = [{"pixels": row[None]} for row in digits_model.load_digits().train_pixels[:64]]
    return source_from_onnx(digits_onnx, "digits", samples=requests, labels=labels, calibration=calibration)


def _random_weights(
    rng: np.random.Generator, shape: EncoderShape, words: int, tokens: int
) -> dict[str, Array]:
    width = shape.width

    def normal(*size: int) -> NDArray[np.float32]:
        return rng.normal(0, 0.3, size).astype(np.float32)

    weights: dict[str, Array] = {
        "embeddings.word_embeddings.weight": normal(words, width),
        "embeddings.position_embeddings.weight": normal(tokens, width),
        "embeddings.token_type_embeddings.weight": normal(2, width),
    }
    linears = {"attention.self.query": (width, width), "attention.self.key": (width, width)}
    linears |= {"attention.self.value": (width, width), "attention.output.dense": (width, width)}
    linears |= {"intermediate.dense": (4 * width, width), "output.dense": (width, 4 * width)}
    norms = ["embeddings.LayerNorm"]
    for layer in range(shape.layers):
        key = f"encoder.layer.{layer}"
        norms += [f"{key}.attention.output.LayerNorm", f"{key}.output.LayerNorm"]
        for name, size in linears.items():
            weights[f"{key}.{name}.weight"] = normal(*size)
            weights[f"{key}.{name}.bias"] = normal(size[0])
    for name in norms:
        weights[f"{name}.weight"] = 1 + normal(width)
        weights[f"{name}.bias"] = normal(width)
    return weights


@pytest.fixture(scope="session")
def tiny_encoder() -> PreparedModel:
    """A random encoder with two layers and 14 words, and requests for it."""
    rng = np.random.default_rng(5)
    shape = EncoderShape(layers=2, heads=4, width=32)
    weights = _random_weights(rng, shape, len(_WORDS), 16)
    head = (rng.normal(0, 1, (32, 2)).astype(np.float32), rng.normal(0, 1, 2).astype(np.float32))
    requests: list[Request] = []
    for tokens in rng.integers(3, 17, 40):
        ids = rng.integers(0, len(_WORDS), (1, tokens))
        requests.append({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    tokens_signature = Signature(
        name="tokens",
        inputs=(
            TensorSpec(name="input_ids", datatype=Datatype.INT64, shape=(-1, -1)),
            TensorSpec(name="attention_mask", datatype=Datatype.INT64, shape=(-1, -1)),
        ),
    )
    text_signature = Signature(
        name="text", inputs=(TensorSpec(name="text", datatype=Datatype.BYTES, shape=(-1,)),)
    )
    return PreparedModel(
        graph=encoder_graph(weights, shape, head=head),
        half_attention=lambda: encoder_graph(weights, shape, head=head, attention=AttentionPrecision.FP16),
        feedforward=feedforward_nodes(shape.layers),
        attention=attention_nodes(shape.layers),
        encoder=Encoder(weights=weights, shape=shape, head=head),
        keep=frozenset({"head"}),
        signatures=(text_signature, tokens_signature),
        outputs=(TensorSpec(name="logits", datatype=Datatype.FP32, shape=(-1, 2)),),
        assets={"vocab.txt": "\n".join(_WORDS).encode()},
        text=TextEncoding(vocabulary="vocab.txt", vocabulary_size=len(_WORDS), max_tokens=16),
        training=tuple(requests[:20]),
        training_labels=np.array([0, 1] * 10),
        calibration=tuple(requests[:20]),
        evaluation=tuple(requests[20:]),
        labels=np.array([0, 1] * 10),
        probe="embedding",
    )


@pytest.fixture(scope="session")
def tiny_source(tiny_encoder: PreparedModel) -> ModelSource:
    return ModelSource(name="tiny", identity={"seed": "5"}, prepare=lambda _work, _progress: tiny_encoder)


@pytest.fixture(scope="session")
def minilm_root() -> Path:
    """Where the real model's variants are kept from run to run; they are built again when anything changed."""
    return _REPOSITORY / ".cache" / "tests" / "variants"


@pytest.fixture(scope="session")
def minilm(minilm_root: Path) -> dict[str, Manifest]:
    """Three variants of the real model: the reference, the honest winner and the honest loser."""
    names = ["onnx-fp32", "onnx-int8-dynamic", "onnx-int8-static-kl"]
    source = minilm_source(train=400, evaluate=200)
    return {manifest.variant: manifest for manifest in build(source, names, minilm_root)}
