"""Queues work that takes seconds and hands it to a runner with a few slots: threads, or one decoder's batch.

A generation must not hold the threads on which other models answer in milliseconds. The order is that of the dispatcher:
priority, then the earliest deadline, then arrival. All methods belong to the loop's thread; only the work itself runs
elsewhere, and asks before every token whether it is still wanted.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from anabranch.variants.batching import (
    MIRROR,
    BatchPolicy,
    Failure,
    FailureKind,
    Ticket,
    Timing,
    VariantQueue,
)
from anabranch.variants.errors import VariantError, VariantInputError
from anabranch.variants.worker_threads import Executor, Loop, WorkerThreads


class Job(Ticket):
    """One piece of work on its way. The thread that does it sees `is_unwanted` and calls `tell`."""

    __slots__ = ("_pool", "_work", "is_unwanted", "started_s")

    def __init__(
        self, pool: "GenerationPool", work: Any, priority: int, deadline: float, done: Any, sequence: int
    ) -> None:
        super().__init__({}, 1, priority, deadline, done, sequence, pool.clock(), pool.withdraw)
        self._pool = pool
        self._work: Any = work
        self.is_unwanted = False
        self.started_s = 0.0

    def cancel(self) -> bool:
        """Forget the work: `done` will not be called, and work that runs stops at its next token."""
        self.is_unwanted = True
        return super().cancel()

    def tell(self, callback: Callable[[], None]) -> None:
        """From the work's thread: call on the loop's thread, unless the work is no longer wanted then."""
        self._pool.call(self, callback)

    def take_work(self) -> Any:
        """What is to be done, for the runner; a job runs once, and holds its work no longer than until then."""
        work, self._work = self._work, None
        assert work is not None, "a job runs once"
        return work

    def failure(self, error: Exception) -> Failure:
        """What `done` gets when the work raised this: it is charged to the variant or the client, not to the process."""
        kind = FailureKind.INPUT if isinstance(error, VariantInputError) else FailureKind.ERROR
        timing = Timing(self.queue_s, self._pool.clock() - self.started_s, 1)
        return Failure(kind=kind, message=f"{type(error).__name__}: {error}", timing=timing, error=error)

    @property
    def queue_s(self) -> float:
        """Seconds from `submit` to the work's start."""
        return self.started_s - self.submitted_s


Work: TypeAlias = Callable[[Job], Any]
"""Work for threads. Blocks; gets its job, and returns what `done` gets."""

Finished: TypeAlias = Callable[[Any], None]
"""Takes what a job's `done` gets; called once, on any thread."""


class Runner(Protocol):
    """Runs jobs off the loop's thread."""

    @property
    def slots(self) -> int:
        """How many jobs run at once."""
        ...

    def start(self, job: Job, finished: Finished) -> None:
        """Run a job; never more than `slots` are started and not finished."""
        ...

    def close(self) -> None:
        """End after the jobs that were started, and wait for them."""
        ...


class ThreadRunner:
    """One thread a job, until it ends; the work of jobs is `Work`.

    Args:
        threads: Jobs that run at once, at least 1.
        executor: What runs them; threads of its own by default.
    """

    def __init__(self, threads: int, executor: Executor | None = None) -> None:
        if threads < 1:
            raise VariantError(f"threads is {threads}, must be at least 1")
        self._executor = executor or WorkerThreads(threads)

    @property
    def slots(self) -> int:
        """How many jobs run at once."""
        return self._executor.threads

    def start(self, job: Job, finished: Finished) -> None:
        """Run a job as soon as a thread is free."""
        self._executor.start(lambda: finished(_outcome(job)))

    def close(self) -> None:
        """End the threads after the jobs that were started."""
        self._executor.close()


def _outcome(job: Job) -> Any:
    """On a worker thread."""
    try:
        return job.take_work()(job)
    except Exception as error:  # noqa: BLE001  # whatever a variant raises is charged to it, not to the process
        return job.failure(error)


class GenerationPool:
    """A queue before a runner.

    Args:
        runner: Runs the work; the pool closes it.
        loop: The loop that owns the pool; callbacks come on its thread.
        most_waiting: Jobs that wait; more are refused.
        clock: Seconds, for timing.
    """

    def __init__(
        self,
        runner: Runner,
        loop: Loop,
        *,
        most_waiting: int = 64,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.clock = clock
        self._loop = loop
        self._runner = runner
        self._free = runner.slots
        # Copies leave one slot free, where there are several, for what somebody waits for.
        self._copy_slots = max(1, self._free - 1)
        self._copies = 0
        self._queue = VariantQueue(BatchPolicy(max_batch_size=1, max_queue_size=most_waiting))
        self._running: set[Job] = set()
        self._sequence = 0
        self._is_closing = False

    def submit(
        self,
        work: Any,
        *,
        priority: int,
        deadline: float | None,
        done: Callable[[Any], None],
    ) -> Job:
        """Queue work.

        Args:
            work: What the runner takes.
            priority: 1 is the most urgent level; `MIRROR` and above is work that nobody waits for.
            deadline: When the answer is worth nothing any more, by `loop.time()`; None for never.
            done: Called once on the loop's thread with what the work returned, or a `Failure`; never inside `submit`,
                and never after `cancel`.

        Raises:
            QueueFull: As many wait as may, and none of them is less urgent.
            VariantError: The pool is closing.
        """
        if self._is_closing:
            raise VariantError("no generation is taken any more: the server is shutting down")
        self._sequence += 1
        until = float("inf") if deadline is None else deadline
        job = Job(self, work, priority, until, done, self._sequence)
        dropped = self._queue.push(job)
        if dropped is not None:
            reason = f"made room for priority {priority} in the full queue"
            self._loop.call_soon(lambda: self._fail(dropped, FailureKind.SHED, reason))
        if deadline is not None:
            self._loop.call_later(max(deadline - self._loop.time(), 0.0), lambda: self._expire(job))
        self._loop.call_soon(self._dispatch)
        return job

    def withdraw(self, ticket: Ticket) -> None:
        """Take a waiting job out of account."""
        self._queue.discard(ticket)

    def call(self, job: Job, callback: Callable[[], None]) -> None:
        """From a thread: call on the loop's thread, unless the job is no longer wanted then."""

        def unless_unwanted() -> None:
            if not job.is_unwanted:
                callback()

        self._loop.call_soon_threadsafe(unless_unwanted)

    def close(self) -> None:
        """Refuse what waits, stop what runs at its next token, and end the runner."""
        self._is_closing = True
        for ticket in self._queue.drain():
            self._fail(ticket, FailureKind.REMOVED, "the server is shutting down")
        for job in self._running:
            self._stop(job, FailureKind.REMOVED, "the server is shutting down")
        self._runner.close()

    def _dispatch(self) -> None:
        while self._free and not self._is_closing:
            head = self._queue.head()
            if head is None or (head.priority >= MIRROR and self._copies >= self._copy_slots):
                return
            taken, late = self._queue.take(self._loop.time())
            for ticket in late:
                self._fail(ticket, FailureKind.DEADLINE, "the deadline passed in the queue")
            for job in taken:
                assert isinstance(job, Job)
                self._start(job)

    def _start(self, job: Job) -> None:
        self._free -= 1
        self._copies += job.priority >= MIRROR
        self._running.add(job)
        job.started_s = self.clock()

        def finished(result: Any) -> None:
            self._loop.call_soon_threadsafe(lambda: self._finished(job, result))

        self._runner.start(job, finished)

    def _finished(self, job: Job, result: Any) -> None:
        self._running.discard(job)
        self._free += 1
        self._copies -= job.priority >= MIRROR
        self._dispatch()
        self._deliver(job, result)

    def _expire(self, job: Job) -> None:
        if job.queued:
            job.withdraw()
            self._fail(job, FailureKind.DEADLINE, "the deadline passed in the queue")
        elif job in self._running:
            self._stop(job, FailureKind.DEADLINE, "the deadline passed while tokens were generated")

    def _stop(self, job: Job, kind: FailureKind, message: str) -> None:
        """Answer for work that runs; its thread ends at the next token."""
        job.is_unwanted = True
        self._fail(job, kind, message)

    def _fail(self, ticket: Ticket, kind: FailureKind, message: str) -> None:
        timing = Timing(self.clock() - ticket.submitted_s, 0.0, 0)
        self._deliver(ticket, Failure(kind=kind, message=message, timing=timing))

    def _deliver(self, ticket: Ticket, result: Any) -> None:
        done, ticket.done = ticket.done, None
        if done is None:
            return
        try:
            done(result)
        except Exception as error:  # noqa: BLE001  # one caller's mistake must not lose its neighbours' answers
            self._loop.call_exception_handler({"message": "a done callback failed", "exception": error})
