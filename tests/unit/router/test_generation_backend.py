"""Generating variants behind the request path's seam, on real threads."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TypeVar, cast

import numpy as np
import pytest

from anabranch.bandit.costs import cost_per_1k
from anabranch.router.backends import Answered
from anabranch.router.compare import Comparison
from anabranch.router.generation import Generated, GenerationBackend
from anabranch.router.queries import Query
from anabranch.variants.batching import Failure
from anabranch.variants.errors import VariantError
from anabranch.variants.llm.batch_thread import BatchThread
from anabranch.variants.llm.build import build_language_model
from anabranch.variants.llm.generator import Generator, load_generator
from anabranch.variants.llm.pool import GenerationPool, ThreadRunner

Result = TypeVar("Result")
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def generators(
    load_module: Callable[[Path], ModuleType], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Generator]:
    tiny = load_module(Path(__file__).parents[2] / "data" / "tiny_language_model.py")
    root = tmp_path_factory.mktemp("generation")
    build_language_model(tiny.source(stops=()), ["onnx-fp32", tiny.NARROW], root, threads=1)
    return {name: load_generator(root / "tiny" / name) for name in ("onnx-fp32", "onnx-kv-sinks")}


class Steps:
    """A clock that goes on by one second a look: every step of the decoder looks twice."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def query(max_tokens: int = 8, **inputs: Any) -> Query:
    """A request for text; a backend looks at nothing but its inputs."""
    parameters = f'{{"max_tokens": {max_tokens}}}'.encode()
    arrays = {
        "text_input": np.array([b"the other thing"], np.object_),
        "sampling_parameters": np.array([parameters], np.object_),
        **inputs,
    }
    return cast(Query, SimpleNamespace(inputs=arrays))


def run(generator: Generator, use: Callable[[GenerationBackend], Coroutine[Any, Any, Result]]) -> Result:
    """Use a backend on a loop and a pool of its own."""

    async def scene() -> Result:
        pool = GenerationPool(ThreadRunner(2), asyncio.get_running_loop())
        try:
            return await use(GenerationBackend(pool, generator))
        finally:
            pool.close()

    return asyncio.run(scene())


async def answer(backend: GenerationBackend, asked: Query, part: Any = None) -> Generated:
    done: asyncio.Future[Answered | Failure] = asyncio.get_running_loop().create_future()
    backend.submit(asked, priority=1, deadline=None, done=done.set_result, part=part)
    found = await done
    assert isinstance(found, Generated)
    return found


async def compared(backend: GenerationBackend, baseline: Generator, sequence: int = 0) -> Comparison:
    other = GenerationBackend(backend._pool, baseline)
    said = await answer(other, query())
    done: asyncio.Future[Comparison | Failure] = asyncio.get_running_loop().create_future()
    deadline = asyncio.get_running_loop().time() + 60
    backend.compare(other, said, sequence=sequence, deadline=deadline, done=done.set_result)
    found = await done
    assert isinstance(found, Comparison)
    return found


def test_an_answer_comes_whole_with_the_times_of_its_tokens(generators: dict[str, Generator]) -> None:
    found = run(generators["onnx-fp32"], lambda backend: answer(backend, query()))
    assert len(found.tokens) == 8
    assert found.outputs["token_ids"].tolist() == list(found.tokens)
    assert found.timing.first_token_s is not None
    assert found.timing.token_s is not None
    assert 0 < found.timing.first_token_s <= found.timing.queue_s + found.timing.compute_s
    assert not found.is_stopped


def test_parts_come_before_the_last_one_and_joined_are_the_whole(generators: dict[str, Generator]) -> None:
    parts: list[Answered] = []
    last = run(generators["onnx-fp32"], lambda backend: answer(backend, query(), parts.append))
    whole = run(generators["onnx-fp32"], lambda backend: answer(backend, query()))
    heard = [part.outputs for part in (*parts, last)]
    assert [outputs["token_ids"].tolist() for outputs in heard] == [[token] for token in whole.tokens]
    assert b"".join(outputs["text_output"][0] for outputs in heard) == whole.outputs["text_output"][0]
    assert last.tokens == whole.tokens


def test_answers_that_share_steps_are_those_of_one_alone_and_share_its_cost(
    generators: dict[str, Generator],
) -> None:
    generator = generators["onnx-fp32"]
    clock = Steps()

    async def together() -> tuple[list[Generated], list[list[Answered]]]:
        loop = asyncio.get_running_loop()
        batch = generator.new_batch(4, clock)
        assert batch is not None
        pool = GenerationPool(BatchThread(batch), loop)
        threads = GenerationPool(ThreadRunner(1), loop)
        backend = GenerationBackend(threads, generator, pool)
        parts: list[list[Answered]] = [[] for _ in range(6)]
        try:
            found = await asyncio.gather(
                *(answer(backend, query(8 + at), parts[at].append) for at in range(6))
            )
        finally:
            pool.close()
            threads.close()
        return found, parts

    found, parts = asyncio.run(together())
    for at, last in enumerate(found):
        whole = run(generator, lambda backend, at=at: answer(backend, query(8 + at)))  # type: ignore[misc]  # the default binds it now
        assert last.tokens == whole.tokens
        heard = [part.outputs["token_ids"].tolist() for part in (*parts[at], last)]
        assert heard == [[token] for token in whole.tokens]
        assert last.timing.first_token_s is not None
        assert last.timing.token_s is not None
    assert max(each.timing.batch_rows for each in found) > 1
    # Each step of the clock is a second of the decoder's; an hour of it costs 3,600, and requests share what it costs.
    costs = cost_per_1k(
        [1000 * each.timing.compute_s for each in found], [each.timing.batch_rows for each in found], 3600.0
    )
    assert sum(costs) / 1000 == pytest.approx(clock.now / 2)


def test_a_request_without_streaming_gets_no_parts(generators: dict[str, Generator]) -> None:
    parts: list[Answered] = []
    asked = query(stream=np.array([False]))
    found = run(generators["onnx-fp32"], lambda backend: answer(backend, asked, parts.append))
    assert parts == []
    assert len(found.outputs["token_ids"]) == 8


def test_one_token_has_no_time_per_further_token(generators: dict[str, Generator]) -> None:
    found = run(generators["onnx-fp32"], lambda backend: answer(backend, query(max_tokens=1)))
    assert found.timing.token_s is None


def test_a_variant_agrees_with_itself(generators: dict[str, Generator]) -> None:
    same = generators["onnx-fp32"]
    found = run(same, lambda backend: compared(backend, same))
    assert (found.agrees, found.token_agreement) == (True, 1.0)
    assert found.kl == pytest.approx(0.0, abs=1e-6)
    assert found.max_abs < 1e-3


def test_the_drawn_token_says_whether_two_variants_agree(generators: dict[str, Generator]) -> None:
    narrow, whole = generators["onnx-kv-sinks"], generators["onnx-fp32"]
    found = [run(narrow, lambda backend, at=at: compared(backend, whole, at)) for at in range(8)]  # type: ignore[misc]  # the default binds it now
    share = found[0].token_agreement
    assert share is not None
    assert share < 1
    # Over all numbers, as often as over all tokens.
    assert np.mean([each.agrees for each in found]) == pytest.approx(share)
    assert found[0].kl is not None
    assert found[0].kl > 0.01


def test_a_baseline_that_does_not_generate_here_cannot_be_compared_with(
    generators: dict[str, Generator],
) -> None:
    async def refused(backend: GenerationBackend) -> str:
        said = await answer(backend, query())
        with pytest.raises(VariantError) as error:
            backend.compare(None, said, sequence=1, deadline=1e9, done=lambda _found: None)
        return str(error.value)

    assert "in the same process" in run(generators["onnx-fp32"], refused)
