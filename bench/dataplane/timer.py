"""A timer of an event loop that is exact to microseconds: uvloop's own counts whole milliseconds."""

import asyncio
import ctypes
import os
import time
from collections.abc import Callable

_libc = ctypes.CDLL(None, use_errno=True)
_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_TIMER_ABSTIME = 1


class _Spec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Timer:
    """Calls back once for each time it is set; `time.monotonic` is its clock.

    Args:
        loop: Where it calls.
        on_due: What it calls.

    Raises:
        OSError: If the kernel gives no timer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_due: Callable[[], None]) -> None:
        self._loop = loop
        self._on_due = on_due
        self._descriptor = _libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        loop.add_reader(self._descriptor, self._rang)

    def set(self, at_s: float) -> None:
        """Ring at a time of the monotonic clock, or at once if that is past."""
        at_s = max(at_s, time.monotonic() + 1e-6)
        whole = int(at_s)
        spec = _Spec(0, 0, whole, max(1, int((at_s - whole) * 1e9)))
        if _libc.timerfd_settime(self._descriptor, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

    def close(self) -> None:
        """Ring no more."""
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _rang(self) -> None:
        os.read(self._descriptor, 8)
        self._on_due()
