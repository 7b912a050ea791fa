"""The grid of verdicts, candidates by metrics, with as much in every cell as the width allows."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from rich.table import Table
from rich.text import Text

from anabranch.cli.marks import ARM_MARKS, ARM_STYLES, VERDICT_MARKS, VERDICT_STYLES
from anabranch.cli.numbers import bare, interval
from anabranch.cli.view_types import ArmState, ArmView, Limit, Unit, VerdictView


class Detail(IntEnum):
    """How much a metric's cells say."""

    HIDDEN = 0
    MARK = 1
    ESTIMATE = 2
    INTERVAL = 3


_GAP = 2
_SIGNAL = 3
_UNITS = {Unit.MS: " ms", Unit.SHARE: "%", Unit.PLAIN: "", Unit.PER_1K: "/1k"}


def verdict_grid(arms: Sequence[ArmView], width: int, name_width: int) -> Table:
    """One row a candidate, one column a metric, two lines of header: the metric and its limit.

    Args:
        arms: Candidates, all with the same metrics.
        width: Columns of the screen.
        name_width: Columns for the names.
    """
    details = choose_details(arms, width - name_width)
    shown = [index for index, detail in enumerate(details) if detail is not Detail.HIDDEN]
    hidden = len(details) - len(shown)
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim", show_header=True)
    left_out = f"({hidden} not shown)" if hidden else ""
    table.add_column(f"VERDICTS\n{left_out}", width=name_width - _GAP, no_wrap=True, overflow="ellipsis")
    for index in shown:
        verdict = arms[0].verdicts[index]
        table.add_column(
            f"{verdict.metric}\n{limit_short(verdict)}",
            no_wrap=True,
            overflow="ellipsis",
            max_width=_width(arms, index, details[index]),
        )
    for arm in arms:
        cells = [
            Text(cell(arm.verdicts[index], details[index]), style=_cell_style(arm, arm.verdicts[index]))
            for index in shown
        ]
        table.add_row(Text(f"{ARM_MARKS[arm.state]} {arm.name}", style=ARM_STYLES[arm.state]), *cells)
    return table


def limit_short(verdict: VerdictView) -> str:
    """The limit in a few characters: `≥ 99%`, `p99 ≤ 50 ms`, `margin 1%`; the unit when there is none."""
    unit = _UNITS[verdict.unit]
    quantile = "" if verdict.statistic == "mean" else f"{verdict.statistic} "
    if verdict.limit_value is None:
        return f"{quantile}{unit.strip()}".strip()
    number = (
        f"{100 * verdict.limit_value:.4g}" if verdict.unit is Unit.SHARE else f"{verdict.limit_value:.4g}"
    )
    sign = {Limit.MINIMUM: "≥ ", Limit.MAXIMUM: "≤ ", Limit.MARGIN: "margin "}[verdict.limit_kind]
    return f"{quantile}{sign}{number}{unit}"


def cell(verdict: VerdictView, detail: Detail) -> str:
    """A verdict as its mark, estimate and interval, without the unit."""
    mark = "·" if verdict.role == "signal" else VERDICT_MARKS[verdict.outcome]
    if detail is Detail.MARK:
        return mark
    if verdict.estimate is None:
        return f"{mark} -"
    text = f"{mark} {bare(verdict.unit, verdict.estimate, is_difference=verdict.is_difference)}"
    if detail is Detail.INTERVAL and verdict.low is not None and verdict.high is not None:
        ends = interval(verdict.unit, verdict.low, verdict.high, is_difference=verdict.is_difference)
        text += f" {ends.replace(', ', ',')}"
    return text


def choose_details(arms: Sequence[ArmView], space: int) -> list[Detail]:
    """By metric, how much its cells say.

    Every metric that fits is shown, the ones that people decide by with their intervals; shown-only metrics give
    way to those intervals.
    """
    metrics = range(len(arms[0].verdicts)) if arms else range(0)
    ranks = [_rank(arms[0].verdicts[index]) for index in metrics]
    full = _fitted(arms, ranks, list(metrics), space)
    judged = [index for index in metrics if ranks[index] < _SIGNAL]
    if len(judged) == len(metrics) or all(
        full[index] is Detail.INTERVAL for index in judged if ranks[index] == 0
    ):
        return full
    return _fitted(arms, ranks, judged, space)


def _fitted(arms: Sequence[ArmView], ranks: Sequence[int], wanted: list[int], space: int) -> list[Detail]:
    order = sorted(wanted, key=lambda index: ranks[index])
    details = [Detail.HIDDEN] * len(ranks)
    for detail in (Detail.MARK, Detail.ESTIMATE, Detail.INTERVAL):
        for index in order:
            if details[index] != detail - 1:
                continue
            tried = [*details[:index], detail, *details[index + 1 :]]
            widths = [
                _width(arms, place, kind) for place, kind in enumerate(tried) if kind is not Detail.HIDDEN
            ]
            if sum(widths) + _GAP * (len(widths) - 1) <= space:
                details = tried
    return details


def _rank(verdict: VerdictView) -> int:
    if verdict.role == "signal":
        return _SIGNAL
    if verdict.source.startswith("mirror.") or verdict.is_difference:
        return 0 if verdict.source != "error" else 2
    return 1


def _width(arms: Sequence[ArmView], index: int, detail: Detail) -> int:
    cells = max((len(cell(arm.verdicts[index], detail)) for arm in arms), default=0)
    verdict = arms[0].verdicts[index]
    return max(cells, len(verdict.metric), len(limit_short(verdict)), 1)


def _cell_style(arm: ArmView, verdict: VerdictView) -> str:
    style = VERDICT_STYLES[verdict.outcome]
    return "dim" if arm.state is ArmState.REMOVED and verdict.outcome != "FAIL" else style
