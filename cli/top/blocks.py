"""The blocks of the dashboard: each a pure function of what was looked at and of the columns it may use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from anabranch.cli.marks import ARM_MARKS, VERDICT_STYLES, bar
from anabranch.cli.numbers import duration, milliseconds, per_second, share
from anabranch.cli.palette import arm_colours
from anabranch.cli.splits import Split
from anabranch.cli.top.charts import bars, split_area, time_axis, whisker
from anabranch.cli.top.track import Track
from anabranch.cli.verdict_grid import Detail, cell, limit_short
from anabranch.cli.view_types import ArmState, ArmView, ExperimentView, VerdictView

_WITH_BARS = 100
_WITH_REASONS = 130
"""From this many columns on, every claim says its whole sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at an experiment.

    Attributes:
        view: The experiment, with request rates over the last seconds.
        splits: Its traffic split since the start.
    """

    view: ExperimentView
    splits: tuple[Split, ...]


def heading(text: str) -> Text:
    """The title of a block."""
    return Text(text, style="bold")


def split_block(look: Look, width: int, height: int) -> RenderableType:
    """The traffic split since the start, and who is which colour."""
    view = look.view
    names = [arm.name for arm in view.arms]
    colours = arm_colours(names)
    if view.elapsed_s is None or not look.splits:
        return Group(heading("TRAFFIC SPLIT"), Text("not started", style="dim"))
    area = split_area(look.splits, names, colours, max(view.elapsed_s, 1.0), width, height)
    return Group(
        heading("TRAFFIC SPLIT SINCE THE START"),
        *area,
        time_axis(width),
        *_legend(view.arms, colours, width),
    )


def _legend(arms: Sequence[ArmView], colours: Mapping[str, str], width: int) -> list[Text]:
    parts = [
        Text.assemble(("█ ", colours[arm.name]), f"{arm.name} {share(arm.weight)}") for arm in reversed(arms)
    ]
    lines: list[Text] = []
    for part in parts:
        if lines and lines[-1].cell_len + 3 + part.cell_len <= width:
            lines[-1] = Text.assemble(lines[-1], "   ", part)
        else:
            lines.append(part)
    return lines


def rates_block(look: Look, track: Track, width: int) -> RenderableType:
    """Requests a second of every variant, over the time that the dashboard has watched."""
    arms = look.view.arms
    names = _name_columns(arms, width)
    columns = max(8, width - names - 10)
    rates = {arm.name: track.rates(arm.name, columns) for arm in arms}
    most = max((rate for row in rates.values() for rate in row if rate is not None), default=0.0)
    colours = arm_colours([arm.name for arm in arms])
    watched = 0.0 if len(track.points) < 2 else track.points[-1].at_s - track.points[0].at_s
    lines = [
        Text.assemble(
            _name(arm, names),
            (bars(rates[arm.name], most), colours[arm.name]),
            f" {per_second(arm.requests_per_s):>7}/s",
            no_wrap=True,
        )
        for arm in arms
    ]
    return Group(
        heading(f"REQUESTS A SECOND, LAST {duration(watched)}, SCALE 0 TO {per_second(most)}"), *lines
    )


def posterior_block(look: Look, width: int) -> RenderableType:
    """Who is best, with what probability."""
    arms = [arm for arm in look.view.arms if arm.best_probability is not None]
    if not arms:
        why = (
            "no objective to be best at"
            if look.view.objective is None
            else "the experiment is over"
            if look.view.is_over
            else "no outcomes side by side yet"
        )
        return Group(heading("WHO IS BEST"), Text(why, style="dim"))
    colours = arm_colours([arm.name for arm in look.view.arms])
    names = _name_columns(look.view.arms, width)
    lines = [
        Text.assemble(
            _name(arm, names),
            (bar(arm.best_probability or 0.0, max(4, width - names - 8)), colours[arm.name]),
            f" {share(arm.best_probability):>6}",
            no_wrap=True,
        )
        for arm in arms
    ]
    note = "a posterior: it moves traffic, it proves nothing"
    return Group(
        heading(f"WHO IS BEST BY {look.view.objective.upper() if look.view.objective else ''}"),
        *lines,
        Text(note[:width], style="dim"),
    )


def latency_block(look: Look, width: int) -> RenderableType:
    """Every variant's p50, p95 and p99 with intervals that hold at all times of looking."""
    arms = [arm for arm in look.view.arms if arm.quantiles]
    if not arms:
        return Group(heading("LATENCY"), Text("no requests yet", style="dim"))
    ends = [
        end
        for arm in arms
        for each in arm.quantiles
        for end in (each.low_ms, each.estimate_ms, each.high_ms)
        if 0.0 < end < math.inf
    ]
    least, most = (min(ends) * 0.9, max(ends) * 1.1) if ends else (1.0, 1.0)
    colours = arm_colours([arm.name for arm in look.view.arms])
    names = _name_columns(arms, width)
    columns = max(10, width - names - 31)
    table: list[Text] = []
    for index, probability in enumerate((0.5, 0.95, 0.99)):
        for arm in arms:
            each = arm.quantiles[index]
            high = milliseconds(each.high_ms)
            table.append(
                Text.assemble(
                    (f"p{100 * probability:.0f} " if arm is arms[0] else "    ", "bold"),
                    _name(arm, names),
                    (
                        whisker(each.low_ms, each.estimate_ms, each.high_ms, least, most, columns),
                        colours[arm.name],
                    ),
                    f" {milliseconds(each.estimate_ms):>6}",
                    (f" [{milliseconds(each.low_ms)}, {high}]", "dim"),
                    no_wrap=True,
                )
            )
    return Group(heading("LATENCY, MS (LOGARITHMIC)"), *table)


def claims_block(look: Look, width: int) -> RenderableType:
    """Every metric of every candidate: how far its evidence is, and when it may decide."""
    candidates = [arm for arm in look.view.arms if arm.state is not ArmState.BASELINE]
    has_reasons = width >= _WITH_REASONS
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", width=width)
    for heading_of_column in ("CLAIM", "LIMIT", "ESTIMATE", "EVIDENCE"):
        table.add_column(heading_of_column, no_wrap=True, overflow="ellipsis")
    table.add_column("DECIDES IN", no_wrap=True, justify="right")
    if has_reasons:
        table.add_column("WHY", overflow="ellipsis", no_wrap=True, ratio=1)
    for arm in candidates:
        is_out = arm.state is ArmState.REMOVED
        table.add_row(Text(f"{ARM_MARKS[arm.state]} {arm.name}", style="dim" if is_out else "bold"))
        for verdict in arm.verdicts:
            # Of a candidate that left, only what made it leave is a claim still.
            if verdict.role == "signal" or (is_out and verdict.outcome != "FAIL"):
                continue
            row = [
                Text(f"  {verdict.metric}"),
                Text(limit_short(verdict)),
                Text(cell(verdict, Detail.INTERVAL), style=VERDICT_STYLES[verdict.outcome]),
                _evidence(verdict, 6 if width >= _WITH_BARS else 0),
                Text(_when(verdict)),
            ]
            table.add_row(*row, *([Text(verdict.reason)] if has_reasons else []))
    return Group(heading("CLAIMS"), table)


def _evidence(verdict: VerdictView, columns: int) -> Text:
    if verdict.outcome == "FAIL":
        against = f"{_multiple(verdict.evidence_against)} of {_multiple(verdict.evidence_against_needed)}"
        return Text(f"against {against}", style="red")
    done = f"{_multiple(verdict.evidence_for)} of {_multiple(verdict.evidence_for_needed)}"
    return Text(f"{bar(verdict.progress, columns)} {done}" if columns else done)


def _multiple(evidence: float) -> str:
    """Evidence in a few characters; what is beyond every need is only said to be much."""
    if evidence >= 9_999.5:
        return "10k+"
    return f"{evidence:,.0f}" if evidence >= 100 else f"{evidence:.3g}" if evidence >= 0.01 else "0"


def _when(verdict: VerdictView) -> str:
    if verdict.outcome in ("PASS", "FAIL"):
        return "decided"
    if verdict.expected_half_s is None:
        return "-"
    if verdict.expected_most_s is None:
        return f"~{duration(verdict.expected_half_s)}"
    return f"{duration(verdict.expected_half_s)}–{duration(verdict.expected_most_s)}"


def decides_in(view: ExperimentView) -> str:
    """When the last open claim of those that can be foreseen may be decided, in half and in nine of ten runs."""
    open_claims = [
        verdict
        for arm in view.arms
        if arm.state in (ArmState.LIVE, ArmState.WINNER)
        for verdict in arm.verdicts
        if verdict.expected_half_s is not None
    ]
    if not open_claims:
        return ""
    half = max(verdict.expected_half_s or 0.0 for verdict in open_claims)
    most = max(
        verdict.expected_half_s or 0.0 if verdict.expected_most_s is None else verdict.expected_most_s
        for verdict in open_claims
    )
    number = len(open_claims)
    claims = "1 open claim" if number == 1 else f"{number} open claims"
    return f"decides in about {duration(half)}, nine in ten times within {duration(most)} ({claims})"


def _name_columns(arms: Sequence[ArmView], width: int) -> int:
    return min(max((len(arm.name) for arm in arms), default=0) + 3, width // 3)


def _name(arm: ArmView, columns: int) -> Text:
    text = Text(f"{ARM_MARKS[arm.state]} {arm.name}", style="dim" if arm.state is ArmState.REMOVED else "")
    text.truncate(columns - 1, overflow="ellipsis")
    text.pad_right(columns - text.cell_len)
    return text
