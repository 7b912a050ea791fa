import math
import xml.etree.ElementTree as ElementTree

import pytest

from anabranch.cli.plots.axes import Axis, log_ticks, round_ticks, time_ticks
from anabranch.cli.plots.over_time import Reading, readings_plot, shares_plot, split_plot
from anabranch.cli.splits import Split

NAMES = ["base", "<script>&"]
COLOURS = {"base": "#0072b2", "<script>&": "#e69f00"}
SPLITS = (Split(0.0, {"base": 1.0}), Split(30.0, {"base": 0.75, "<script>&": 0.25}))
READINGS = {
    "<script>&": [Reading(1.0, 0.5, -math.inf, math.inf), Reading(50.0, 0.4, 0.3, 0.5)],
    "base": [],
}


def drawn(width: float) -> list[str]:
    return [
        split_plot(SPLITS, NAMES, COLOURS, 60.0, width=width, title="a & b"),
        readings_plot(
            READINGS, COLOURS, 60.0, width=width, title="c", say=str, limit=0.2, limit_name="<limit>"
        ),
        shares_plot(
            [(0.0, {"base": 0.5}), (9.0, {"base": 1.0})], NAMES, COLOURS, 60.0, width=width, title="d"
        ),
    ]


@pytest.mark.parametrize("width", [350.0, 820.0])
def test_plots_are_well_formed_inside_their_sheet_and_say_in_words_what_they_show(width: float) -> None:
    for text in drawn(width):
        root = ElementTree.fromstring(text)  # our own text
        _, _, right, bottom = (float(end) for end in root.attrib["viewBox"].split())
        assert right == width
        kinds = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert {"title", "desc", "text"} <= kinds
        for element in root.iter():
            for x in ("x", "x1", "x2", "cx"):
                assert 0.0 <= float(element.attrib.get(x, 0.0)) <= right
            for y in ("y", "y1", "y2", "cy"):
                assert 0.0 <= float(element.attrib.get(y, 0.0)) <= bottom
            for pair in element.attrib.get("points", "").split():
                assert all(math.isfinite(float(part)) for part in pair.split(","))


def test_what_others_wrote_is_escaped() -> None:
    for text in drawn(820.0):
        assert "<script>" not in text


def test_a_share_of_a_quarter_is_a_quarter_of_the_height() -> None:
    root = ElementTree.fromstring(drawn(820.0)[0])  # our own text
    areas = [e for e in root.iter() if e.tag.endswith("rect") and e.attrib["fill"] == "#e69f00"]
    wholes = [e for e in root.iter() if e.tag.endswith("rect") and e.attrib["fill"] == "#0072b2"]
    # The first of each is in the legend.
    assert float(areas[1].attrib["height"]) / float(wholes[1].attrib["height"]) == pytest.approx(
        0.25, abs=0.01
    )


def test_ticks_are_round_and_inside() -> None:
    assert round_ticks(0.0, 1.0, 4) == pytest.approx([0.0, 0.5, 1.0])
    assert round_ticks(3.0, 3.0, 4) == [3.0]
    assert log_ticks(0.9, 60.0) == [1.0, 2.0, 5.0, 10.0, 20.0, 50.0]
    assert time_ticks(220.0, 4) == [0.0, 60.0, 120.0, 180.0]
    assert time_ticks(10 * 86_400.0, 5)[-1] == 10 * 86_400.0


def test_an_axis_keeps_what_is_outside_at_its_border() -> None:
    axis = Axis(1.0, 100.0, 0.0, 50.0, is_log=True)
    assert [axis.at(value) for value in (0.5, 1.0, 10.0, 1e9)] == pytest.approx([0.0, 0.0, 25.0, 50.0])
