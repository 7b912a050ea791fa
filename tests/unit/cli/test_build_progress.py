import io

import pytest
from rich.console import Console

from anabranch.cli.build_progress import shown_progress
from anabranch.cli.clock import SystemClock
from anabranch.cli.terminal import Terminal


def _terminal(*, is_screen: bool) -> tuple[Terminal, io.StringIO]:
    written = io.StringIO()
    console = Console(file=written, force_terminal=is_screen, width=60, highlight=False)
    return Terminal(out=console, err=console, clock=SystemClock(), actor="ada"), written


def test_a_log_gets_the_lines_and_nothing_else() -> None:
    terminal, written = _terminal(is_screen=False)
    with shown_progress(terminal) as tell:
        tell("build onnx-fp32")
        tell("measure onnx-fp32")
    assert written.getvalue() == "build onnx-fp32\nmeasure onnx-fp32\n"


def test_a_screen_keeps_every_line_and_shows_the_time_of_the_current_part() -> None:
    terminal, written = _terminal(is_screen=True)
    with shown_progress(terminal) as tell:
        tell("build onnx-fp32")
        tell("gate onnx-int8: " + "x" * 100)
    shown = written.getvalue()
    assert "build onnx-fp32" in shown
    assert "x" * 100 in shown
    assert "0:00:00" in shown
    assert "…" in shown


def _build_and_fail(terminal: Terminal) -> None:
    with shown_progress(terminal) as tell:
        tell("build onnx-fp32")
        raise RuntimeError("broken")


def test_a_failure_ends_the_display() -> None:
    terminal, written = _terminal(is_screen=True)
    with pytest.raises(RuntimeError, match="broken"):
        _build_and_fail(terminal)
    # The cursor is shown again.
    assert "\x1b[?25h" in written.getvalue()
