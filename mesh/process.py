"""The Envoy that this control plane starts, keeps running, and finds again after its own death.

Envoy outlives a control plane that is killed: it serves on by its last routes, and the next one on the same state folder
takes it over. It ends with a control plane that is asked to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

_PAUSES_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_LOOK_S: Final = 0.5
_END_S: Final = 5.0
_log = logging.getLogger(__name__)


class EnvoyFailed(Exception):
    """Envoy ended before it served for the first time; the message has its last words."""


class EnvoyProcess:
    """One supervised Envoy.

    Args:
        binary: Envoy's program.
        config: Its bootstrap.
        concurrency: Its worker threads.
        drain_s: How long a listener that is taken away lets its connections end.

    Attributes:
        restarts: How often it died and was started again.
    """

    def __init__(self, binary: Path, config: Path, *, concurrency: int, drain_s: float) -> None:
        self._command = [
            str(binary),
            *(
                "-c",
                str(config),
                "--concurrency",
                str(concurrency),
                "--drain-time-s",
                str(max(1, round(drain_s))),
            ),
            *("--disable-hot-restart", "-l", "warning"),
        ]
        self._pid_file = config.with_suffix(".pid")
        self._log_file = config.with_suffix(".log")
        self._pid = 0
        self.restarts = 0

    def find(self) -> bool:
        """Take over the Envoy that an earlier control plane left running; answers whether there is one."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(self._pid_file.read_text())
            if self._is_ours(pid):
                self._pid = pid
                _log.info("Envoy runs already, with process id %d", pid)
                return True
        return False

    async def keep(self, is_serving: Callable[[], bool]) -> None:
        """Run it until cancelled: start it where it does not run, and again when it dies.

        Args:
            is_serving: Whether it has served; before that, its death is an error of what it was started with.

        Raises:
            EnvoyFailed: It never served.
        """
        deaths = 0
        while True:
            if not self._is_running():
                if self._pid:
                    if not is_serving():
                        raise EnvoyFailed(f"Envoy ended before it served: {self._last_words()}")
                    self.restarts += 1
                    pause = _PAUSES_S[min(deaths, len(_PAUSES_S) - 1)]
                    deaths += 1
                    _log.error("Envoy ended, see %s; starting it again in %g s", self._log_file, pause)
                    await asyncio.sleep(pause)
                await self._start()
            await asyncio.sleep(_LOOK_S)

    async def end(self) -> None:
        """Ask it to end, and make sure."""
        for number, patience_s in ((signal.SIGTERM, _END_S), (signal.SIGKILL, _END_S)):
            if not self._is_running():
                break
            os.kill(self._pid, number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    while self._is_running():
                        await asyncio.sleep(0.05)
        self._pid_file.unlink(missing_ok=True)

    async def _start(self) -> None:
        with self._log_file.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # A terminal's Ctrl-C is for the control plane, which ends Envoy after a drain.
                start_new_session=True,
            )
        self._pid = process.pid
        self._pid_file.write_text(str(process.pid))

    def _last_words(self) -> str:
        lines = self._log_file.read_text(errors="replace").splitlines()
        found = [line for line in lines if "[critical]" in line or "[error]" in line] or lines
        return f"{found[-1][:500] if found else 'no words'} ({self._log_file})"

    def _is_running(self) -> bool:
        return self._pid != 0 and self._is_ours(self._pid)

    def _is_ours(self, pid: int) -> bool:
        """Whether the process is this Envoy, and no other that has got its number since; a zombie has no command."""
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return self._command[2].encode() in command
