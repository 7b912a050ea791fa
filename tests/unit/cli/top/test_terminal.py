"""`top` in a real terminal, as over SSH: how much it writes for a look that changes little, and what it leaves behind."""

import fcntl
import os
import pty
import select
import signal
import statistics
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Begin = Callable[..., None]
Shell = Any

GIVE_UP_S = 240.0
SILENCE_S = 0.15
"""Between two looks, of which one comes every half a second."""


def bursts(terminal: int, count: int) -> list[bytes]:
    """What is written, parted where nothing is for a while; the first burst is the first picture."""
    found: list[bytes] = []
    current = b""
    give_up = time.monotonic() + GIVE_UP_S
    while len(found) < count:
        assert time.monotonic() < give_up, f"only {len(found)} looks were seen"
        ready, _, _ = select.select([terminal], [], [], SILENCE_S)
        if ready:
            current += os.read(terminal, 1 << 16)
        elif current:
            found.append(current)
            current = b""
    return found


@pytest.mark.parametrize(
    ("columns", "rows", "most"),
    [(80, 24, 1_000), pytest.param(160, 50, 2_000, marks=pytest.mark.slow)],
)
def test_a_look_that_changes_little_writes_little(
    shell: Shell, live: Begin, columns: int, rows: int, most: int
) -> None:
    live(ticks=40)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(
        [Path(sys.executable).with_name("anabranch"), "top", "tiny", "--refresh", "0.5"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "ANABRANCH_STORE": shell.url, "TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(theirs)
    try:
        seen = bursts(ours, 20)
        picture = b"".join(seen[:8])
        assert b"tiny" in picture
        # The time that passes is told; what stands still is not drawn again.
        assert statistics.median(map(len, seen[8:])) < most
        os.write(ours, b"q")
        assert process.wait(GIVE_UP_S) == 0
        rest = b""
        while select.select([ours], [], [], SILENCE_S)[0]:
            try:
                rest += os.read(ours, 1 << 16)
            except OSError:
                break
        # The screen and the cursor that were there before come back.
        assert b"\x1b[?1049l" in rest
        assert b"\x1b[?25h" in rest
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait(GIVE_UP_S)
        os.close(ours)
