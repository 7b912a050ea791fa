"""A few threads that run jobs one after the other, and the two ports of a dispatcher: its threads and its loop."""

import queue
import threading
from asyncio import Future, Handle, TimerHandle
from collections.abc import Callable
from typing import Any, Protocol


class Executor(Protocol):
    """Runs jobs off the loop's thread; a job never raises."""

    @property
    def threads(self) -> int:
        """How many jobs run at once."""
        ...

    def start(self, job: Callable[[], None]) -> None:
        """Run a job as soon as a thread is free."""
        ...

    def close(self) -> None:
        """End the threads after the jobs that were started."""
        ...


class ElasticExecutor(Executor, Protocol):
    """One whose threads can be replaced."""

    def grow(self) -> None:
        """Add a thread, in the place of one that does not come back."""
        ...

    def shrink(self) -> None:
        """End a thread: the missed one is back."""
        ...


class Loop(Protocol):
    """What the dispatcher needs of an event loop; asyncio's and uvloop's have it."""

    def time(self) -> float:
        """The clock of deadlines, in seconds."""
        ...

    def call_soon(self, callback: Callable[..., Any]) -> Handle:
        """Call at the end of this tick."""
        ...

    def call_soon_threadsafe(self, callback: Callable[..., Any]) -> Handle:
        """Call from another thread."""
        ...

    def call_later(self, delay: float, callback: Callable[..., Any]) -> TimerHandle:
        """Call after some seconds."""
        ...

    def create_future(self) -> Future[Any]:
        """A future of this loop."""
        ...

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Report an error that nobody awaits."""
        ...


class WorkerThreads:
    """Daemon threads on one queue; cheaper a job than `ThreadPoolExecutor`, which makes a future for each."""

    def __init__(self, threads: int) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._size = threads
        for _ in range(threads):
            self._add()

    def _add(self) -> None:
        thread = threading.Thread(target=self._work, name=f"infer-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    @property
    def threads(self) -> int:
        """How many jobs run at once."""
        return self._size

    def start(self, job: Callable[[], None]) -> None:
        """Run a job as soon as a thread is free."""
        self._jobs.put(job)

    def grow(self) -> None:
        """Add a thread, in the place of one that does not come back."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._add()

    def shrink(self) -> None:
        """End a thread: the missed one is back."""
        self._jobs.put(None)

    def close(self) -> None:
        """End the threads after the jobs that were started, and wait for them."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
