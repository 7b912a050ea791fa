"""A server's process tree: started on one core, its CPU time and memory read from /proc, ended as a whole."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import psutil

SERVER_CORE = 0
"""What is measured runs here; the generator and the backends run on the other core."""

LOAD_CORE = 1
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_PATIENCE_S = 120.0


class DidNotStart(RuntimeError):
    """A server ended or did not listen in time; the message has the end of its log."""


class Tree:
    """A server and its children.

    Args:
        command: What to run; its parts are taken as text.
        log: Where its output goes.
        core: The core that all of it is pinned to; None leaves it free.
        env: Variables beside those of this process.
        cwd: Its working directory.
    """

    def __init__(
        self,
        command: Iterable[object],
        *,
        log: Path,
        core: int | None = SERVER_CORE,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        pin = [] if core is None else ["taskset", "--cpu-list", str(core)]
        with log.open("wb") as output:
            # A session of its own, so that daemons which leave the tree still can be ended with it.
            self._process = subprocess.Popen(
                [*pin, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def wait_until_listening(self, *ports: int, patience_s: float = _PATIENCE_S) -> None:
        """Return once every port accepts connections.

        Raises:
            DidNotStart: If the server ended, or did not listen in time.
        """
        self.wait_until(lambda: all(_accepts(port) for port in ports), f"listen on {ports}", patience_s)

    def wait_until(self, is_so: Callable[[], bool], what: str, patience_s: float = _PATIENCE_S) -> None:
        """Look until something is true.

        Raises:
            DidNotStart: If the server ended, or it is not so in time.
        """
        give_up = time.monotonic() + patience_s
        while not is_so():
            code = self._process.poll()
            if code is not None or time.monotonic() > give_up:
                self.stop()
                end = f"ended with {code}" if code is not None else f"did not {what} within {patience_s:g} s"
                raise DidNotStart(f"{end}:\n{self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def log_text(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        """End the tree: asked first, killed after five seconds, with every process of its session."""
        family = members(self.pid)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for process in {*family, *_of_session(self.pid)}:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, timeout=5)


def members(pid: int) -> list[psutil.Process]:
    """The live processes of a tree: descendants, and daemons that stayed in its session."""
    try:
        root = psutil.Process(pid)
        found = {root.pid: root, **{child.pid: child for child in root.children(recursive=True)}}
    except psutil.NoSuchProcess:
        return []
    found |= {each.pid: each for each in _of_session(pid)}
    return list(found.values())


def cpu_s(processes: Sequence[psutil.Process]) -> dict[int, float]:
    """By process id, the CPU seconds, user and system, used so far, with those of children that were waited for."""
    found = {}
    for process in processes:
        try:
            # After the command's closing bracket: state is field 3, utime, stime, cutime and cstime are 14 to 17.
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        found[process.pid] = sum(map(int, fields[11:15])) * _TICK_S
    return found


def label(process: psutil.Process) -> str:
    """What a process is, in a word or two: its Python module or script, or its program."""
    try:
        command = process.cmdline()
    except psutil.NoSuchProcess:
        return "ended"
    if "-m" in command[:-1]:
        return command[command.index("-m") + 1]
    return Path(command[0]).name if command else "ended"


def rss_mib(processes: Sequence[psutil.Process]) -> float:
    """Resident memory; what processes share is counted once each."""
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 2**20


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _of_session(session: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found
