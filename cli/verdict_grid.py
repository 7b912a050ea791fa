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
    """How much a cell says."""

    MARK = 0
    ESTIMATE = 1
    INTERVAL = 2


_GAP = 2
_UNITS = {Unit.MS: " ms", Unit.SHARE: "%", Unit.PLAIN: ""}


def verdict_grid(arms: Sequence[ArmView], width: int, name_width: int) -> Table:
    """One row a candidate, one column a metric, two lines of header: the metric and its limit.

    Args:
        arms: Candidates, all with the same metrics.
        width: Columns of the screen.
        name_width: Columns for the names.
    """
    metrics = len(arms[0].verdicts) if arms else 0
    details = choose_details(arms, width - name_width)
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim", show_header=True)
    table.add_column("VERDICTS\n", width=name_width - _GAP, no_wrap=True, overflow="ellipsis")
    for index in range(metrics):
        verdict = arms[0].verdicts[index]
        table.add_column(
            f"{heading(verdict)}\n{limit_short(verdict)}",
            no_wrap=True,
            overflow="ellipsis",
            max_width=max(_width(arms, index, details[index]), 1),
        )
    for arm in arms:
        style = ARM_STYLES[arm.state]
        cells = [
            Text(cell(arm.verdicts[index], details[index]), style=_cell_style(arm, arm.verdicts[index]))
            for index in range(metrics)
        ]
        table.add_row(Text(f"{ARM_MARKS[arm.state]} {arm.name}", style=style), *cells)
    return table


def heading(verdict: VerdictView) -> str:
    """The metric's name, with its quantile where it has one."""
    return verdict.metric if verdict.statistic == "mean" else f"{verdict.metric} {verdict.statistic}"


def limit_short(verdict: VerdictView) -> str:
    """The limit in a few characters: `≥ 99%`, `≤ 50 ms`, `margin 1%`, `better`."""
    unit = _UNITS[verdict.unit]
    if verdict.limit_kind is Limit.BETTER:
        return "better" + (f", {unit.strip()}" if unit else "")
    if verdict.limit_value is None:
        return unit.strip()
    number = (
        f"{100 * verdict.limit_value:.4g}" if verdict.unit is Unit.SHARE else f"{verdict.limit_value:.4g}"
    )
    sign = {Limit.MINIMUM: "≥ ", Limit.MAXIMUM: "≤ ", Limit.MARGIN: "margin "}[verdict.limit_kind]
    return f"{sign}{number}{unit}"


def cell(verdict: VerdictView, detail: Detail) -> str:
    """A verdict as its mark, estimate and interval, without the unit."""
    mark = "·" if verdict.role == "signal" else VERDICT_MARKS[verdict.outcome]
    if detail is Detail.MARK:
        return mark
    if verdict.estimate is None:
        return f"{mark} -"
    text = f"{mark} {bare(verdict.unit, verdict.estimate, is_difference=verdict.is_difference)}"
    if detail is Detail.INTERVAL and verdict.low is not None and verdict.high is not None:
        text += f" {interval(verdict.unit, verdict.low, verdict.high, is_difference=verdict.is_difference)}"
    return text


def choose_details(arms: Sequence[ArmView], space: int) -> list[Detail]:
    """By metric, how much its cells say: estimates before intervals, the metrics people decide by first."""
    metrics = len(arms[0].verdicts) if arms else 0
    details = [Detail.MARK] * metrics
    order = sorted(range(metrics), key=lambda index: _rank(arms[0].verdicts[index]))
    for detail in (Detail.ESTIMATE, Detail.INTERVAL):
        for index in order:
            tried = [*details[:index], detail, *details[index + 1 :]]
            if sum(_width(arms, place, tried[place]) + _GAP for place in range(metrics)) - _GAP <= space:
                details = tried
    return details


def _rank(verdict: VerdictView) -> int:
    if verdict.role == "signal":
        return 3
    if verdict.source.startswith("mirror.") or verdict.is_difference:
        return 0 if verdict.source != "error" else 2
    return 1


def _width(arms: Sequence[ArmView], index: int, detail: Detail) -> int:
    cells = max((len(cell(arm.verdicts[index], detail)) for arm in arms), default=0)
    verdict = arms[0].verdicts[index]
    return max(cells, len(heading(verdict)), len(limit_short(verdict)))


def _cell_style(arm: ArmView, verdict: VerdictView) -> str:
    style = VERDICT_STYLES[verdict.outcome]
    return "dim" if arm.state is ArmState.REMOVED and verdict.outcome != "FAIL" else style
