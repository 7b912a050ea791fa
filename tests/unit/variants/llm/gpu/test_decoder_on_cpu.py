"""The decoder of the GPU engine, computed on the CPU, against the one in plain numpy."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from anabranch.variants.errors import ManifestError, VariantError
from anabranch.variants.llm.blocks import dense, quantize
from anabranch.variants.llm.decode_batch import DecodeBatch, Member
from anabranch.variants.llm.decoder import OUTPUT, Decoder, random_decoder
from anabranch.variants.llm.generation import Answering, generate
from anabranch.variants.llm.gpu import low_bits
from anabranch.variants.llm.gpu.artifact import GpuPlan, write_decoder
from anabranch.variants.llm.gpu.session import GpuSession
from anabranch.variants.llm.kv_cache import Window
from anabranch.variants.llm.sampling import Sampling

FULL = GpuPlan(half=False)
CUTS = [[40], [20, 20], [1] * 40, [7, 1, 1, 1, 10, 20]]


@pytest.fixture(scope="module")
def wide(tiny: ModuleType) -> Decoder:
    """Heads of 32 numbers, as caches in low bits need them."""
    return random_decoder(replace(tiny.shape(), head_size=32), seed=2)


def session_of(decoder: Decoder, plan: GpuPlan, folder: Path) -> GpuSession:
    write_decoder(decoder, plan, folder)
    return GpuSession(folder, device="cpu")


def read(
    session: GpuSession, window: Window | None, tokens: list[int], cut: list[int]
) -> NDArray[np.float32]:
    cache = session.new_cache(window, 40)
    starts = np.cumsum([0, *cut])
    return np.concatenate(
        [
            session.step(cache, tokens[start : start + size], size)
            for start, size in zip(starts, cut, strict=False)
        ]
    )


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("window", [None, Window(sinks=0, recent=8), Window(sinks=2, recent=6)])
def test_logits_are_the_reference_implementations(
    decoder: Decoder,
    some_tokens: list[int],
    reference: ModuleType,
    tmp_path: Path,
    cut: list[int],
    window: Window | None,
) -> None:
    logits = read(session_of(decoder, FULL, tmp_path), window, some_tokens, cut)
    expected = reference.reference_logits(decoder, some_tokens, *([window] if window else []))
    np.testing.assert_allclose(logits, expected, atol=2e-4)


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_in_blocks_are_kept_code_for_code(
    decoder: Decoder, some_tokens: list[int], reference: ModuleType, tmp_path: Path, bits: int
) -> None:
    weights = {
        name: quantize(dense(matrix), 8 if name in ("token_embd.weight", OUTPUT) else bits)
        if dense(matrix).ndim == 2
        else matrix
        for name, matrix in decoder.weights.items()
    }
    stored = replace(decoder, weights=weights)
    logits = read(
        session_of(stored, GpuPlan(half=False, weight_bits=bits), tmp_path), None, some_tokens, [40]
    )
    np.testing.assert_allclose(logits, reference.reference_logits(stored, some_tokens), atol=1e-3)
    assert np.abs(logits - reference.reference_logits(decoder, some_tokens)).max() > 0.02


@pytest.mark.parametrize(("bits", "agreement"), [(8, 0.95), (4, 0.6)])
def test_a_cache_in_low_bits_takes_less_room_and_stays_near(
    wide: Decoder, some_tokens: list[int], reference: ModuleType, tmp_path: Path, bits: int, agreement: float
) -> None:
    session = session_of(wide, GpuPlan(half=False, cache_kind=f"int{bits}"), tmp_path)
    assert session.geometry.size == 32 * bits // 8 + 4
    logits = read(session, None, some_tokens, [20, 1, 19])
    expected = reference.reference_logits(wide, some_tokens)
    assert np.mean(logits.argmax(axis=1) == expected.argmax(axis=1)) >= agreement
    assert np.abs(logits - expected).max() > 1e-3


@pytest.mark.parametrize("bits", [8, 4])
def test_numbers_in_low_bits_are_off_by_at_most_half_a_step(bits: int) -> None:
    numbers = torch.randn(5, 3, 64, generator=torch.Generator().manual_seed(3))
    rows = low_bits.put(numbers, f"int{bits}")
    assert rows.shape == (5, 3, low_bits.row_bytes(64, f"int{bits}"))
    groups = numbers.view(5, 3, 2, low_bits.GROUP)
    steps = (groups.amax(-1) - groups.amin(-1)) / ((1 << bits) - 1)
    errors = (low_bits.take(rows, f"int{bits}", 64).float() - numbers).view(5, 3, 2, low_bits.GROUP).abs()
    assert (errors.amax(-1) <= 0.5 * steps + 5e-3).all()


@pytest.mark.parametrize(
    ("plan", "window"),
    [
        (FULL, None),
        (FULL, Window(sinks=1, recent=15)),
        (GpuPlan(half=False, cache_kind="int4"), None),
        (GpuPlan(half=False, weight_bits=4), None),
    ],
)
def test_answers_that_share_steps_are_those_of_one_alone(
    wide: Decoder, tmp_path: Path, plan: GpuPlan, window: Window | None
) -> None:
    session = session_of(wide, plan, tmp_path)
    rng = np.random.default_rng(3)
    asked = [([int(token) for token in rng.integers(1, 320, size)], most) for size, most in ((5, 20), (30, 9), (12, 30), (3, 25))]  # fmt: skip

    def answering(prompt: list[int], most: int) -> Answering:
        return Answering(prompt, Sampling(max_tokens=most), stops=frozenset(), draw=lambda: 0.0)

    alone = []
    for prompt, most in asked:
        one = answering(prompt, most)
        cache = session.new_cache(window, one.tokens)
        alone.append([token.id for token in generate(session, cache, one, lambda: False)])
    batch = DecodeBatch(session, window, slots=3, context=64, clock=lambda: 0.0)
    members = [Member(answering(*each), lambda: False) for each in asked]
    said: dict[Member, list[int | None]] = {member: [] for member in members}
    waiting = list(members)
    while waiting or batch.size:
        while waiting and batch.size < batch.slots:
            batch.join(waiting.pop(0))
        for step in batch.advance():
            assert step.token is not None, step.error
            said[step.member].append(step.token.id)
    assert [said[member] for member in members] == alone


def test_what_is_no_decoder_and_a_machine_without_a_gpu_are_refused(decoder: Decoder, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="describes no decoder"):
        GpuSession(tmp_path, device="cpu")
    write_decoder(decoder, FULL, tmp_path)
    if not torch.cuda.is_available():
        with pytest.raises(VariantError, match="is built for a GPU"):
            GpuSession(tmp_path)
