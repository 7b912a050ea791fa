"""A decoder in several processes gives the numbers of one: as threads for speed, and once as real processes."""

import contextlib
import gc
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from anabranch.variants.errors import VariantError, VariantRunError
from anabranch.variants.llm.build import build_language_model
from anabranch.variants.llm.decoder import Decoder, DecoderShape, random_decoder
from anabranch.variants.llm.generator import load_generator
from anabranch.variants.llm.kv_cache import Window
from anabranch.variants.llm.models import LanguageSource
from anabranch.variants.llm.parallel.group import Group, Verb
from anabranch.variants.llm.parallel.module import Shard
from anabranch.variants.llm.parallel.rank import serve
from anabranch.variants.llm.parallel.session import ParallelSession
from anabranch.variants.llm.parallel.shards import read_shape, read_shard, write_shards
from anabranch.variants.llm.requests import Prompt
from anabranch.variants.llm.sampling import Sampling


def read_by_threads(decoder: Decoder, degree: int, folder: Path, tokens: list[int]) -> NDArray[np.float32]:
    """What a group of threads in this process makes of a text, in three calls."""
    write_shards(decoder, degree, folder)
    meeting = folder / "meeting"
    others = [threading.Thread(target=serve, args=(folder, meeting, rank, 1)) for rank in range(1, degree)]
    for thread in others:
        thread.start()
    group = Group(meeting, 0, degree)
    _, shape = read_shape(folder)
    first = Shard(shape, read_shard(folder, 0), group.add_up)
    cache = first.new_cache(len(tokens))
    group.tell(Verb.OPEN, 5, len(tokens))
    found: list[NDArray[np.float32]] = []
    start = 0
    for size in (len(tokens) - 2, 1, 1):
        chunk = tuple(tokens[start : start + size])
        group.tell(Verb.READ, 5, start, chunk)
        found.append(first.logits(first.read(cache, chunk, start)))
        start += size
    group.tell(Verb.CLOSE, 5)
    group.tell(Verb.STOP, 0)
    for thread in others:
        thread.join(60)
        assert not thread.is_alive()
    return np.concatenate(found)


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_logits_are_the_reference_implementations_at_every_degree(
    degree: int, tmp_path: Path, some_tokens: list[int], reference: ModuleType
) -> None:
    shape = DecoderShape(
        layers=2, heads=8, kv_heads=4, head_size=16, width=96, inner=160, vocabulary=320, context=64
    )
    decoder = random_decoder(shape, seed=4)
    logits = read_by_threads(decoder, degree, tmp_path, some_tokens)
    np.testing.assert_allclose(logits, reference.reference_logits(decoder, some_tokens), atol=2e-4)


@pytest.mark.parametrize("degree", [2, 4])
def test_a_decoder_of_the_encoders_shape_is_cut_in_two_and_four(
    degree: int, tmp_path: Path, reference: ModuleType
) -> None:
    shape = DecoderShape(
        layers=2, heads=12, kv_heads=12, head_size=32, width=384, inner=1_536, vocabulary=64, context=16
    )
    decoder = random_decoder(shape, seed=6)
    tokens = [int(token) for token in np.random.default_rng(2).integers(0, 64, 8)]
    logits = read_by_threads(decoder, degree, tmp_path, tokens)
    np.testing.assert_allclose(logits, reference.reference_logits(decoder, tokens), atol=2e-4)


@pytest.fixture(scope="module")
def built(tiny_source: LanguageSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parallel")
    model = tiny_source.prepare(lambda _line: None)
    # Too little text to time anything with: each timing would start the processes once more.
    short = replace(model, evaluation=model.evaluation[:100])
    source = replace(tiny_source, prepare=lambda _tell: short)
    build_language_model(source, ["onnx-fp32", "torch-tensor-parallel-2"], root, threads=1)
    return root / "tiny"


@pytest.fixture(scope="module")
def session(built: Path) -> Iterator[ParallelSession]:
    session = ParallelSession(built / "torch-tensor-parallel-2")
    yield session
    session.close()


def test_a_built_variant_of_two_processes_answers_as_the_one_of_one(built: Path) -> None:
    one, two = (load_generator(built / name) for name in ("onnx-fp32", "torch-tensor-parallel-2"))
    prompt = Prompt(tokens=(5, 80, 7), sampling=Sampling(max_tokens=16))
    with contextlib.closing(two):
        answers = [[event.tokens for event in variant.generate(prompt)] for variant in (one, two)]
        assert answers[0] == answers[1]
        generation = two.manifest.generation
        assert generation is not None
        assert generation.fidelity is not None
        assert generation.fidelity.agreement == 1.0
        assert generation.fidelity.kl_mean < 1e-8
        assert two.manifest.artifact == "shape.json"
        assert len(two.manifest.files) == 4


def test_caches_that_are_forgotten_here_are_forgotten_everywhere_and_windows_are_refused(
    session: ParallelSession, some_tokens: list[int]
) -> None:
    first = session.step(session.new_cache(None, 64), some_tokens)
    gc.collect()
    # The command to forget goes before the next one: were it not understood, this would fail.
    second = session.step(session.new_cache(None, 64), some_tokens)
    np.testing.assert_array_equal(first, second)
    with pytest.raises(VariantError, match="keeps every token"):
        session.new_cache(Window(sinks=0, recent=8), 64)


def test_a_process_that_is_killed_fails_the_request_instead_of_hanging(
    session: ParallelSession, some_tokens: list[int]
) -> None:
    cache = session.new_cache(None, 64)
    session.step(cache, some_tokens)
    (child,) = [
        process
        for process in psutil.Process().children()
        if "anabranch.variants.llm.parallel.rank" in process.cmdline()
    ]
    child.kill()
    child.wait(30)
    with pytest.raises(VariantRunError, match="the other processes do not answer"):
        session.step(cache, [1])
