"""The example program, against a port whose controller the test is."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[3]


def test_the_example_runs_an_experiment_to_its_end(start: Callable[..., Any]) -> None:
    bench = start()
    program = [sys.executable, str(REPOSITORY / "examples" / "control.py"), bench.address]
    process = subprocess.Popen(
        [*program, str(REPOSITORY / "examples" / "own-model.yaml"), "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    pause = threading.Event()
    while process.poll() is None:
        bench.tick()
        pause.wait(0.05)
    assert process.stdout is not None
    said = process.stdout.read()
    assert process.returncode == 0, said
    assert "quadrants-int8: created, as anonymous ipv4:127.0.0.1" in said
    assert "Progressing, step 1 of" in said
    assert "not over after 2 s: aborted by anonymous" in said
    assert "all recomputed: True" in said
