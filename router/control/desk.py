"""Work that blocks, off the event loop: on a few threads, with a bounded number waiting, answered back on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from anabranch.router.control.errors import Busy

_THREADS: Final = 4
_MOST_WAITING: Final = 64

T = TypeVar("T")


class Desk:
    """Runs what asks the store.

    Args:
        loop: Where answers are given.
        most_waiting: Pieces of work taken on at once; further ones are refused at once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, most_waiting: int = _MOST_WAITING) -> None:
        self._loop = loop
        self._most_waiting = most_waiting
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="control")
        self._waiting = 0
        self.refused = 0

    def run(
        self, work: Callable[[], T], done: Callable[[T], None], failed: Callable[[Exception], None]
    ) -> None:
        """Run a piece of work; one of the two callbacks follows, on the loop.

        Args:
            work: What to do, on a thread.
            done: Takes the result.
            failed: Takes the exception.
        """
        if self._waiting >= self._most_waiting:
            self.refused += 1
            failed(
                Busy(
                    f"{self._waiting} calls are being worked on, no more are taken on: try again in a second"
                )
            )
            return
        self._waiting += 1

        def told(future: Future[T]) -> None:
            self._waiting -= 1
            error = future.exception()
            if error is None:
                done(future.result())
            elif isinstance(error, Exception):
                failed(error)
            else:
                raise error

        def ended(future: Future[T]) -> None:
            # A loop that has ended takes no answers, and nobody waits for one.
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(told, future)

        self._pool.submit(work).add_done_callback(ended)

    def close(self) -> None:
        """Take on nothing more; what runs ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
