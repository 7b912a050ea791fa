"""A variant that hangs on its thread does not take the others' threads with it."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import uvloop

from anabranch.variants.batcher import Dispatcher
from anabranch.variants.batching import Answer, BatchPolicy
from anabranch.variants.lane import OVERDUE_S
from anabranch.variants.tensors import Array, Request
from anabranch.variants.worker_threads import WorkerThreads


@pytest.fixture
def bench(load_module: Callable[[Path], ModuleType]) -> Any:
    module = load_module(Path(__file__).with_name("test_batcher.py"))
    made = module.Bench()
    made.add("hung", BatchPolicy(max_batch_size=1))
    made.add("base")
    return made


def test_the_thread_of_a_hung_batch_is_replaced(bench: Any) -> None:
    bench.submit(1, "hung")
    bench.loop.settle()
    bench.submit(2, "base")
    bench.loop.advance(OVERDUE_S + 0.01)
    bench.loop.settle()
    assert len(bench.executor.jobs) == 1
    bench.dispatcher.overdue("hung")
    bench.loop.settle()
    assert bench.executor.spare == 1
    bench.executor.jobs.pop()()
    bench.loop.settle()
    assert bench.output(2) == 4
    assert bench.dispatcher.hangs("hung")
    assert not bench.dispatcher.hangs("base")


def test_until_it_is_back_a_hung_variant_gets_no_further_thread(bench: Any) -> None:
    bench.submit(1, "hung")
    bench.submit(3, "hung")
    bench.loop.settle()
    bench.loop.advance(OVERDUE_S + 0.01)
    for _ in range(3):
        bench.dispatcher.overdue("hung")
        bench.loop.settle()
    assert (bench.executor.spare, len(bench.executor.jobs)) == (1, 1)
    bench.run_one()
    assert bench.executor.spare == 0
    assert not bench.dispatcher.hangs("hung")
    bench.run_all()
    assert [bench.output(1), bench.output(3)] == [2, 6]
    bench.submit(5, "base")
    bench.run_all()
    assert bench.output(5) == 10


def test_a_batch_that_takes_its_usual_time_keeps_its_thread(bench: Any) -> None:
    bench.submit(1, "hung")
    bench.loop.settle()
    bench.loop.advance(OVERDUE_S / 2)
    bench.dispatcher.overdue("hung")
    bench.dispatcher.overdue("nobody")
    assert bench.executor.spare == 0
    bench.run_one()
    assert not bench.dispatcher.hangs("hung")


def test_real_threads_are_replaced_and_taken_back() -> None:
    release, began = threading.Event(), threading.Event()

    def hang(requests: Sequence[Request]) -> list[dict[str, Array]]:
        began.set()
        release.wait(30)
        return [{"y": request["x"]} for request in requests]

    def echo(requests: Sequence[Request]) -> list[dict[str, Array]]:
        return [{"y": request["x"]} for request in requests]

    async def work() -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        late = [0.0]
        executor = WorkerThreads(1)
        dispatcher = Dispatcher(1, loop, executor=executor, clock=lambda: loop.time() + late[0])
        dispatcher.add("hung", hang)
        dispatcher.add("base", echo)

        def submit(name: str) -> "asyncio.Future[Any]":
            ended: asyncio.Future[Any] = loop.create_future()
            dispatcher.submit(name, {"x": np.zeros(1)}, 1, done=ended.set_result)
            return ended

        hung = submit("hung")
        await asyncio.to_thread(began.wait, 20)
        late[0] = OVERDUE_S + 1.0
        dispatcher.overdue("hung")
        assert isinstance(await asyncio.wait_for(submit("base"), 20), Answer)
        release.set()
        assert isinstance(await asyncio.wait_for(hung, 20), Answer)
        assert isinstance(await asyncio.wait_for(submit("hung"), 20), Answer)
        await dispatcher.close()

    uvloop.run(work())
