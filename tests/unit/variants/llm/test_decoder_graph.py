from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from anabranch.variants.errors import BuildError
from anabranch.variants.llm.blocks import dense, quantize
from anabranch.variants.llm.decoder import EMBEDDING, OUTPUT, Decoder
from anabranch.variants.llm.decoder_graph import (
    Arithmetic,
    CacheForm,
    CacheScales,
    GraphPlan,
    decoder_graph,
)
from anabranch.variants.llm.decoder_session import DecoderSession
from anabranch.variants.llm.kv_cache import Cache, WholeCache, Window, WindowCache

# Chunks in which 40 tokens are read: how a text is cut must not matter.
CUTS = [[40], [20, 20], [1] * 40, [7, 1, 1, 1, 10, 20]]


def session_of(decoder: Decoder, plan: GraphPlan) -> DecoderSession:
    return DecoderSession(decoder_graph(decoder, plan).SerializeToString())


def read(session: DecoderSession, cache: Cache, tokens: list[int], cut: list[int]) -> NDArray[np.float32]:
    starts = np.cumsum([0, *cut])
    return np.concatenate(
        [
            session.step(cache, tokens[start : start + size], size)
            for start, size in zip(starts, cut, strict=False)
        ]
    )


def whole(session: DecoderSession) -> WholeCache:
    return WholeCache(session.geometry, 40, 40)


@pytest.mark.parametrize("cut", CUTS)
def test_logits_are_the_reference_implementations(
    decoder: Decoder, some_tokens: list[int], reference: ModuleType, cut: list[int]
) -> None:
    session = session_of(decoder, GraphPlan())
    logits = read(session, whole(session), some_tokens, cut)
    np.testing.assert_allclose(logits, reference.reference_logits(decoder, some_tokens), atol=2e-4)


@pytest.mark.parametrize("most_tokens", [1, 5, 8, 40])
@pytest.mark.parametrize("window", [Window(sinks=0, recent=8), Window(sinks=2, recent=6)])
def test_a_window_is_exact_however_the_text_is_cut(
    decoder: Decoder, some_tokens: list[int], reference: ModuleType, window: Window, most_tokens: int
) -> None:
    session = session_of(decoder, GraphPlan(cache=CacheForm.PLACES))
    cache = WindowCache(session.geometry, window, most_tokens)
    logits = read(session, cache, some_tokens, [most_tokens] * (40 // most_tokens))
    expected = reference.reference_logits(decoder, some_tokens, window)
    np.testing.assert_allclose(logits, expected, atol=2e-4)
    # The window matters: without it the answer is another one.
    assert np.abs(expected - reference.reference_logits(decoder, some_tokens)).max() > 1


def test_the_embedding_makes_the_logits_where_there_is_no_other_matrix(
    decoder: Decoder, some_tokens: list[int], reference: ModuleType
) -> None:
    weights = {name: matrix for name, matrix in decoder.weights.items() if name != OUTPUT}
    tied = replace(decoder, weights=weights)
    for plan in (GraphPlan(), GraphPlan(weight_bits=8)):
        session = session_of(tied, plan)
        logits = read(session, whole(session), some_tokens, [40])
        expected = reference.reference_logits(tied, some_tokens)
        assert np.mean(logits.argmax(axis=1) == expected.argmax(axis=1)) > 0.95
        assert np.abs(logits - expected).max() < (2e-4 if plan.weight_bits is None else 1.0)
    assert "output.weight" not in {
        tensor.name for tensor in decoder_graph(tied, GraphPlan()).graph.initializer
    }


@pytest.mark.parametrize(
    ("plan", "tolerance", "agreement"),
    [
        (GraphPlan(arithmetic=Arithmetic.FP16), 0.02, 0.95),
        (GraphPlan(weight_bits=8), 0.3, 0.85),
        (GraphPlan(weight_bits=4), 2.0, 0.5),
    ],
)
def test_reduced_precision_stays_near_the_reference(
    decoder: Decoder,
    some_tokens: list[int],
    reference: ModuleType,
    plan: GraphPlan,
    tolerance: float,
    agreement: float,
) -> None:
    session = session_of(decoder, plan)
    logits = read(session, whole(session), some_tokens, [20, 1, 19])
    expected = reference.reference_logits(decoder, some_tokens)
    difference = np.abs(logits - expected).max()
    # Not exact, or the recipe changed nothing.
    assert 1e-4 < difference < tolerance
    assert np.mean(logits.argmax(axis=1) == expected.argmax(axis=1)) > agreement


def test_blocks_of_the_file_are_kept_as_they_are(
    decoder: Decoder, some_tokens: list[int], reference: ModuleType
) -> None:
    linear = {
        name: quantize(dense(matrix), 4) if dense(matrix).ndim == 2 and name != EMBEDDING else matrix
        for name, matrix in decoder.weights.items()
    }
    stored = replace(decoder, weights=linear)
    session = session_of(stored, GraphPlan(weight_bits=4))
    logits = read(session, whole(session), some_tokens, [40])
    # Only activations and the embedding are rounded, to 8 bits: weights that were rounded to 4 are much further off.
    np.testing.assert_allclose(logits, reference.reference_logits(stored, some_tokens), atol=0.3)
    assert np.abs(logits - reference.reference_logits(decoder, some_tokens)).max() > 0.6


def test_a_cache_in_low_bits_takes_less_room_and_stays_near(
    decoder: Decoder, some_tokens: list[int], reference: ModuleType
) -> None:
    width = decoder.shape.kv_width
    scales = tuple(np.full(width, 3.0 / 127, np.float32) for _ in range(decoder.shape.layers))
    plan = GraphPlan(cache_bits=8, cache_scales=CacheScales(keys=scales, values=scales))
    session = session_of(decoder, plan)
    assert session.geometry.row_bytes * 4 == session_of(decoder, GraphPlan()).geometry.row_bytes
    logits = read(session, whole(session), some_tokens, [20, 20])
    expected = reference.reference_logits(decoder, some_tokens)
    assert np.mean(logits.argmax(axis=1) == expected.argmax(axis=1)) > 0.9


def test_only_the_wanted_logits_are_computed(decoder: Decoder, some_tokens: list[int]) -> None:
    session = session_of(decoder, GraphPlan())
    every = session.step(whole(session), some_tokens, 40)
    last = session.step(whole(session), some_tokens)
    assert last.shape == (1, decoder.shape.vocabulary)
    np.testing.assert_allclose(last[0], every[-1], atol=1e-4)


def test_a_decoder_without_a_tensor_is_refused(decoder: Decoder) -> None:
    weights = {name: matrix for name, matrix in decoder.weights.items() if name != "blk.1.attn_v.weight"}
    with pytest.raises(BuildError, match=r"lacks the tensor 'blk\.1\.attn_v\.weight'"):
        decoder_graph(replace(decoder, weights=weights), GraphPlan())


def test_low_bits_without_scales_are_refused(decoder: Decoder) -> None:
    with pytest.raises(BuildError, match="needs scales"):
        decoder_graph(decoder, GraphPlan(cache_bits=8))
