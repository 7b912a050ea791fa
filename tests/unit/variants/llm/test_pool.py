import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from anabranch.variants.batching import MIRROR, Failure, FailureKind, QueueFull
from anabranch.variants.errors import VariantError, VariantInputError
from anabranch.variants.llm.pool import GenerationPool, Job, ThreadRunner


@dataclass
class ManualLoop:
    """A loop whose time and turns the test moves."""

    now: float = 0.0
    ready: list[Callable[..., Any]] = field(default_factory=list)
    timers: list[tuple[float, Callable[..., Any]]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., Any]) -> asyncio.Handle:
        self.ready.append(callback)
        return cast(asyncio.Handle, None)

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Callable[..., Any]) -> asyncio.TimerHandle:
        self.timers.append((self.now + delay, callback))
        return cast(asyncio.TimerHandle, None)

    def create_future(self) -> asyncio.Future[Any]:
        raise AssertionError("a pool makes no futures")

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    def settle(self) -> None:
        while self.ready:
            self.ready.pop(0)()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer[0] <= self.now]
        self.timers = [timer for timer in self.timers if timer[0] > self.now]
        for _, callback in due:
            callback()


@dataclass
class ManualThreads:
    """Threads that run a job when the test says so."""

    threads: int = 1
    jobs: list[Callable[[], None]] = field(default_factory=list)
    is_closed: bool = False

    def start(self, job: Callable[[], None]) -> None:
        self.jobs.append(job)

    def close(self) -> None:
        self.is_closed = True


@dataclass
class Scene:
    """A pool with everything that surrounds it."""

    threads: int = 1
    most_waiting: int = 8
    loop: ManualLoop = field(default_factory=ManualLoop)
    ran: list[str] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.executor = ManualThreads(self.threads)
        self.pool = GenerationPool(
            ThreadRunner(self.threads, self.executor),
            self.loop,
            most_waiting=self.most_waiting,
            clock=lambda: self.loop.now,
        )

    def submit(
        self,
        name: str,
        priority: int = 1,
        deadline: float | None = None,
        work: Callable[[Job], Any] | None = None,
    ) -> Job:
        def default(_job: Job) -> str:
            self.ran.append(name)
            return f"{name} answered"

        return self.pool.submit(
            work or default,
            priority=priority,
            deadline=deadline,
            done=lambda result: self.results.__setitem__(name, result),
        )

    def run_next(self) -> None:
        self.loop.settle()
        self.executor.jobs.pop(0)()
        self.loop.settle()

    def kind(self, name: str) -> FailureKind:
        failure = self.results[name]
        assert isinstance(failure, Failure)
        return failure.kind


def test_work_runs_on_a_thread_and_its_result_comes_on_the_loop() -> None:
    scene = Scene()
    scene.submit("a")
    assert scene.executor.jobs == []
    scene.loop.settle()
    scene.executor.jobs.pop()()
    assert scene.results == {}
    scene.loop.settle()
    assert scene.results == {"a": "a answered"}


def test_as_many_run_at_once_as_there_are_threads() -> None:
    scene = Scene(threads=2)
    for name in "abc":
        scene.submit(name)
    scene.loop.settle()
    assert len(scene.executor.jobs) == 2
    scene.run_next()
    assert len(scene.executor.jobs) == 2


def test_the_most_urgent_is_next_then_the_earliest_deadline_then_the_first() -> None:
    scene = Scene()
    scene.submit("first")
    scene.loop.settle()
    scene.submit("late", 2, 50.0)
    scene.submit("any time", 2)
    scene.submit("soon", 2, 20.0)
    scene.submit("urgent", 1)
    for _ in range(5):
        scene.run_next()
    assert scene.ran == ["first", "urgent", "soon", "late", "any time"]


def test_copies_leave_a_thread_free_for_what_somebody_waits_for() -> None:
    scene = Scene(threads=2)
    for name in "ab":
        scene.submit(name, MIRROR)
    scene.loop.settle()
    assert len(scene.executor.jobs) == 1
    scene.submit("c")
    scene.loop.settle()
    assert len(scene.executor.jobs) == 2


def test_a_full_queue_refuses_and_gives_copies_up_for_requests() -> None:
    scene = Scene(most_waiting=1)
    scene.submit("running")
    scene.loop.settle()
    scene.submit("copy", MIRROR)
    with pytest.raises(QueueFull, match="1 requests wait"):
        scene.submit("another copy", MIRROR)
    scene.submit("request")
    scene.loop.settle()
    assert scene.kind("copy") is FailureKind.SHED
    with pytest.raises(QueueFull):
        scene.submit("another request")


def test_what_is_told_comes_on_the_loop_until_the_work_is_unwanted() -> None:
    scene = Scene()
    told: list[int] = []

    def work(job: Job) -> str:
        for number in range(4):
            job.tell(lambda number=number: told.append(number))  # type: ignore[misc]  # the default binds it now
            if number == 1:
                scene.loop.settle()
                job.cancel()
        return "over"

    scene.submit("a", work=work)
    scene.run_next()
    assert told == [0, 1]
    assert scene.results == {}


def test_cancelled_work_stops_at_its_next_token() -> None:
    scene = Scene()
    steps: list[int] = []

    def work(job: Job) -> None:
        while not job.is_unwanted:
            steps.append(len(steps))
            if len(steps) == 3:
                job.cancel()

    scene.submit("a", work=work)
    scene.run_next()
    assert steps == [0, 1, 2]
    assert scene.results == {}


def test_cancelled_work_that_waits_never_runs() -> None:
    scene = Scene()
    scene.submit("running")
    scene.loop.settle()
    scene.submit("waiting").cancel()
    scene.run_next()
    scene.loop.settle()
    assert scene.executor.jobs == []
    assert scene.ran == ["running"]


def test_a_deadline_in_the_queue_is_answered_at_once() -> None:
    scene = Scene()
    scene.submit("running")
    scene.loop.settle()
    scene.submit("waiting", deadline=5.0)
    scene.loop.advance(5.0)
    assert scene.kind("waiting") is FailureKind.DEADLINE
    scene.run_next()
    assert scene.executor.jobs == []


def test_a_deadline_that_passes_while_tokens_are_made_is_answered_at_once_and_stops_the_work() -> None:
    scene = Scene()
    seen: list[bool] = []

    def work(job: Job) -> str:
        seen.append(job.is_unwanted)
        scene.loop.advance(5.0)
        seen.append(job.is_unwanted)
        assert scene.kind("a") is FailureKind.DEADLINE
        return "too late"

    scene.submit("a", deadline=5.0, work=work)
    scene.run_next()
    assert seen == [False, True]
    assert scene.kind("a") is FailureKind.DEADLINE


def test_a_deadline_after_the_answer_changes_nothing() -> None:
    scene = Scene()
    scene.submit("a", deadline=5.0)
    scene.run_next()
    scene.loop.advance(10.0)
    assert scene.results == {"a": "a answered"}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("broken"), FailureKind.ERROR),
        (VariantInputError("too long"), FailureKind.INPUT),
    ],
)
def test_what_work_raises_is_its_failure_and_the_thread_goes_on(error: Exception, kind: FailureKind) -> None:
    scene = Scene()

    def work(_job: Job) -> None:
        raise error

    scene.submit("a", work=work)
    scene.submit("b")
    scene.run_next()
    scene.run_next()
    assert scene.kind("a") is kind
    assert scene.results["b"] == "b answered"


def test_closing_answers_for_what_waits_and_for_what_runs_and_takes_nothing_more() -> None:
    scene = Scene()
    running = scene.submit("running")
    scene.loop.settle()
    scene.submit("waiting")
    scene.pool.close()
    assert running.is_unwanted
    assert scene.executor.is_closed
    assert {scene.kind(name) for name in ("running", "waiting")} == {FailureKind.REMOVED}
    with pytest.raises(VariantError, match="shutting down"):
        scene.submit("later")


def test_a_done_callback_that_fails_loses_nobody_elses_answer() -> None:
    scene = Scene()

    def broken(_result: Any) -> None:
        raise ValueError("a bug")

    scene.pool.submit(lambda _job: None, priority=1, deadline=None, done=broken)
    scene.submit("b")
    scene.run_next()
    scene.run_next()
    assert len(scene.loop.errors) == 1
    assert scene.results == {"b": "b answered"}


def test_on_a_real_loop_generations_run_side_by_side_off_its_thread() -> None:
    async def run() -> tuple[list[str], set[int]]:
        loop = asyncio.get_running_loop()
        pool = GenerationPool(ThreadRunner(2), loop)
        both = threading.Barrier(2, timeout=30)
        answers: list[asyncio.Future[str]] = [loop.create_future() for _ in range(2)]
        threads: set[int] = set()

        def work(_job: Job) -> str:
            # Passes only when both run at once.
            both.wait()
            threads.add(threading.get_ident())
            return "done"

        for answer in answers:
            pool.submit(work, priority=1, deadline=None, done=answer.set_result)
        found = [await answer for answer in answers]
        pool.close()
        return found, threads

    answers, threads = asyncio.run(run())
    assert answers == ["done", "done"]
    assert len(threads) == 2
    assert threading.get_ident() not in threads


def test_no_thread_is_no_pool() -> None:
    with pytest.raises(VariantError, match="threads is 0, must be at least 1"):
        ThreadRunner(0)
