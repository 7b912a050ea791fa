import io
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from rich.console import Console

from anabranch.cli.clock import Clock
from anabranch.cli.live import RATE_WINDOW_S, LiveDashboard, watch
from anabranch.cli.view_types import ExperimentView

ViewOf = Callable[[str, float], ExperimentView]


def pipe() -> Console:
    return Console(file=io.StringIO(), width=1_000, color_system=None)


def screen() -> Console:
    return Console(file=io.StringIO(), width=80, height=24, force_terminal=True, color_system=None)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def looks(*views: ExperimentView) -> Callable[[], ExperimentView]:
    given: Iterator[ExperimentView] = iter(views)
    return lambda: next(given)


def test_a_pipe_gets_each_decision_once(view_of: ViewOf, clock: Clock) -> None:
    early, late = view_of("mirroring", 12.0), view_of("bandit", 140.0)
    console = pipe()
    watch(
        looks(early, early, late, replace(late, is_over=True)),
        until=lambda view: view.is_over,
        console=console,
        clock=clock,
    )
    lines = written(console).splitlines()
    assert lines[0] == "experiment minilm-int8 of model minilm: Progressing, for 12s"
    assert lines[1] == "+0s #1 Progressing phase: started with 3 candidates against onnx-fp32"
    assert len(lines) == len(set(lines))
    assert (
        lines[-1]
        == "+2m01s #12 Progressing weights: onnx-fp32 47.5%, onnx-int8-dynamic 47.5%, onnx-mixed 5.0%"
    )
    assert not any("\x1b" in line for line in lines)


def test_a_pipe_gets_the_decisions_of_the_current_spec_version(view_of: ViewOf) -> None:
    view = view_of("mirroring", 12.0)
    mine = [replace(decision, spec_version=2) for decision in view.decisions]
    console = pipe()
    LiveDashboard(console).show(replace(view, spec_version=2, decisions=(*view.decisions, *mine)))
    lines = written(console).splitlines()
    assert lines[1] == "1 earlier version: see `anabranch history minilm-int8`"
    assert sum(line.startswith("+0s #1 ") for line in lines) == 1


def test_a_pipe_gets_whole_reasons(view_of: ViewOf) -> None:
    console = pipe()
    LiveDashboard(console).show(view_of("mirroring", 12.0))
    assert "fails (at least 95.00 %; evidence against" in written(console)


def test_a_terminal_is_redrawn_and_keeps_the_last_screen(view_of: ViewOf, clock: Clock) -> None:
    console = screen()
    watch(
        looks(view_of("bandit", 140.0), view_of("promoted", 300.0)),
        until=lambda view: view.is_over,
        console=console,
        clock=clock,
    )
    text = written(console)
    assert text.index("● Progressing") < text.index("★ Promoted")
    assert "\x1b[2K" in text  # the first screen is erased
    assert text.rstrip("\x1b[?25h\n").endswith("onnx-int8-dynamic is the new baseline of minilm")


def test_watching_inside_the_context_takes_the_terminal_once(view_of: ViewOf, clock: Clock) -> None:
    console = screen()
    with LiveDashboard(console) as dashboard:
        dashboard.watch(looks(view_of("bandit", 140.0)), until=lambda _: True, clock=clock)
        dashboard.show(view_of("promoted", 300.0))
    assert "★ Promoted" in written(console)
    assert written(console).count("\x1b[?25l") == 1


def test_it_waits_between_looks_and_answers_the_last_view(view_of: ViewOf) -> None:
    class Waits:
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def now(self) -> float:
            return 0.0

        def wait(self, seconds: float) -> None:
            self.seconds.append(seconds)

    waits = Waits()
    views = [view_of("bandit", 140.0 + index) for index in range(3)]
    last = watch(
        looks(*views), until=lambda view: view.at_s == 142.0, refresh_s=0.5, console=pipe(), clock=waits
    )
    assert last.at_s == 142.0
    assert waits.seconds == [0.5, 0.5]


def test_request_rates_are_of_the_last_seconds(view_of: ViewOf) -> None:
    begin = view_of("bandit", 140.0)
    dashboard = LiveDashboard(pipe())
    dashboard.show(begin)
    served = begin.arms[0].requests
    for second in range(1, 31):
        rate = 10 if second <= 15 else 100
        served += rate
        arms = (replace(begin.arms[0], requests=served), *begin.arms[1:])
        shown = dashboard.show(replace(begin, at_s=140.0 + second, arms=arms))
        if second in (5, 15):
            assert shown.arms[0].requests_per_s == pytest.approx(10.0)
    assert RATE_WINDOW_S <= 14
    assert shown.arms[0].requests_per_s == pytest.approx(100.0)
