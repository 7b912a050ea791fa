"""A pool in front of a batch: real threads, a real loop, a real decoder."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from anabranch.variants.batching import Failure, FailureKind, QueueFull
from anabranch.variants.errors import VariantInputError
from anabranch.variants.llm.batch_thread import BatchThread
from anabranch.variants.llm.generation import Answering, Token
from anabranch.variants.llm.generator import Generator, load_generator
from anabranch.variants.llm.pool import GenerationPool, Job
from anabranch.variants.llm.sampling import Sampling

_LONG = 400


@pytest.fixture(scope="module")
def generator(tiny_root: Path) -> Generator:
    return load_generator(tiny_root / "tiny" / "onnx-fp32")


class Answer:
    """Work that keeps its tokens; it may fail where the test says."""

    def __init__(self, generator: Generator, prompt: list[int], most: int, fails_at: int = -1) -> None:
        self._generator, self._prompt, self._most, self._fails_at = generator, prompt, most, fails_at
        self.tokens: list[int | None] = []
        self.shared_by = 0

    def open(self, _job: Job) -> Answering:
        if not self._prompt:
            raise VariantInputError("no prompt")
        return self._generator.answering_tokens(
            self._prompt, Sampling(max_tokens=self._most), stops=frozenset()
        )

    def take(self, _job: Job, token: Token) -> None:
        if len(self.tokens) == self._fails_at:
            raise ValueError("a bug")
        self.tokens.append(token.id)

    def result(self, _job: Job, engine_s: float, shared_by: int) -> "Answer":
        assert engine_s > 0
        self.shared_by = shared_by
        return self


def pool_of(generator: Generator, slots: int, most_waiting: int = 8) -> GenerationPool:
    loop = asyncio.get_running_loop()
    batch = generator.new_batch(slots, loop.time)
    assert batch is not None
    return GenerationPool(BatchThread(batch), loop, most_waiting=most_waiting)


def submit(
    pool: GenerationPool, work: Any, deadline: float | None = None
) -> tuple[Job, "asyncio.Future[Any]"]:
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    return pool.submit(work, priority=1, deadline=deadline, done=done.set_result), done


def alone(generator: Generator, prompt: list[int], most: int) -> list[int | None]:
    answering = generator.answering_tokens(prompt, Sampling(max_tokens=most), stops=frozenset())
    return [token.id for token in generator.events(answering)]


def test_more_answers_than_slots_say_what_they_say_alone(generator: Generator) -> None:
    starts = [[seed, 2 * seed, 3 * seed] for seed in range(1, 9)]

    async def run() -> list[Answer]:
        pool = pool_of(generator, 3)
        done = [submit(pool, Answer(generator, start, 24 + at))[1] for at, start in enumerate(starts)]
        found = [await each for each in done]
        pool.close()
        return found

    found = asyncio.run(run())
    assert [each.tokens for each in found] == [
        alone(generator, start, 24 + at) for at, start in enumerate(starts)
    ]
    assert max(each.shared_by for each in found) > 1


def test_one_that_cannot_begin_or_fails_is_its_own_failure(generator: Generator) -> None:
    async def run() -> list[Any]:
        pool = pool_of(generator, 3)
        works = [Answer(generator, [], 4), Answer(generator, [5, 80], 9, 3), Answer(generator, [5, 80], 9)]
        done = [submit(pool, work)[1] for work in works]
        found = [await each for each in done]
        # The slots are free again.
        found.append(await submit(pool, Answer(generator, [5, 80], 9))[1])
        pool.close()
        return found

    refused, failed, whole, later = asyncio.run(run())
    assert isinstance(refused, Failure)
    assert refused.kind is FailureKind.INPUT
    assert isinstance(failed, Failure)
    assert (failed.kind, failed.message) == (FailureKind.ERROR, "ValueError: a bug")
    assert whole.tokens == later.tokens == alone(generator, [5, 80], 9)


def test_a_cancelled_answer_frees_its_slot(generator: Generator) -> None:
    async def run() -> list[int | None]:
        pool = pool_of(generator, 1)
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        class Begun(Answer):
            def take(self, job: Job, token: Token) -> None:
                super().take(job, token)
                if len(self.tokens) == 1:
                    job.tell(lambda: begun.set_result(None))

        endless = Begun(generator, [5, 80], _LONG)
        job, done = submit(pool, endless)
        await begun
        job.cancel()
        found = await submit(pool, Answer(generator, [6, 81], 5))[1]
        assert not done.done()
        assert len(endless.tokens) < _LONG
        pool.close()
        tokens: list[int | None] = found.tokens
        return tokens

    assert asyncio.run(run()) == alone(generator, [6, 81], 5)


def test_a_full_queue_refuses_and_closing_answers_for_all(generator: Generator) -> None:
    async def run() -> list[Any]:
        pool = pool_of(generator, 1, most_waiting=1)
        done = [submit(pool, Answer(generator, [5, 80], _LONG))[1]]
        # It has a slot by then.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        done.append(submit(pool, Answer(generator, [5, 80], _LONG))[1])
        with pytest.raises(QueueFull, match="1 requests wait, max_queue_size is 1: send less, or raise it"):
            submit(pool, Answer(generator, [5, 80], _LONG))
        pool.close()
        return [await each for each in done]

    found = asyncio.run(run())
    assert [each.kind for each in found] == [FailureKind.REMOVED, FailureKind.REMOVED]
