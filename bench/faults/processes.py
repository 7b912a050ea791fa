"""Processes that can be killed at any moment, and the pipes by which they say what nobody may forget."""

import ctypes
import os
import signal
import traceback
from collections.abc import Callable


class Child:
    """A forked process with a pipe; what it wrote before it was killed can still be read.

    Args:
        work: What it does, given the pipe's end to write to.
    """

    def __init__(self, work: Callable[[int], None]) -> None:
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._read)
            _die_with_parent()
            try:
                work(write)
            except BaseException:  # noqa: BLE001  # it must not go on as its parent
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(write)
        self._text = b""
        self.is_alive = True

    def lines(self) -> list[bytes]:
        """What it has written since this was last asked."""
        while True:
            try:
                more = os.read(self._read, 1 << 16)
            except BlockingIOError:
                break
            if not more:
                break
            self._text += more
        *whole, self._text = self._text.split(b"\n")
        return whole

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def ended_by_itself(self) -> bool:
        """Whether it has died without being killed."""
        if self.is_alive and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.is_alive = False
            return True
        return False

    def kill(self) -> None:
        """End it at once, and wait until it is gone."""
        if self.is_alive:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.is_alive = False

    def close(self) -> None:
        """Let go of the pipe."""
        os.close(self._read)


def _die_with_parent() -> None:
    """A drill that is interrupted leaves nothing running."""
    set_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
