from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from anabranch.bandit.verdicts import Outcome
from anabranch.variants.errors import BuildError, RecipeError
from anabranch.variants.llm.build import build_language_model
from anabranch.variants.llm.decoder import FINAL_NORM
from anabranch.variants.llm.description import Generation
from anabranch.variants.llm.kv_cache import Window
from anabranch.variants.llm.models import LanguageSource
from anabranch.variants.llm.recipes import KvSinks, LanguageSpec, language_spec
from anabranch.variants.manifest import Manifest, load_manifest
from anabranch.variants.pricing import set_hourly_price


def described(manifest: Manifest) -> Generation:
    assert manifest.generation is not None
    return manifest.generation


def manifest_of(root: Path, variant: str) -> Manifest:
    return load_manifest(root / "tiny" / variant)


def operators(root: Path, variant: str) -> list[str]:
    graph = onnx.load(str(root / "tiny" / variant / "model.onnx"), load_external_data=False)
    return [node.op_type for node in graph.graph.node]


def test_the_reference_agrees_with_itself_exactly(tiny_root: Path) -> None:
    manifest = manifest_of(tiny_root, "onnx-fp32")
    assert manifest.parity is not None
    assert manifest.parity.reference == "onnx-fp32"
    assert (manifest.parity.max_abs, manifest.parity.top1_agreement) == (0.0, 1.0)
    fidelity = described(manifest).fidelity
    assert fidelity is not None
    assert (fidelity.tokens, fidelity.kl_mean) == (399, 0.0)


@pytest.mark.parametrize(
    ("variant", "agreement", "kl"),
    [
        ("onnx-fp16", 0.99, 1e-4),
        ("onnx-int8-weight-only", 0.95, 0.05),
        ("onnx-int4-weight-only", 0.6, 1.0),
        ("onnx-kv-int8", 0.95, 0.05),
        ("onnx-kv-int4", 0.5, 1.0),
    ],
)
def test_a_recipe_changes_tokens_by_about_its_precision(
    tiny_root: Path, variant: str, agreement: float, kl: float
) -> None:
    fidelity = described(manifest_of(tiny_root, variant)).fidelity
    assert fidelity is not None
    assert fidelity.agreement >= agreement
    # Not nothing, or the recipe did nothing.
    assert 0 < fidelity.kl_mean < kl


def test_sizes_and_caches_shrink_as_the_recipes_promise(tiny_root: Path) -> None:
    whole = manifest_of(tiny_root, "onnx-fp32")
    sizes = {
        name: (tiny_root / "tiny" / name / "weights.bin").stat().st_size
        for name in ("onnx-fp32", "onnx-fp16", "onnx-int8-weight-only", "onnx-int4-weight-only")
    }
    assert sizes["onnx-fp16"] < 0.51 * sizes["onnx-fp32"]
    assert sizes["onnx-int8-weight-only"] < 0.35 * sizes["onnx-fp32"]
    assert sizes["onnx-int4-weight-only"] < sizes["onnx-int8-weight-only"]
    rows = {
        name: described(manifest_of(tiny_root, name)).cache_row_bytes
        for name in ("onnx-fp16", "onnx-kv-int8", "onnx-kv-int4")
    }
    assert rows == {
        "onnx-fp16": described(whole).cache_row_bytes // 2,
        "onnx-kv-int8": described(whole).cache_row_bytes // 4,
        "onnx-kv-int4": described(whole).cache_row_bytes // 8,
    }


def test_every_matrix_is_in_blocks_where_the_recipe_says_so(tiny_root: Path) -> None:
    found = operators(tiny_root, "onnx-int4-weight-only")
    # Four products a layer and the logits; what is left of MatMul are the sums of blocks.
    assert found.count("MatMulNBits") == 4 * 2 + 1
    assert found.count("GatherBlockQuantized") == 1
    assert "MatMulNBits" not in operators(tiny_root, "onnx-fp32")


def test_the_offline_gate_lets_the_near_pass_and_fails_the_far(
    tiny_root: Path, tiny_source: LanguageSource, tmp_path: Path
) -> None:
    near = manifest_of(tiny_root, "onnx-fp16").gate
    assert near is not None
    assert (near.outcome, near.requests) == (Outcome.PASS, 399)
    assert "on 399 tokens of a held-out text, at most 10 lost are allowed" in near.reason
    narrow = LanguageSpec(recipe=KvSinks(sinks=1, recent=3))
    (manifest,) = build_language_model(tiny_source, [narrow], tmp_path, threads=1)
    assert manifest.gate is not None
    assert manifest.gate.outcome is Outcome.FAIL
    assert manifest_of(tiny_root, "onnx-fp32").gate is None


def test_a_window_is_described_and_bounds_the_cache(
    tiny_root: Path, tiny_source: LanguageSource, tmp_path: Path
) -> None:
    windows = {
        name: described(manifest_of(tiny_root, name)).window for name in ("onnx-kv-window", "onnx-kv-sinks")
    }
    assert windows == {
        "onnx-kv-window": Window(sinks=0, recent=512),
        "onnx-kv-sinks": Window(sinks=4, recent=508),
    }
    narrow = LanguageSpec(recipe=KvSinks(sinks=1, recent=15))
    (manifest,) = build_language_model(tiny_source, [narrow], tmp_path, threads=1)
    generation = described(manifest)
    # What a call of 64 tokens needs for itself comes on top of the 16 that are remembered.
    assert generation.cache_bytes == generation.cache_row_bytes * (16 - 1 + 64)
    assert generation.fidelity is not None
    assert generation.fidelity.kl_mean > 0.1


def test_perplexity_comes_with_an_interval_and_its_ratio_to_the_reference(tiny_root: Path) -> None:
    found = described(manifest_of(tiny_root, "onnx-kv-int4")).perplexity
    assert found is not None
    assert found.low < found.value < found.high
    assert found.ratio_low < found.ratio < found.ratio_high
    # Paired losses say more than two intervals.
    assert found.ratio_high / found.ratio_low < found.high / found.low


def test_speed_is_measured_and_shown_as_every_variants_latency(tiny_root: Path) -> None:
    manifest = manifest_of(tiny_root, "onnx-fp32")
    (timed,) = described(manifest).speed
    assert timed.ttft_ms > 0
    assert timed.answer_ms > timed.ttft_ms
    assert manifest.latency[0].p50_ms == timed.answer_ms


def test_what_is_up_to_date_is_not_built_again(tiny_root: Path, tiny_source: LanguageSource) -> None:
    def unexpected(_tell: object) -> object:
        raise AssertionError("the model is not needed")

    kept = replace(tiny_source, prepare=unexpected)  # type: ignore[arg-type]  # it never returns
    (manifest,) = build_language_model(kept, ["onnx-fp16"], tiny_root)
    assert manifest == manifest_of(tiny_root, "onnx-fp16")


def test_another_text_is_another_build(tiny_source: LanguageSource, tiny_root: Path, tmp_path: Path) -> None:
    other = replace(tiny_source, identity={"weights": "others"})
    (manifest,) = build_language_model(other, ["onnx-fp16"], tmp_path, threads=1)
    assert manifest.cache_key != manifest_of(tiny_root, "onnx-fp16").cache_key


def test_a_degree_that_does_not_divide_the_key_heads_is_refused_with_the_reason(
    tiny_source: LanguageSource, tmp_path: Path
) -> None:
    message = "4 processes cannot share 2 key heads: the degree must divide them, so it can be 2"
    with pytest.raises(RecipeError, match=message):
        build_language_model(tiny_source, ["torch-tensor-parallel-4"], tmp_path)


def test_an_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(RecipeError, match="did you mean onnx-kv-sinks"):
        language_spec("onnx-kv-sink")


def test_logits_that_are_not_finite_are_refused(tiny_source: LanguageSource, tmp_path: Path) -> None:
    model = tiny_source.prepare(lambda _line: None)
    decoder = model.decoder
    broken = {**decoder.weights, FINAL_NORM: np.full(decoder.shape.width, np.inf, np.float32)}
    model = replace(model, decoder=replace(decoder, weights=broken))
    source = replace(tiny_source, prepare=lambda _tell: model)
    with pytest.raises(BuildError, match="not finite"):
        build_language_model(source, ["onnx-fp32"], tmp_path)
    assert list((tmp_path / "tiny").glob("*/manifest.json")) == []


def test_a_price_stays_when_the_variant_is_built_again(tiny_source: LanguageSource, tmp_path: Path) -> None:
    build_language_model(tiny_source, ["onnx-fp32"], tmp_path, threads=1)
    set_hourly_price(tmp_path / tiny_source.name / "onnx-fp32", 3.0)
    changed = replace(tiny_source, identity={**tiny_source.identity, "again": "yes"})
    [again] = build_language_model(changed, ["onnx-fp32"], tmp_path, threads=1)
    assert again.hourly_price == 3.0
