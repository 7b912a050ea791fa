"""The lines of a long build as they come: plain in a log, with a spinner and the time so far where a person looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from anabranch.cli.terminal import Terminal


@contextmanager
def shown_progress(terminal: Terminal) -> Iterator[Callable[[str], None]]:
    """Yields what takes a line before each part of the work.

    On a terminal the current part stands at the bottom, with its own time; finished parts stay above it.
    """
    if not terminal.err.is_terminal:
        yield terminal.note
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=terminal.err, transient=True) as progress:
        current = progress.add_task("prepare", total=None)

        def tell(line: str) -> None:
            # Long lines would wrap, and the display could not be redrawn in place.
            short = line if len(line) < terminal.err.width - 16 else line[: terminal.err.width - 17] + "…"
            terminal.note(line)
            progress.reset(current, description=short)

        yield tell
