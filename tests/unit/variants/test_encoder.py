"""The ONNX graph and the torch encoder are two implementations of one model: each checks the other."""

from pathlib import Path

import numpy as np
import pytest
import torch

from anabranch.variants.encoder_graph import EncoderShape, encoder_graph
from anabranch.variants.errors import BuildError, RecipeError, VariantError
from anabranch.variants.formats import NumberFormat, promised_formats
from anabranch.variants.measure import run_all
from anabranch.variants.models import PreparedModel
from anabranch.variants.recipes import (
    Bf16,
    Device,
    Engine,
    Fp8,
    Fp16,
    Fp32,
    Int4WeightOnly,
    Int8Dynamic,
    Int8WeightOnly,
    Mixed,
    Recipe,
    VariantSpec,
)
from anabranch.variants.sessions import OnnxSession
from anabranch.variants.torch_engine.artifact import read_encoder, read_formats, write_encoder
from anabranch.variants.torch_engine.encoder import MERGED, checkpoint_names, merged_layers
from anabranch.variants.torch_engine.session import TorchSession


def _torch(model: PreparedModel, recipe: Recipe, tmp_path: Path) -> TorchSession:
    path = tmp_path / f"{recipe.name}.safetensors"
    write_encoder(model, VariantSpec(engine=Engine.TORCH, recipe=recipe), path)
    return TorchSession(path, embedding=True)


def test_onnx_and_torch_agree_in_full_precision(tiny_encoder: PreparedModel, tmp_path: Path) -> None:
    ours = run_all(OnnxSession(tiny_encoder.graph.SerializeToString()), tiny_encoder.evaluation)
    theirs = run_all(_torch(tiny_encoder, Fp32(), tmp_path), tiny_encoder.evaluation)
    np.testing.assert_allclose(ours["logits"], theirs["logits"], atol=2e-5)


def test_an_embedding_has_length_one(tiny_encoder: PreparedModel, tmp_path: Path) -> None:
    outputs = run_all(_torch(tiny_encoder, Fp32(), tmp_path), tiny_encoder.evaluation)
    np.testing.assert_allclose(np.linalg.norm(outputs["embedding"], axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "recipe",
    [Fp16(), Bf16(), Int8Dynamic(), Int8WeightOnly(), Int4WeightOnly(), Mixed()],
    ids=lambda recipe: recipe.name,
)
def test_reduced_torch_recipes_stay_near_the_reference(
    tiny_encoder: PreparedModel, tmp_path: Path, recipe: Recipe
) -> None:
    reference = run_all(_torch(tiny_encoder, Fp32(), tmp_path), tiny_encoder.evaluation)["embedding"]
    reduced = run_all(_torch(tiny_encoder, recipe, tmp_path), tiny_encoder.evaluation)["embedding"]
    cosines = (reference * reduced).sum(axis=1)
    assert cosines.min() > (0.9 if recipe == Int4WeightOnly() else 0.98)
    assert np.abs(reference - reduced).max() > 1e-5


def test_torch_int8_answers_do_not_depend_on_who_shares_the_batch(
    tiny_encoder: PreparedModel, tmp_path: Path
) -> None:
    session = _torch(tiny_encoder, Int8Dynamic(), tmp_path)
    alone = np.concatenate([session.run(request)["logits"] for request in tiny_encoder.evaluation])
    together = run_all(session, tiny_encoder.evaluation)["logits"]
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_padding_does_not_change_an_answer(tiny_encoder: PreparedModel, tmp_path: Path) -> None:
    request = tiny_encoder.evaluation[0]
    padded = {name: np.pad(array, ((0, 0), (0, 3))) for name, array in request.items()}
    for session in (
        OnnxSession(tiny_encoder.graph.SerializeToString()),
        _torch(tiny_encoder, Fp32(), tmp_path),
    ):
        np.testing.assert_allclose(session.run(request)["logits"], session.run(padded)["logits"], atol=2e-5)


def test_a_row_of_padding_alone_gives_finite_numbers(tiny_encoder: PreparedModel) -> None:
    ids = np.zeros((1, 4), np.int64)
    logits = OnnxSession(tiny_encoder.graph.SerializeToString()).run(
        {"input_ids": ids, "attention_mask": ids}
    )
    assert np.isfinite(logits["logits"]).all()


def test_torch_refuses_a_model_that_is_no_encoder(tiny_encoder: PreparedModel, tmp_path: Path) -> None:
    bare = PreparedModel(graph=tiny_encoder.graph, signatures=(), outputs=())
    with pytest.raises(RecipeError, match="encoders only"):
        write_encoder(bare, VariantSpec(engine=Engine.TORCH, recipe=Fp32()), tmp_path / "x")


def test_torch_refuses_a_file_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nothing")
    with pytest.raises(VariantError, match="no safetensors file"):
        TorchSession(tmp_path / "x")


def test_a_checkpoint_without_a_tensor_is_refused() -> None:
    with pytest.raises(BuildError, match="word_embeddings"):
        encoder_graph({}, EncoderShape(layers=1, heads=1, width=4))


@pytest.mark.parametrize(
    "recipe",
    [Fp32(), Bf16(), Fp8(), Int8Dynamic(), Int4WeightOnly(), Mixed()],
    ids=lambda recipe: recipe.name,
)
def test_an_artifact_holds_the_number_formats_that_its_recipe_promises(
    tiny_encoder: PreparedModel, tmp_path: Path, recipe: Recipe
) -> None:
    spec = VariantSpec(engine=Engine.TORCH, recipe=recipe)
    write_encoder(tiny_encoder, spec, tmp_path / "x")
    promised = promised_formats(spec, attention=tiny_encoder.attention, feedforward=tiny_encoder.feedforward)
    assert read_formats(tmp_path / "x") == promised
    assert len(promised) == 12


def test_query_key_and_value_are_one_product_where_their_formats_are_the_same() -> None:
    formats = dict.fromkeys(checkpoint_names(2), NumberFormat.BF16)
    formats["layer.1.attention.key"] = NumberFormat.FP32
    products = merged_layers(formats)
    assert products["layer.0.attention.inputs"] == tuple(
        f"layer.0.attention.{part}" for part in ("query", "key", "value")
    )
    assert products["layer.1.attention.key"] == ("layer.1.attention.key",)
    assert sorted(layer for layers in products.values() for layer in layers) == sorted(formats)


def test_an_artifact_is_read_with_one_product_for_query_key_and_value(
    tiny_encoder: PreparedModel, tmp_path: Path
) -> None:
    assert tiny_encoder.encoder is not None
    width = tiny_encoder.encoder.shape.width
    for recipe, name in ((Fp32(), "weight"), (Int8Dynamic(), "rows"), (Int4WeightOnly(), "packed")):
        write_encoder(tiny_encoder, VariantSpec(engine=Engine.TORCH, recipe=recipe), tmp_path / "x")
        product = read_encoder(tmp_path / "x").product(0, MERGED)
        assert product is not None
        assert product.get_buffer(name).shape[0] == 3 * width


def test_a_compiled_encoder_answers_as_the_eager_one(tiny_encoder: PreparedModel, tmp_path: Path) -> None:
    spec = VariantSpec(engine=Engine.TORCH_COMPILE, recipe=Int8Dynamic())
    write_encoder(tiny_encoder, spec, tmp_path / "x")
    eager, compiled = (TorchSession(tmp_path / "x", is_compiled=is_compiled) for is_compiled in (False, True))
    for requests in (tiny_encoder.evaluation[:1], tiny_encoder.evaluation):
        np.testing.assert_allclose(
            run_all(eager, requests)["logits"], run_all(compiled, requests)["logits"], atol=1e-4
        )


def test_mixed_keeps_half_precision_where_its_device_multiplies_it_fastest(
    tiny_encoder: PreparedModel, tmp_path: Path
) -> None:
    for device, half in ((Device.CPU, NumberFormat.BF16), (Device.CUDA, NumberFormat.FP16)):
        spec = VariantSpec(engine=Engine.TORCH, recipe=Mixed(), device=device)
        write_encoder(tiny_encoder, spec, tmp_path / "x")
        formats = read_formats(tmp_path / "x")
        assert {formats[name] for name in tiny_encoder.attention} == {half}
        assert {formats[name] for name in tiny_encoder.feedforward} == {NumberFormat.INT8}


def test_an_artifact_whose_tensors_are_of_another_format_than_it_says_is_refused(
    tiny_encoder: PreparedModel, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    write_encoder(tiny_encoder, VariantSpec(engine=Engine.TORCH, recipe=Bf16()), path)
    path.write_bytes(path.read_bytes().replace(b'\\"bf16\\"', b'\\"fp16\\"'))
    with pytest.raises(VariantError, match=r"layer layer\.\d.* are torch.bfloat16, must be fp16"):
        read_encoder(path)


def test_a_session_on_a_gpu_that_is_missing_is_refused(
    tiny_encoder: PreparedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    write_encoder(tiny_encoder, VariantSpec(engine=Engine.TORCH, recipe=Fp32()), tmp_path / "x")
    with pytest.raises(VariantError, match="built for a GPU"):
        TorchSession(tmp_path / "x", device=Device.CUDA)
