"""When requests are to leave: the moments of a Poisson process, and a loop that keeps to them.

The moments do not depend on the answers. A server that stalls is sent what users would have sent meanwhile, and each of
those requests is as late as its user would find it (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import random
from collections.abc import Callable, Iterator
from typing import Final, Protocol

_CLOCK_MONOTONIC: Final = 1
_ABSOLUTE: Final = 1


def poisson_arrivals(rate_per_s: float, start_s: float, end_s: float, rng: random.Random) -> Iterator[float]:
    """Yield the moments of a Poisson process.

    Args:
        rate_per_s: Mean number a second, above 0.
        start_s: Its begin, on any clock.
        end_s: No moment is at or after this.
        rng: Gives the gaps.
    """
    at_s = start_s
    while True:
        at_s += rng.expovariate(rate_per_s)
        if at_s >= end_s:
            return
        yield at_s


class Timer(Protocol):
    """Calls back at a moment."""

    def arm(self, at_s: float, callback: Callable[[], None]) -> None:
        """Call `callback` once at `at_s`, and forget what was armed before."""


class Pacer:
    """Sends at given moments; late rather than never.

    Args:
        arrivals: The moments, in order.
        now: The clock they are on.
        timer: Wakes the pacer, on the same clock.
        send: Sends the request that was meant for a moment.
        finish: Called after the last one.
    """

    def __init__(
        self,
        arrivals: Iterator[float],
        *,
        now: Callable[[], float],
        timer: Timer,
        send: Callable[[float], None],
        finish: Callable[[], None],
    ) -> None:
        self._arrivals = arrivals
        self._now = now
        self._timer = timer
        self._send = send
        self._finish = finish
        self._next_s: float | None = None

    def start(self) -> None:
        """Wait for the first moment."""
        self._next_s = next(self._arrivals, None)
        self._wait()

    def wake(self) -> None:
        """Send all that is due."""
        next_s = self._next_s
        # One look at the clock for all: what becomes due meanwhile comes with the next turn of the loop.
        now_s = self._now()
        while next_s is not None and next_s <= now_s:
            self._send(next_s)
            next_s = next(self._arrivals, None)
        self._next_s = next_s
        self._wait()

    def _wait(self) -> None:
        if self._next_s is None:
            self._finish()
        else:
            self._timer.arm(self._next_s, self.wake)


class LoopTimer:
    """The event loop's own timer: a millisecond fine on uvloop.

    Args:
        loop: Runs the callbacks.
        now: The clock of the moments.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, now: Callable[[], float]) -> None:
        self._loop = loop
        self._now = now

    def arm(self, at_s: float, callback: Callable[[], None]) -> None:
        """Call back at a moment."""
        self._loop.call_later(max(0.0, at_s - self._now()), callback)

    def close(self) -> None:
        """Nothing is kept."""


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class FineTimer:
    """Linux's timerfd, which is as fine as the machine: a loop's millisecond would hide an answer in 0.2 ms.

    Args:
        loop: Runs the callbacks.

    Raises:
        OSError: The system has none to give.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = int(self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "no timerfd")
        self._loop = loop
        self._spec = _TimerSpec()
        self._callback: Callable[[], None] | None = None
        loop.add_reader(self._descriptor, self._fire)

    def arm(self, at_s: float, callback: Callable[[], None]) -> None:
        """Call back at a moment of `time.monotonic`."""
        self._callback = callback
        value = self._spec.value
        value.seconds = int(at_s)
        # Zero would disarm it.
        value.nanoseconds = max(1, int((at_s % 1) * 1e9))
        self._libc.timerfd_settime(self._descriptor, _ABSOLUTE, ctypes.byref(self._spec), None)

    def close(self) -> None:
        """Give it back."""
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _fire(self) -> None:
        try:
            os.read(self._descriptor, 8)
        except BlockingIOError:
            # Armed anew since.
            return
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


def best_timer(loop: asyncio.AbstractEventLoop, now: Callable[[], float]) -> FineTimer | LoopTimer:
    """Return the finest timer there is for `time.monotonic`."""
    if platform.system() == "Linux":
        return FineTimer(loop)
    return LoopTimer(loop, now)
