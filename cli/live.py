"""Watch an experiment: a screen that redraws itself on a terminal, plain lines for what changed everywhere else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from anabranch.cli.clock import Clock, SystemClock
from anabranch.cli.dashboard import render
from anabranch.cli.numbers import duration
from anabranch.cli.story import current, earlier_versions, reason_of, telling
from anabranch.cli.view_types import ExperimentView
from anabranch.cli.views import with_rates

RATE_WINDOW_S = 10.0
"""Request rates are taken over about this long."""


class LiveDashboard:
    """Shows views of one experiment as they come.

    Use as a context manager and call `show`, or let `watch` do both; `watch` inside the context is fine too. On a terminal the last screen stays when
    it ends. Anywhere else, such as in the log of a CI job, only what changed is printed, one line a thing.

    Args:
        console: Where to draw.
        least_width: Columns that are drawn even on a narrower terminal.
    """

    def __init__(self, console: Console | None = None, *, least_width: int = 60) -> None:
        self._console = console or Console(highlight=False, emoji=False)
        self._least_width = least_width
        self._live: Live | None = None
        self._entered = 0
        self._looks: deque[ExperimentView] = deque()
        self._printed: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        """Take the terminal."""
        self._entered += 1
        if self._entered == 1 and self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the terminal back, with the last screen on it."""
        self._entered -= 1
        if self._entered == 0 and self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, view: ExperimentView) -> ExperimentView:
        """Draw a view, with request rates over the last seconds; answers what was drawn."""
        rated = self._rated(view)
        if self._live is not None:
            width = max(self._least_width, self._console.width)
            # The cursor rests on the line below.
            self._live.update(render(rated, width, self._console.height - 1), refresh=True)
        else:
            self._print_changes(rated)
        return rated

    def watch(
        self,
        load: Callable[[], ExperimentView],
        *,
        until: Callable[[ExperimentView], bool],
        refresh_s: float = 1.0,
        clock: Clock | None = None,
    ) -> ExperimentView:
        """Load and show until something is so; answers the last view.

        Args:
            load: Takes a look.
            until: Whether this view was the last one.
            refresh_s: Seconds between two looks.
            clock: What to wait by.
        """
        waiter = clock or SystemClock()
        with self:
            while True:
                view = self.show(load())
                if until(view):
                    return view
                waiter.wait(refresh_s)

    def _rated(self, view: ExperimentView) -> ExperimentView:
        while len(self._looks) > 1 and view.at_s - self._looks[1].at_s >= RATE_WINDOW_S:
            self._looks.popleft()
        rated = with_rates(view, self._looks[0]) if self._looks else view
        self._looks.append(view)
        return rated

    def _print_changes(self, view: ExperimentView) -> None:
        if self._printed is None:
            since = "not started" if view.elapsed_s is None else f"for {duration(view.elapsed_s)}"
            self._line(f"experiment {view.name} of model {view.model}: {view.phase}, {since}")
            if earlier := earlier_versions(view):
                self._line(earlier)
        for decision in current(view):
            place = (decision.spec_version, decision.number)
            if self._printed is not None and place <= self._printed:
                continue
            for action in telling(decision):
                self._line(
                    f"+{duration(decision.since_start_s)} #{decision.number} {decision.phase} "
                    f"{action.change}: {reason_of(action)}"
                )
        last = view.decisions[-1] if view.decisions else None
        self._printed = (0, 0) if last is None else (last.spec_version, last.number)

    def _line(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


def watch(
    load: Callable[[], ExperimentView],
    *,
    until: Callable[[ExperimentView], bool],
    refresh_s: float = 1.0,
    console: Console | None = None,
    clock: Clock | None = None,
) -> ExperimentView:
    """Watch one experiment on the terminal until something is so; answers the last view."""
    return LiveDashboard(console).watch(load, until=until, refresh_s=refresh_s, clock=clock)


__all__ = ["RATE_WINDOW_S", "LiveDashboard", "render", "watch"]
