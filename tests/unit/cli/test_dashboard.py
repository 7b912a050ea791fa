from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import RenderableType

from anabranch.cli.dashboard import choose_arms, render
from anabranch.cli.marks import bar
from anabranch.cli.story import shortened, telling
from anabranch.cli.verdict_grid import Detail, choose_details
from anabranch.cli.view_types import ActionView, ArmState, ExperimentView, RequestView

ViewOf = Callable[[str, float], ExperimentView]
Painted = Callable[[RenderableType, int, int], str]

MOMENTS = {"mirroring": 12.5, "bandit": 140.5, "promoted": 300.0}


def crowded(view: ExperimentView, candidates: int) -> ExperimentView:
    """The view with many candidates with long names, every other one removed."""
    arms = [
        replace(
            view.arms[1 + index % 3],
            name=f"onnx-int8-static-percentile-per-channel-{index}",
            state=ArmState.REMOVED if index % 2 else ArmState.LIVE,
        )
        for index in range(candidates)
    ]
    return replace(
        view, arms=(view.arms[0], *arms), requests=(RequestView(verb="pause", argument="", actor="ada"),)
    )


def test_decisions_of_earlier_spec_versions_are_left_to_the_history(
    view_of: ViewOf, painted: Painted
) -> None:
    view = view_of("mirroring", 12.5)
    mine = [replace(decision, spec_version=3) for decision in view.decisions]
    again = replace(view, spec_version=3, decisions=(*view.decisions, *mine))
    lines = painted(render(again, 120, 40), 120, 40).splitlines()
    assert sum("+0s  #1 " in line for line in lines) == 1
    assert "2 earlier versions: see `anabranch history minilm-int8`" in lines
    assert len(painted(render(again, 80, 24), 80, 24).splitlines()) <= 24


@pytest.mark.parametrize("moment", sorted(MOMENTS))
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_the_screen_looks_like_this(
    moment: str,
    width: int,
    height: int,
    view_of: ViewOf,
    painted: Painted,
    golden: Callable[[str, str], None],
) -> None:
    screen = painted(render(view_of(moment, MOMENTS[moment]), width, height), width, height)
    golden(f"{moment}.{width}x{height}.txt", screen)


@pytest.mark.parametrize("candidates", [1, 2, 5, 9, 30, 100])
@pytest.mark.parametrize(("width", "height"), [(60, 20), (80, 24), (100, 30), (120, 40), (200, 60)])
def test_any_number_of_variants_fits_every_screen(
    candidates: int, width: int, height: int, view_of: ViewOf, painted: Painted
) -> None:
    view = crowded(view_of("bandit", 140.5), candidates)
    lines = painted(render(view, width, height), 400, 400).splitlines()
    assert len(lines) <= height
    assert max(len(line) for line in lines) <= width


def test_variants_that_do_not_fit_are_counted(view_of: ViewOf, painted: Painted) -> None:
    screen = painted(render(crowded(view_of("bandit", 140.5), 30), 80, 24), 80, 24)
    assert "more: anabranch describe minilm-int8" in screen


def test_what_gives_way_first_is_removed_then_has_the_least_traffic(view_of: ViewOf) -> None:
    view = view_of("bandit", 140.5)
    shown, hidden = choose_arms(view.arms, 6)
    assert [arm.name for arm in shown] == ["onnx-fp32", "onnx-int8-dynamic", "onnx-mixed"]
    assert hidden == 1
    shown, hidden = choose_arms(view.arms, 4)
    assert [arm.name for arm in shown] == ["onnx-fp32", "onnx-int8-dynamic"]
    assert hidden == 2


def test_a_request_without_an_answer_is_shown(view_of: ViewOf, painted: Painted) -> None:
    view = view_of("bandit", 140.5)
    asked = replace(view, requests=(RequestView(verb="promote", argument="onnx-mixed", actor="ada"),))
    assert "asked    promote onnx-mixed by ada" in painted(render(asked, 80, 24), 80, 24)


def test_intervals_give_way_to_estimates_and_these_to_marks(view_of: ViewOf) -> None:
    arms = view_of("bandit", 140.5).arms[1:]
    every = [Detail.INTERVAL] * 5
    assert choose_details(arms, 200) == every
    # latency, fidelity, accuracy, errors, compute: the compared ones keep their intervals longest.
    assert choose_details(arms, 57) == [
        Detail.ESTIMATE,
        Detail.INTERVAL,
        Detail.INTERVAL,
        Detail.ESTIMATE,
        Detail.HIDDEN,
    ]
    assert choose_details(arms, 40)[1:3] == [Detail.ESTIMATE, Detail.ESTIMATE]
    assert choose_details(arms, 9)[:4].count(Detail.HIDDEN) == 3


def test_metrics_that_do_not_fit_are_counted(view_of: ViewOf, painted: Painted) -> None:
    assert "(1 not shown)" in painted(render(view_of("bandit", 140.5), 80, 24), 80, 24)
    assert "not shown" not in painted(render(view_of("bandit", 140.5), 120, 24), 120, 24)


@pytest.mark.parametrize(
    ("share", "drawn"),
    [
        (0.0, "        "),
        (0.001, "▏       "),
        (0.5, "████    "),
        (0.53, "████▎   "),
        (1.0, "████████"),
        (7.0, "████████"),
    ],
)
def test_a_bar_is_exact_to_an_eighth_and_shows_every_share(share: float, drawn: str) -> None:
    assert bar(share, 8) == drawn


def test_a_removal_tells_its_verdict_once(view_of: ViewOf) -> None:
    decision = view_of("bandit", 140.5).decisions[1]
    assert [action.change for action in decision.actions].count("verdict") == 2
    assert [action.change for action in telling(decision)] == ["verdict", "removed"]


def test_a_verdict_that_no_removal_repeats_is_told(view_of: ViewOf) -> None:
    decision = view_of("bandit", 140.5).decisions[1]
    passed = ActionView(change="verdict", variant="kl", reason="kl: errors 0 % holds")
    removed = ActionView(change="removed", variant="kl", reason="kl is removed: fidelity 80 % fails")
    assert telling(replace(decision, actions=(passed, removed))) == [passed, removed]


def test_of_weights_that_moved_in_a_row_the_last_are_shown(view_of: ViewOf, painted: Painted) -> None:
    screen = painted(render(view_of("bandit", 140.5), 120, 60), 120, 60)
    assert "#12 weights: onnx-fp32 47.5%" in screen
    assert "#11" not in screen
    assert "#10" not in screen
    assert "#9  onnx-int8-dynamic: latency" in screen


def test_a_reason_that_is_too_long_loses_its_numbers_in_brackets_first() -> None:
    assert shortened("fidelity 98 % holds (at least 95 %)", 40) == "fidelity 98 % holds (at least 95 %)"
    assert shortened("fidelity 98 % holds (at least 95 %)", 20) == "fidelity 98 % holds"
    assert shortened("fidelity 98 % holds (at least 95 %)", 10) == "fidelity …"
