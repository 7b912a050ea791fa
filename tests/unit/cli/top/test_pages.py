"""What every page looks like, at the sizes that people have."""

import math
from collections.abc import Callable

import pytest
from rich.console import Console, RenderableType

from anabranch.cli.decision_views import decision_views
from anabranch.cli.splits import Split, splits_of, weights_at
from anabranch.cli.top.blocks import Look, decides_in
from anabranch.cli.top.charts import bars, split_area, whisker
from anabranch.cli.top.pages import BLOCKS, Page, compose
from anabranch.cli.top.track import Track
from anabranch.cli.view_types import ExperimentView
from anabranch.store.port import StoredDecision, StoredExperiment

ViewOf = Callable[[str, float], ExperimentView]
Recorded = Callable[[str], tuple[StoredExperiment, list[StoredDecision]]]
Painted = Callable[[RenderableType, int, int], str]
NOW = {"mirroring": 12.0, "bandit": 140.0, "promoted": 201.0}


@pytest.fixture
def look_of(view_of: ViewOf, recorded: Recorded) -> Callable[[str], Look]:
    def make(name: str) -> Look:
        stored, decisions = recorded(name)
        view = view_of(name, stored.state.started_s + NOW[name])
        return Look(view=view, splits=splits_of(view, decision_views(decisions)))

    return make


@pytest.mark.parametrize("page", list(Page))
@pytest.mark.parametrize("size", [(80, 24), (100, 30), (160, 50), (60, 20)])
@pytest.mark.parametrize("name", sorted(NOW))
def test_no_page_is_wider_than_the_screen(
    page: Page, size: tuple[int, int], name: str, look_of: Callable[[str], Look], painted: Painted
) -> None:
    look, (width, height) = look_of(name), size
    columns = compose(page, look, Track(), look.view.decisions, width, height)
    assert sum(column.width for column in columns) <= width
    for column in columns:
        names = [block_name for block_name, _ in column.blocks]
        assert names == sorted(names, key=BLOCKS.index)
        for block_name, block in column.blocks:
            console = Console(width=width + 50, height=height, color_system=None)
            for line in console.render_lines(block, console.options.update(width=column.width), pad=False):
                assert sum(segment.cell_length for segment in line) <= column.width, block_name


@pytest.mark.parametrize("name", sorted(NOW))
def test_the_overview_fits_on_the_smallest_screen(
    name: str, look_of: Callable[[str], Look], painted: Painted
) -> None:
    look = look_of(name)
    (column,) = compose(Page.OVERVIEW, look, Track(), look.view.decisions, 77, 22)
    lines = sum(painted(block, 77, 100).count("\n") for _, block in column.blocks)
    assert lines <= 22


def test_the_pages_say_what_is_asked_of_a_dashboard(
    look_of: Callable[[str], Look], painted: Painted, golden: Callable[[str, str], None]
) -> None:
    look = look_of("bandit")
    shown = []
    for page in Page:
        shown.append(f"=== {page}")
        for column in compose(page, look, Track(), look.view.decisions, 157, 48):
            shown += [painted(block, column.width, 60) for _, block in column.blocks]
    golden("top.bandit.txt", "\n".join(shown))


def test_a_split_changes_where_a_decision_moved_the_weights(
    look_of: Callable[[str], Look], recorded: Recorded
) -> None:
    look = look_of("promoted")
    _, decisions = recorded("promoted")
    changes = [
        kept.decision for kept in decisions if any(a.change == "weights" for a in kept.decision.actions)
    ]
    assert [dict(split.weights) for split in look.splits[-len(changes) :]] == [
        dict(decision.weights) for decision in changes
    ]
    assert weights_at(look.splits, 0.0) == look.splits[0].weights
    assert weights_at(look.splits, 1e9) == look.splits[-1].weights
    assert weights_at((), 3.0) == {}


def test_every_arm_with_traffic_is_seen_in_the_area_and_the_levels_are_all_used() -> None:
    splits = (Split(0.0, {"a": 0.98, "b": 0.01, "c": 0.01}),)
    colours = {"a": "red", "b": "green", "c": "blue"}
    lines = split_area(splits, ["a", "b", "c"], colours, 10.0, width=4, height=5)
    styles = {str(span.style) for line in lines for span in line.spans}
    assert {word for style in styles for word in style.split() if word != "on"} == set(colours.values())
    assert [len(line.plain) for line in lines] == [4] * 5


def test_bars_show_nothing_zero_and_the_most() -> None:
    assert bars([None, 0.0, 1.0, 10.0], 10.0) == " ·▁█"
    assert bars([1.0], 0.0) == "·"


def test_an_interval_without_an_end_points_out_of_the_picture() -> None:
    assert whisker(1.0, 10.0, 100.0, 1.0, 100.0, 11) == "├────●────┤"
    assert whisker(2.0, 10.0, math.inf, 1.0, 100.0, 11).endswith("▸")
    assert whisker(0.0, 10.0, 20.0, 1.0, 100.0, 11).startswith("◂")


def test_what_is_expected_is_said_while_something_is_open(look_of: Callable[[str], Look]) -> None:
    assert decides_in(look_of("promoted").view) == ""
    assert decides_in(look_of("mirroring").view).startswith("decides in about")
