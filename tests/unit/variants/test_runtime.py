from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anabranch.variants.batching import Placement
from anabranch.variants.build import build
from anabranch.variants.errors import ManifestError, VariantInputError, VariantRunError
from anabranch.variants.manifest import BatchLatency
from anabranch.variants.models import ModelSource
from anabranch.variants.own_models import import_onnx
from anabranch.variants.runtime import LoadedVariant, load_variant, suitable_placement
from anabranch.variants.tensors import Array, Request


@pytest.fixture(scope="module")
def digits(digits_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedVariant:
    root = tmp_path_factory.mktemp("root")
    import_onnx(digits_onnx, "digits", "mine", root)
    return load_variant(root / "digits" / "mine")


@pytest.fixture(scope="module")
def encoder(tiny_source: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> LoadedVariant:
    root = tmp_path_factory.mktemp("root")
    build(tiny_source, ["onnx-fp32"], root, threads=1)
    return load_variant(root / "tiny" / "onnx-fp32")


def _text(*texts: str) -> Request:
    return {"text": np.array([text.encode() for text in texts], dtype=np.object_)}


def _tokens(*rows: list[int]) -> Request:
    ids = np.array(rows, dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def test_requests_in_one_call_get_the_answers_that_they_get_alone(
    digits: LoadedVariant, digits_samples: tuple[list[Request], list[int]]
) -> None:
    pixels = np.concatenate([request["pixels"] for request in digits_samples[0][:9]])
    requests: list[Request] = [{"pixels": part} for part in np.split(pixels, [1, 4, 5])]
    together = digits.infer(requests)
    assert [len(answer["logits"]) for answer in together] == [1, 3, 1, 4]
    for request, answer in zip(requests, together, strict=True):
        np.testing.assert_allclose(answer["logits"], digits.infer([request])[0]["logits"], atol=1e-5)


def test_text_and_its_token_ids_get_the_same_answer_in_one_call(encoder: LoadedVariant) -> None:
    requests = [_text("a good film."), _tokens([2, 4, 9, 11, 12, 3]), _text("b", "bad film, bad film.")]
    answers = encoder.infer(requests)
    np.testing.assert_allclose(answers[0]["logits"], answers[1]["logits"], atol=1e-5)
    assert answers[2]["logits"].shape == (2, 2)
    np.testing.assert_allclose(
        answers[2]["logits"][1:], encoder.infer([_text("bad film, bad film.")])[0]["logits"], atol=1e-5
    )


def test_padding_that_a_client_sends_costs_nothing_and_changes_nothing(encoder: LoadedVariant) -> None:
    short = _tokens([2, 4, 9, 3])
    padded = {name: np.pad(array, ((0, 0), (0, 9))) for name, array in short.items()}
    first, second = encoder.infer([short, padded])
    np.testing.assert_array_equal(first["logits"], second["logits"])


def test_several_threads_may_infer_at_once(
    digits: LoadedVariant, digits_samples: tuple[list[Request], list[int]]
) -> None:
    requests = digits_samples[0][:200]
    expected = [digits.infer([request])[0]["logits"] for request in requests]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda request: digits.infer([request])[0]["logits"], requests))
    np.testing.assert_array_equal(answers, expected)


def test_no_requests_give_no_answers(digits: LoadedVariant) -> None:
    assert digits.infer([]) == []


def test_a_request_that_fits_has_its_rows_counted(digits: LoadedVariant, encoder: LoadedVariant) -> None:
    assert digits.check_inputs({"pixels": np.zeros((3, 64), np.float32)}) == 3
    assert encoder.check_inputs(_text("a", "b")) == 2
    assert encoder.check_inputs(_tokens([2, 4, 3])) == 1


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"words": np.zeros(1)}, "['text'] or ['input_ids', 'attention_mask']"),
        ({"text": np.array(["str"], dtype=np.object_)}, "text[0] is a str, must be UTF-8 bytes"),
        ({"text": np.array([b"ok", b"\xff"], dtype=np.object_)}, "text[1] is not UTF-8"),
        (_tokens([2] * 17), "17 tokens a row, must be at most 16"),
        (_tokens([2, 14, 3]), "ids from 2 to 14, must be in 0..13"),
        (_tokens([2, -1, 3]), "ids from -1 to 3, must be in 0..13"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_with_both_sides(
    encoder: LoadedVariant, request_: Request, words: str
) -> None:
    with pytest.raises(VariantInputError) as refused:
        encoder.check_inputs(request_)
    assert words in str(refused.value)


def test_the_preferred_signature_is_text(encoder: LoadedVariant) -> None:
    assert [spec.name for spec in encoder.inputs] == ["text"]
    assert [signature.name for signature in encoder.signatures] == ["text", "tokens"]


def test_warming_runs_real_texts_or_zeros(digits: LoadedVariant, encoder: LoadedVariant) -> None:
    digits.warm()
    encoder.warm()
    encoder.warm([_text("a good film")])


class _Broken:
    def __init__(self, outputs: dict[str, Array]) -> None:
        self._outputs = outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return self._outputs


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({"logits": np.zeros((1, 10))}, "dtype float64, must be FP32"),
        ({"logits": np.zeros((1, 9), np.float32)}, r"shape \[1, 9\], must be \[-1, 10\]"),
        ({"other": np.zeros((1, 10), np.float32)}, r"gives \['other'\], must give 'logits'"),
    ],
)
def test_a_variant_that_breaks_its_manifest_does_not_warm(
    digits: LoadedVariant, outputs: dict[str, Array], words: str
) -> None:
    with pytest.raises(VariantRunError, match=words):
        LoadedVariant(digits.manifest, _Broken(outputs), None).warm()


def test_an_engine_failure_is_the_variants_error(encoder: LoadedVariant) -> None:
    with pytest.raises(VariantRunError, match="ONNX Runtime failed"):
        encoder.infer([_tokens([2, 99, 3])])


def test_tampered_bytes_are_not_served(digits_onnx: Path, tmp_path: Path) -> None:
    import_onnx(digits_onnx, "digits", "mine", tmp_path)
    artifact = tmp_path / "digits" / "mine" / "digits.onnx"
    artifact.write_bytes(artifact.read_bytes()[:-1] + b"x")
    with pytest.raises(ManifestError, match="sha256"):
        load_variant(tmp_path / "digits" / "mine")


@pytest.mark.parametrize(("milliseconds", "placement"), [(0.02, Placement.LOOP), (5.0, Placement.THREAD)])
def test_only_variants_that_were_measured_to_be_quick_run_on_the_loop(
    digits: LoadedVariant, milliseconds: float, placement: Placement
) -> None:
    measured = replace(digits.manifest, latency=(_entry(milliseconds),))
    assert suitable_placement(LoadedVariant(measured, _Slow(1.0), None), 16) is placement


@pytest.mark.parametrize(
    ("seconds", "placement", "batches"), [(0.00009, Placement.LOOP, 15), (0.002, Placement.THREAD, 1)]
)
def test_a_variant_without_measurements_is_timed_where_requests_differ_in_rows_alone(
    digits: LoadedVariant, seconds: float, placement: Placement, batches: int
) -> None:
    session = _Slow(seconds)
    timed = LoadedVariant(digits.manifest, session, None)
    assert suitable_placement(timed, 16, lambda: session.now_s) is placement
    assert session.rows == [16] * batches


def test_a_variant_that_fails_when_it_is_timed_runs_on_a_thread(digits: LoadedVariant) -> None:
    failing = LoadedVariant(digits.manifest, _Failing(), None)
    assert suitable_placement(failing, 16) is Placement.THREAD


def test_a_variant_whose_requests_differ_in_length_is_not_timed(encoder: LoadedVariant) -> None:
    session = _Slow(0.0)
    unmeasured = replace(encoder.manifest, latency=())
    assert suitable_placement(LoadedVariant(unmeasured, session, None), 16) is Placement.THREAD
    assert not session.rows


def _entry(milliseconds: float) -> BatchLatency:
    return BatchLatency(batch_size=1, p50_ms=milliseconds, p95_ms=milliseconds, calls=30, threads=1)


class _Slow:
    """Answers with zeros after a while of its own time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.now_s = 0.0
        self.rows: list[int] = []

    def run(self, inputs: Request) -> dict[str, Array]:
        self.rows.append(len(inputs["pixels"]))
        self.now_s += self._seconds
        return {"logits": np.zeros((len(inputs["pixels"]), 10), np.float32)}


class _Failing:
    def run(self, inputs: Request) -> dict[str, Array]:
        raise VariantRunError(f"no {sorted(inputs)}")
