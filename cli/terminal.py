"""What a command talks through: results on stdout, everything else on stderr, colours only where people look."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from anabranch.cli.clock import Clock, SystemClock

PIPE_WIDTH = 1_000
"""Columns of an output that is no terminal: lines there are never wrapped, so that grep finds whole sentences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """Where a command writes, who runs it, and its clock.

    Attributes:
        out: Results.
        err: What happened, what to do next, errors.
        actor: The user of the operating system, for the audit log.
    """

    out: Console
    err: Console
    clock: Clock
    actor: str

    def say(self, text: str) -> None:
        """A result, as it is."""
        self.out.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, picture: RenderableType) -> None:
        """A result that is drawn, such as a table; a pipe gets it without the blanks at the ends of lines."""
        if self.out.is_terminal:
            self.out.print(picture)
            return
        with self.out.capture() as captured:
            self.out.print(picture)
        self.say("\n".join(line.rstrip() for line in captured.get().splitlines()))

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """A sign of life while something takes longer than people like to wait; nothing where nobody looks."""
        if not self.err.is_terminal:
            yield
            return
        with self.err.status(Text(what, style="dim"), spinner="dots"):
            yield

    def note(self, text: str, style: str = "dim") -> None:
        """What happened or what to do next."""
        self.err.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def system_terminal() -> Terminal:
    """The terminal the process was started from."""
    return Terminal(out=_console(), err=_console(stderr=True), clock=SystemClock(), actor=system_user())


def terminal_of(context: typer.Context) -> Terminal:
    """The terminal of a running command; the embedding program (or a test) may have put its own there."""
    given = context.find_root().obj
    if isinstance(given, Terminal):
        return given
    made = system_terminal()
    context.find_root().obj = made
    return made


def system_user() -> str:
    """The name of the user, by the process's user id: an environment variable could claim another."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid-{os.getuid()}"


def _console(*, stderr: bool = False) -> Console:
    # Rich honours NO_COLOR, FORCE_COLOR, TERM and COLUMNS by itself.
    # Text is shown as it is: `anabranch[torch]` is no markup, and neither is what a person called a variant.
    console = Console(stderr=stderr, highlight=False, emoji=False, markup=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    return console
