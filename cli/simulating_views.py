"""What `simulate` prints: one row a check, and a line that sums them up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from anabranch.cli.simulating import Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckView:
    """One check as it is printed.

    Attributes:
        ok: None when it was not run; the note says why.
        cell: What to seed with, beside the seed, to run it again.
    """

    row: str
    name: str
    value: float | None
    bound: float | None
    sense: str
    target: float
    ok: bool | None
    replications: int
    seed: int
    cell: str
    rivals: Mapping[str, float]
    note: str


def check_views(results: Sequence[Finished]) -> list[CheckView]:
    """All checks of finished cells."""
    return [
        CheckView(
            row=check.row,
            name=check.name,
            value=check.value,
            bound=check.bound,
            sense=check.sense.value,
            target=check.target,
            ok=check.ok,
            replications=check.replications,
            seed=one.seed,
            cell=one.cell,
            rivals=check.rivals,
            note=check.note,
        )
        for one in results
        for check in one.checks
    ]


def check_table(views: Sequence[CheckView]) -> Table:
    """The checks as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("ROW", "CHECK"):
        table.add_column(name, overflow="fold")
    for name in ("VALUE", "BOUND", "TARGET", "RUNS"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("RIVALS", overflow="fold")
    for view in views:
        table.add_row(
            view.row,
            view.name,
            figure(view.value),
            figure(view.bound),
            f"{'≤' if view.sense == 'at most' else '≥'} {figure(view.target)}",
            f"{view.replications:,}",
            _mark(view.ok),
            ", ".join(f"{name} {figure(value)}" for name, value in view.rivals.items()) or "-",
        )
    return table


def summary(views: Sequence[CheckView]) -> str:
    """How many checks hold, in one line."""
    failed = [view for view in views if view.ok is False]
    waiting = [view for view in views if view.ok is None]
    text = f"{sum(view.ok is True for view in views)} of {len(views)} checks hold"
    if failed:
        text += f"; {len(failed)} do not: " + "; ".join(f"{view.row} {view.name}" for view in failed)
    if waiting:
        text += f"; {len(waiting)} not run: " + "; ".join(f"{view.row} {view.name}" for view in waiting)
    return text


def figure(value: float | None) -> str:
    """A number in three significant digits; nothing that was measured is a dash."""
    if value is None:
        return "-"
    if math.isinf(value):
        return "∞"
    if value and abs(value) < 1e-4:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


def _mark(ok: bool | None) -> Text:
    if ok is None:
        return Text("not run", style="yellow")
    return Text("✓", style="green") if ok else Text("✗", style="bold red")
