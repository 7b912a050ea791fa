"""Which blocks a page shows, by the size of the screen: a pure function, so that every size can be tested and looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from rich.console import Group, RenderableType
from rich.text import Text

from anabranch.cli.dashboard import choose_arms, log_lines, notice_lines, step_lines, title_line
from anabranch.cli.palette import arm_colours
from anabranch.cli.story import current, earlier_versions
from anabranch.cli.top.blocks import (
    Look,
    claims_block,
    decides_in,
    heading,
    latency_block,
    posterior_block,
    rates_block,
    split_block,
)
from anabranch.cli.top.track import Track
from anabranch.cli.traffic_table import name_width, traffic_table
from anabranch.cli.verdict_grid import verdict_grid
from anabranch.cli.view_types import ArmState, DecisionView

WIDE = 130
TALL = 30
_GUTTER = 3


BLOCKS = (
    *("title", "steps", "traffic", "verdicts", "claims", "split"),
    *("notices", "expected", "posterior", "latency", "rates", "log"),
)
"""Every block by name, in the order in which all pages show them."""


class Page(StrEnum):
    """What of an experiment fills the screen."""

    OVERVIEW = "overview"
    TRAFFIC = "traffic"
    CLAIMS = "claims"
    LATENCY = "latency"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of blocks.

    Attributes:
        width: Columns of characters.
        blocks: By name, in order; a name stays with its block, so that only what changed is drawn.
    """

    width: int
    blocks: tuple[tuple[str, RenderableType], ...]


def compose(
    page: Page,
    look: Look,
    track: Track,
    decisions: Sequence[DecisionView],
    width: int,
    height: int,
) -> tuple[Column, ...]:
    """The columns of a page.

    Args:
        page: Which.
        look: At the experiment.
        track: What was seen before.
        decisions: The whole log of the run, for its page.
        width: Columns of the screen.
        height: Lines that may be used.
    """
    view = look.view
    title = ("title", title_line(view, width))
    match page:
        case Page.OVERVIEW if width >= WIDE and height >= TALL:
            return _wide(look, track, width, height)
        case Page.OVERVIEW:
            return (Column(width, (title, *_overview(look, width, height - 1))),)
        case Page.TRAFFIC:
            chart = max(4, min(24, height - 2 * len(view.arms) - 9))
            return (
                Column(
                    width,
                    (
                        title,
                        ("split", _spaced(split_block(look, width, chart))),
                        ("rates", _spaced(rates_block(look, track, width))),
                    ),
                ),
            )
        case Page.CLAIMS:
            return (
                Column(
                    width,
                    (
                        title,
                        ("claims", _spaced(claims_block(look, width))),
                        ("expected", _spaced(Text(decides_in(view), style="bold"))),
                        ("posterior", _spaced(posterior_block(look, min(width, 100)))),
                    ),
                ),
            )
        case Page.LATENCY:
            return (Column(width, (title, ("latency", _spaced(latency_block(look, width))))),)
        case Page.LOG:
            lines = log_lines(decisions, width, most=10_000)
            newest_first = Group(heading("DECISIONS, NEWEST FIRST"), *_entries_reversed(lines))
            return (Column(width, (title, ("log", _spaced(newest_first)))),)


def _wide(look: Look, track: Track, width: int, height: int) -> tuple[Column, ...]:
    right = max(50, width * 2 // 5)
    left = width - right - _GUTTER
    arms = look.view.arms
    quantiles = 3 * sum(bool(arm.quantiles) for arm in arms)
    best = sum(arm.best_probability is not None for arm in arms)
    # Titles, blanks, the axis and the legend of the other blocks.
    chart = max(4, min(16, height - quantiles - best - len(arms) - 13))
    return (
        Column(left, (("title", title_line(look.view, left)), *_overview(look, left, height - 1))),
        Column(
            right,
            (
                ("split", split_block(look, right, chart)),
                ("posterior", _spaced(posterior_block(look, right))),
                ("latency", _spaced(latency_block(look, right))),
                ("rates", _spaced(rates_block(look, track, right))),
            ),
        ),
    )


def _overview(look: Look, width: int, height: int) -> tuple[tuple[str, RenderableType], ...]:
    """Steps, variants, verdicts, what is waited for, and as much of the log as fits."""
    view = look.view
    steps = step_lines(view, width, tall=height >= TALL)
    expected = decides_in(view)
    notices = notice_lines(view, width, most=4 if height >= TALL else 2)
    space = height - len(steps) - len(notices) - bool(expected) - 6 - 3
    shown, hidden = choose_arms(view.arms, space)
    names = name_width(shown, width)
    colours = arm_colours([arm.name for arm in view.arms])
    candidates = [arm for arm in shown if arm.state is not ArmState.BASELINE]
    more = [Text(f"  and {hidden} more on the page of claims", style="dim")] if hidden else []
    blocks: list[tuple[str, RenderableType]] = [
        ("steps", Group(*steps)),
        ("traffic", _spaced(Group(traffic_table(shown, width, names, colours), *more))),
    ]
    used = len(steps) + 2 + len(shown) + len(more)
    if candidates:
        blocks.append(("verdicts", _spaced(verdict_grid(candidates, width, names))))
        used += 3 + len(candidates)
    if notices:
        blocks.append(("notices", Group(*notices)))
        used += len(notices)
    if expected:
        clipped = Text(expected, style="bold", no_wrap=True)
        clipped.truncate(width, overflow="ellipsis")
        blocks.append(("expected", clipped))
        used += 1
    earlier = earlier_versions(view)
    log = log_lines(current(view), width, height - used - 1 - bool(earlier))
    if log:
        head = [Text(earlier, style="dim")] if earlier else []
        blocks.append(("log", _spaced(Group(*head, *log))))
    return tuple(blocks)


def _spaced(block: RenderableType) -> RenderableType:
    return Group(Text(), block)


def _entries_reversed(lines: Sequence[Text]) -> list[Text]:
    """Decisions in reverse, the lines of one decision in their order."""
    entries: list[list[Text]] = []
    for line in lines:
        if entries and line.plain.startswith(" " * 10):
            entries[-1].append(line)
        else:
            entries.append([line])
    return [line for entry in reversed(entries) for line in entry]
