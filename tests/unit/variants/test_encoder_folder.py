import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anabranch.variants.build import build
from anabranch.variants.datasets import LabelledText
from anabranch.variants.encoder_folder import folder_source, read_shape
from anabranch.variants.encoder_graph import EncoderShape
from anabranch.variants.errors import VariantError
from anabranch.variants.models import PreparedModel
from anabranch.variants.runtime import load_variant
from anabranch.variants.safetensors_file import save_tensors

CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "max_position_embeddings": 16,
}
TEXTS = [LabelledText(text=text, label=label) for text, label in (("good film", 1), ("bad film", 0))] * 20


@pytest.fixture
def folder(tiny_encoder: PreparedModel, tmp_path: Path) -> Path:
    """The tiny encoder as a model with a head of its own is saved: `bert.` before every name."""
    path = tmp_path / "tiny-bert"
    path.mkdir()
    assert tiny_encoder.encoder is not None
    weights = {f"bert.{name}": np.asarray(array) for name, array in tiny_encoder.encoder.weights.items()}
    save_tensors(path / "model.safetensors", weights | {"classifier.weight": np.zeros((2, 32), np.float32)})
    (path / "vocab.txt").write_bytes(tiny_encoder.assets["vocab.txt"])
    (path / "config.json").write_text(json.dumps(CONFIG))
    return path


def test_variants_of_a_folder_are_built_and_served(folder: Path, tmp_path: Path) -> None:
    source = folder_source(folder, TEXTS, "mine")
    for manifest in build(source, ["onnx-fp32", "torch-bf16"], tmp_path / "root", threads=1):
        assert manifest.task is not None
        assert manifest.task.value == 1.0
        assert manifest.task.requests == 13
    variant = load_variant(tmp_path / "root" / "mine" / "onnx-fp32")
    [answer] = variant.infer([{"text": np.array([b"good film", b"bad film"], dtype=np.object_)}])
    assert answer["logits"].argmax(axis=1).tolist() == [1, 0]


def test_other_texts_make_another_source(folder: Path) -> None:
    assert folder_source(folder, TEXTS, "m").identity != folder_source(folder, TEXTS[2:], "m").identity


def test_the_sizes_are_read(folder: Path) -> None:
    assert read_shape(folder) == (EncoderShape(layers=2, heads=4, width=32), 16)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "t5"}, "model_type is 't5', must be 'bert'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"position_embedding_type": "relative_key"}, "positions are 'relative_key'"),
    ],
)
def test_another_kind_of_model_is_refused(folder: Path, change: dict[str, Any], said: str) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | change))
    with pytest.raises(VariantError, match=said):
        folder_source(folder, TEXTS, "m")


def test_a_tokenizer_that_keeps_upper_case_is_refused(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    with pytest.raises(VariantError, match="must be an uncased one"):
        folder_source(folder, TEXTS, "m")


def test_pickled_weights_are_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(VariantError, match="holds no model"):
        folder_source(folder, TEXTS, "m")


def test_too_few_texts_are_refused(folder: Path) -> None:
    with pytest.raises(VariantError, match="29 texts, must be at least 30"):
        folder_source(folder, TEXTS[:29], "m")


def test_a_broken_configuration_is_refused(folder: Path) -> None:
    for content, said in (
        ("{", "is not JSON"),
        ("[]", "must hold an object"),
        ('{"model_type": "bert", "hidden_act": "gelu"}', "lacks 'num_hidden_layers'"),
    ):
        (folder / "config.json").write_text(content)
        with pytest.raises(VariantError, match=said):
            folder_source(folder, TEXTS, "m")
