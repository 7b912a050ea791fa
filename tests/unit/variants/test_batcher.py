import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
import uvloop

from anabranch.bandit.costs import cost_per_1k
from anabranch.variants.batcher import Dispatcher
from anabranch.variants.batching import (
    MIRROR,
    Answer,
    BatchPolicy,
    Failure,
    FailureKind,
    Placement,
    QueueFull,
)
from anabranch.variants.errors import VariantError, VariantInputError
from anabranch.variants.tensors import Array, Request


@dataclass(slots=True)
class ManualTimer:
    at: float
    callback: Callable[..., Any]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualLoop:
    """A loop whose time and ticks the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ready: list[Callable[..., Any]] = []
        self.timers: list[ManualTimer] = []
        self.errors: list[dict[str, Any]] = []
        self._real = asyncio.new_event_loop()

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., Any]) -> asyncio.Handle:
        self.ready.append(callback)
        return cast(asyncio.Handle, None)

    def call_soon_threadsafe(self, callback: Callable[..., Any]) -> asyncio.Handle:
        return self.call_soon(callback)

    def call_later(self, delay: float, callback: Callable[..., Any]) -> asyncio.TimerHandle:
        timer = ManualTimer(self.now + delay, callback)
        self.timers.append(timer)
        return cast(asyncio.TimerHandle, timer)

    def create_future(self) -> asyncio.Future[Any]:
        return self._real.create_future()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    def tick(self) -> None:
        ready, self.ready = self.ready, []
        for callback in ready:
            callback()

    def settle(self) -> None:
        while self.ready:
            self.tick()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for timer in [timer for timer in self.timers if timer.at <= self.now]:
            self.timers.remove(timer)
            if not timer.cancelled:
                timer.callback()
        self.settle()


@dataclass
class ManualExecutor:
    """Threads whose jobs the test runs."""

    threads: int
    jobs: list[Callable[[], None]] = field(default_factory=list)
    spare: int = 0

    def grow(self) -> None:
        self.spare += 1

    def shrink(self) -> None:
        self.spare -= 1

    def start(self, job: Callable[[], None]) -> None:
        self.jobs.append(job)

    def close(self) -> None:
        return


class Bench:
    """A dispatcher over manual parts, and a variant that doubles `x` and refuses 13."""

    def __init__(self, threads: int = 1) -> None:
        self.loop = ManualLoop()
        self.executor = ManualExecutor(threads)
        self.dispatcher = Dispatcher(threads, self.loop, executor=self.executor, clock=self.loop.time)
        self.calls: list[tuple[str, list[int]]] = []
        self.answers: dict[int, Answer | Failure] = {}

    def add(self, name: str, policy: BatchPolicy | None = None, **options: Placement) -> None:
        def infer(requests: Sequence[Request]) -> list[dict[str, Array]]:
            values = [int(request["x"][0]) for request in requests]
            self.calls.append((name, values))
            if 13 in values:
                raise ValueError("13 is refused")
            return [{"y": request["x"] * 2} for request in requests]

        self.dispatcher.add(name, infer, policy, **options)

    def submit(self, value: int, name: str = "a", *, rows: int = 1, **options: Any) -> Any:
        def done(result: Answer | Failure) -> None:
            assert value not in self.answers
            self.answers[value] = result

        return self.dispatcher.submit(name, {"x": np.array([value])}, rows, done=done, **options)

    def run_one(self) -> None:
        self.loop.settle()
        self.executor.jobs.pop(0)()
        self.loop.settle()

    def run_all(self) -> None:
        self.loop.settle()
        while self.executor.jobs:
            self.run_one()

    def output(self, value: int) -> int:
        result = self.answers[value]
        assert isinstance(result, Answer)
        return int(result.outputs["y"][0])

    def failure(self, value: int) -> Failure:
        result = self.answers[value]
        assert isinstance(result, Failure)
        return result


def test_an_idle_dispatcher_starts_a_single_request_in_the_same_tick() -> None:
    bench = Bench()
    bench.add("a")
    bench.submit(1)
    bench.loop.tick()
    assert len(bench.executor.jobs) == 1
    assert bench.loop.timers == []


def test_requests_of_one_tick_share_a_batch_and_get_their_own_answers() -> None:
    bench = Bench()
    bench.add("a")
    for value in (1, 2, 3):
        bench.submit(value)
    bench.run_all()
    assert bench.calls == [("a", [1, 2, 3])]
    assert [bench.output(value) for value in (1, 2, 3)] == [2, 4, 6]


def test_requests_that_arrive_while_all_threads_work_share_the_next_batch() -> None:
    bench = Bench()
    bench.add("a")
    bench.submit(1)
    bench.loop.settle()
    for value in (2, 3):
        bench.submit(value)
        bench.loop.settle()
    bench.run_all()
    assert [values for _, values in bench.calls] == [[1], [2, 3]]


def test_every_free_thread_takes_work() -> None:
    bench = Bench(threads=2)
    bench.add("a", BatchPolicy(max_batch_size=1))
    for value in (1, 2, 3):
        bench.submit(value)
    bench.loop.settle()
    assert len(bench.executor.jobs) == 2


def test_priority_goes_before_deadline_goes_before_arrival_over_all_variants() -> None:
    bench = Bench()
    bench.add("a", BatchPolicy(max_batch_size=1))
    bench.add("b", BatchPolicy(max_batch_size=1))
    bench.submit(1, "a", priority=2, deadline=1.0)
    bench.submit(2, "a", priority=1)
    bench.submit(3, "b", priority=1, deadline=9.0)
    bench.submit(4, "a", priority=1, deadline=5.0)
    bench.submit(5, "b", priority=MIRROR)
    bench.run_all()
    assert [values[0] for _, values in bench.calls] == [4, 3, 2, 1, 5]


def test_copies_leave_a_thread_free_for_what_somebody_waits_for() -> None:
    bench = Bench(threads=2)
    bench.add("a", BatchPolicy(max_batch_size=1))
    for value in (1, 2, 3):
        bench.submit(value, priority=MIRROR)
    bench.loop.settle()
    assert len(bench.executor.jobs) == 1
    bench.submit(4)
    bench.loop.settle()
    assert len(bench.executor.jobs) == 2
    bench.run_all()
    assert sorted(bench.answers) == [1, 2, 3, 4]


def test_on_a_single_thread_a_request_waits_for_one_copy_at_most() -> None:
    bench = Bench()
    bench.add("a")
    for value in (1, 2, 3):
        bench.submit(value, priority=MIRROR)
    bench.loop.settle()
    bench.submit(4)
    bench.submit(5)
    bench.run_all()
    assert [values for _, values in bench.calls] == [[1], [4, 5], [2], [3]]


def test_queued_work_is_refused_at_its_deadline_without_running() -> None:
    bench = Bench()
    bench.add("a")
    bench.submit(1)
    bench.loop.settle()
    bench.submit(2, deadline=3.0)
    bench.submit(3, deadline=5.0)
    bench.loop.settle()
    bench.loop.advance(3.0)
    assert bench.failure(2).kind is FailureKind.DEADLINE
    assert bench.failure(2).timing.queue_s == 3.0
    assert 3 not in bench.answers
    bench.run_all()
    assert bench.calls == [("a", [1]), ("a", [3])]


def test_work_whose_deadline_passed_before_a_thread_came_free_is_not_run() -> None:
    bench = Bench()
    bench.add("a")
    bench.submit(1)
    bench.loop.settle()
    bench.submit(2, deadline=3.0)
    bench.loop.settle()
    bench.loop.now = 4.0
    bench.run_all()
    assert bench.calls == [("a", [1])]
    assert bench.failure(2).kind is FailureKind.DEADLINE


def test_one_timer_serves_many_deadlines() -> None:
    bench = Bench()
    bench.add("a")
    bench.submit(0)
    bench.loop.settle()
    for value in range(1, 50):
        bench.submit(value, deadline=100.0 + value)
        bench.loop.settle()
    assert sum(not timer.cancelled for timer in bench.loop.timers) == 1


def test_finished_work_with_late_deadlines_does_not_pile_up() -> None:
    bench = Bench()
    bench.add("a")
    for value in range(20, 1_020):
        bench.submit(value, deadline=1e6)
        bench.run_all()
    assert len(bench.dispatcher._expiries) < 100


def test_a_request_waits_for_company_no_longer_than_the_delay() -> None:
    bench = Bench()
    bench.add("a", BatchPolicy(max_batch_size=3, max_queue_delay_microseconds=2_000_000))
    bench.submit(1)
    bench.loop.settle()
    bench.loop.advance(1.0)
    bench.submit(2)
    bench.loop.settle()
    assert bench.executor.jobs == []
    bench.loop.advance(1.0)
    assert len(bench.executor.jobs) == 1
    bench.run_all()
    assert bench.calls == [("a", [1, 2])]


def test_a_full_batch_does_not_wait_for_the_delay() -> None:
    bench = Bench()
    bench.add("a", BatchPolicy(max_batch_size=2, max_queue_delay_microseconds=2_000_000))
    bench.submit(1)
    bench.submit(2)
    bench.loop.settle()
    assert len(bench.executor.jobs) == 1


def test_a_variant_that_waits_for_company_does_not_hold_up_another() -> None:
    bench = Bench()
    bench.add("slow", BatchPolicy(max_queue_delay_microseconds=2_000_000))
    bench.add("quick")
    bench.submit(1, "slow")
    bench.submit(2, "quick", priority=5)
    bench.loop.settle()
    bench.run_all()
    assert bench.calls == [("quick", [2])]


def test_a_bad_request_does_not_fail_its_neighbours() -> None:
    bench = Bench()
    bench.add("a")
    for value in (1, 13, 2):
        bench.submit(value)
    bench.run_all()
    assert bench.calls == [("a", [1, 13, 2]), ("a", [1]), ("a", [13]), ("a", [2])]
    assert (bench.output(1), bench.output(2)) == (2, 4)
    assert bench.failure(13).kind is FailureKind.ERROR
    assert "13 is refused" in bench.failure(13).message


def test_a_request_that_fails_alone_is_not_run_again() -> None:
    bench = Bench()
    bench.add("a")
    bench.submit(13)
    bench.run_all()
    assert bench.calls == [("a", [13])]


def test_an_input_error_is_the_clients() -> None:
    bench = Bench()

    def infer(requests: Sequence[Request]) -> list[dict[str, Array]]:
        raise VariantInputError("x is wrong")

    bench.dispatcher.add("a", infer)
    bench.submit(1)
    bench.run_all()
    assert bench.failure(1).kind is FailureKind.INPUT


def test_a_variant_that_loses_answers_fails_and_nothing_hangs() -> None:
    bench = Bench()
    bench.dispatcher.add("a", lambda requests: [])
    bench.submit(1)
    bench.submit(2)
    bench.run_all()
    assert [bench.failure(value).kind for value in (1, 2)] == [FailureKind.ERROR] * 2
    assert "0 answers to 1 requests" in bench.failure(1).message


def test_a_full_queue_refuses_the_submit() -> None:
    bench = Bench()
    bench.add("a", BatchPolicy(max_queue_size=1))
    bench.submit(1)
    with pytest.raises(QueueFull):
        bench.submit(2)
    bench.run_all()
    assert sorted(bench.answers) == [1]


def test_a_copy_makes_room_for_a_request_and_its_sender_is_told() -> None:
    bench = Bench()
    bench.add("a", BatchPolicy(max_queue_size=1))
    bench.submit(1, priority=MIRROR)
    bench.submit(2)
    assert bench.answers == {}
    bench.run_all()
    assert bench.failure(1).kind is FailureKind.SHED
    assert bench.output(2) == 4


def test_cancelled_work_neither_runs_nor_calls_back() -> None:
    bench = Bench()
    bench.add("a")
    ticket = bench.submit(1)
    assert ticket.cancel()
    bench.run_all()
    assert (bench.calls, bench.answers) == ([], {})


def test_work_cancelled_while_it_runs_does_not_call_back() -> None:
    bench = Bench()
    bench.add("a")
    ticket = bench.submit(1)
    bench.loop.settle()
    assert not ticket.cancel()
    bench.run_all()
    assert (bench.calls, bench.answers) == ([("a", [1])], {})


def test_a_callback_that_fails_is_reported_and_its_neighbours_are_answered() -> None:
    bench = Bench()
    bench.add("a")

    def broken(_: Answer | Failure) -> None:
        raise RuntimeError("mine")

    bench.dispatcher.submit("a", {"x": np.array([1])}, 1, done=broken)
    bench.submit(2)
    bench.run_all()
    assert bench.output(2) == 4
    assert [str(error["exception"]) for error in bench.loop.errors] == ["mine"]


def test_timing_tells_the_wait_from_the_run() -> None:
    bench = Bench()

    def infer(requests: Sequence[Request]) -> list[dict[str, Array]]:
        bench.loop.now += 0.25
        return [{"y": request["x"]} for request in requests]

    bench.dispatcher.add("a", infer)
    bench.submit(1, rows=3)
    bench.submit(2, rows=2)
    bench.loop.settle()
    bench.loop.now = 2.0
    bench.run_all()
    answer = bench.answers[2]
    assert isinstance(answer, Answer)
    assert answer.timing[:3] == (2.0, 0.25, 5)
    load = bench.dispatcher.load("a")
    assert load.batch_s == 0.25
    assert (load.batches, load.rows) == (1, 5)


def test_load_counts_what_waits_and_what_runs() -> None:
    bench = Bench()
    bench.add("a", BatchPolicy(max_batch_size=2))
    for value in range(5):
        bench.submit(value)
    bench.loop.settle()
    load = bench.dispatcher.load("a")
    assert (load.queued, load.running) == (3, 2)


def test_small_models_run_on_the_loop_one_batch_a_tick() -> None:
    bench = Bench()
    bench.add("a", BatchPolicy(max_batch_size=2), placement=Placement.LOOP)
    for value in range(4):
        bench.submit(value)
    bench.loop.tick()
    assert sorted(bench.answers) == [0, 1]
    bench.loop.tick()
    assert sorted(bench.answers) == [0, 1, 2, 3]
    assert bench.executor.jobs == []


def test_small_models_answer_a_burst_that_their_queue_does_not_hold() -> None:
    bench = Bench()
    bench.add("a", BatchPolicy(max_batch_size=2, max_queue_size=4), placement=Placement.LOOP)
    for value in range(11):
        bench.submit(value)
    assert sorted(bench.answers) == [0, 1, 2, 3, 4, 5, 6, 7], "batches ran as the queue filled"
    bench.loop.settle()
    assert sorted(bench.answers) == list(range(11))


def test_small_models_run_while_all_threads_work() -> None:
    bench = Bench()
    bench.add("a")
    bench.add("small", placement=Placement.LOOP)
    bench.submit(1)
    bench.loop.settle()
    bench.submit(2, "small")
    bench.loop.settle()
    assert bench.output(2) == 4
    assert 1 not in bench.answers


def test_an_unknown_variant_is_refused_with_the_known_ones() -> None:
    bench = Bench()
    bench.add("a")
    with pytest.raises(VariantError, match=r"'b' is not served, must be one of \['a'\]"):
        bench.submit(1, "b")
    with pytest.raises(VariantError, match="served already"):
        bench.add("a")


def test_no_threads_are_refused() -> None:
    with pytest.raises(VariantError, match="threads is 0"):
        Dispatcher(0, ManualLoop())


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], None]:
    if request.param == "asyncio":
        return asyncio.run
    return uvloop.run


def _double(requests: Sequence[Request]) -> list[dict[str, Array]]:
    return [{"y": request["x"] * 2} for request in requests]


def test_threads_answer_every_request_on_the_loops_thread(run: Callable[[Any], None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        dispatcher = Dispatcher(2, loop)
        dispatcher.add("a", _double, BatchPolicy(max_batch_size=7, max_queue_size=500))
        answers: dict[int, int] = {}
        threads: set[int] = set()
        finished = loop.create_future()

        def submit(value: int) -> None:
            def done(result: Answer | Failure) -> None:
                assert isinstance(result, Answer)
                answers[value] = int(result.outputs["y"][0])
                threads.add(threading.get_ident())
                if len(answers) == 500:
                    finished.set_result(None)

            dispatcher.submit("a", {"x": np.array([value])}, 1, done=done)

        for value in range(250):
            submit(value)
            loop.call_soon(submit, 250 + value)
        await asyncio.wait_for(finished, 30)
        await dispatcher.close()
        assert answers == {value: 2 * value for value in range(500)}
        assert threads == {threading.get_ident()}

    run(main())


def test_removal_answers_what_was_taken_and_refuses_what_comes(run: Callable[[Any], None]) -> None:
    async def main() -> None:
        gate = threading.Event()

        def infer(requests: Sequence[Request]) -> list[dict[str, Array]]:
            gate.wait(30)
            return _double(requests)

        dispatcher = Dispatcher(1, asyncio.get_running_loop())
        dispatcher.add("a", infer, BatchPolicy(max_batch_size=1))
        answers: list[Answer | Failure] = []
        for value in range(3):
            dispatcher.submit("a", {"x": np.array([value])}, 1, done=answers.append)
        removal = asyncio.ensure_future(dispatcher.remove("a"))
        await asyncio.sleep(0)
        with pytest.raises(VariantError, match="being removed"):
            dispatcher.submit("a", {"x": np.array([9])}, 1, done=answers.append)
        assert not removal.done()
        gate.set()
        await removal
        assert [isinstance(answer, Answer) for answer in answers] == [True] * 3
        dispatcher.add("a", infer)
        await dispatcher.close()

    run(main())


def test_closing_refuses_what_waits_and_finishes_what_runs(run: Callable[[Any], None]) -> None:
    async def main() -> None:
        started, gate = threading.Event(), threading.Event()

        def infer(requests: Sequence[Request]) -> list[dict[str, Array]]:
            started.set()
            gate.wait(30)
            return _double(requests)

        loop = asyncio.get_running_loop()
        dispatcher = Dispatcher(1, loop)
        dispatcher.add("a", infer, BatchPolicy(max_batch_size=1))
        answers: list[Answer | Failure] = []
        for value in range(2):
            dispatcher.submit("a", {"x": np.array([value])}, 1, done=answers.append)
        await loop.run_in_executor(None, started.wait, 30)
        closing = asyncio.ensure_future(dispatcher.close())
        await asyncio.sleep(0)
        gate.set()
        await closing
        kinds = [answer.kind if isinstance(answer, Failure) else "answered" for answer in answers]
        assert kinds == [FailureKind.REMOVED, "answered"]

    run(main())


def test_what_rows_of_shared_batches_cost_adds_up_to_what_the_hardware_costs_meanwhile() -> None:
    bench = Bench()

    def infer(requests: Sequence[Request]) -> list[dict[str, Array]]:
        bench.loop.now += 0.5 + len(requests)
        return [{"y": request["x"]} for request in requests]

    bench.dispatcher.add("a", infer, BatchPolicy(max_batch_size=8))
    rows = {1: 1, 2: 3, 3: 2, 4: 1, 5: 4, 6: 2}
    for value, count in rows.items():
        bench.submit(value, rows=count)
    bench.run_all()
    answers = {value: answer for value, answer in bench.answers.items() if isinstance(answer, Answer)}
    assert len(answers) == len(rows)
    assert {answer.timing.batch_rows for answer in answers.values()} == {7, 6}
    # Nothing else has moved the clock.
    worked_s, price = bench.loop.now, 7.2
    costs = [
        rows[value]
        * float(cost_per_1k(1000 * answer.timing.compute_s, answer.timing.batch_rows, price))
        / 1000
        for value, answer in answers.items()
    ]
    assert sum(costs) == pytest.approx(worked_s / 3600 * price)
