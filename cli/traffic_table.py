"""The table of variants: who gets which share of the traffic, how fast, with how many errors."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from anabranch.cli.marks import ARM_MARKS, ARM_STYLES, bar
from anabranch.cli.numbers import count, milliseconds, per_second, rate, share
from anabranch.cli.view_types import ArmView

WIDE = 100
"""From this many columns on the table has its long form."""


def name_width(arms: Sequence[ArmView], width: int) -> int:
    """Columns for the names with mark and gap: what they need, within what the screen can spare."""
    longest = max((len(arm.name) for arm in arms), default=0)
    return min(longest + 4, 34 if width >= WIDE else 24)


def traffic_table(arms: Sequence[ArmView], width: int, names: int) -> Table:
    """One row a variant.

    Args:
        arms: The variants.
        width: Columns of the screen.
        names: Columns for the names.
    """
    wide = width >= WIDE
    bars = 20 if wide else 8
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("VARIANT", width=names - 2, no_wrap=True, overflow="ellipsis")
    table.add_column("SHARE", width=bars + 6, no_wrap=True)
    for heading in ["REQ/S", "P50 MS", "P95", "P99", "ERRORS"]:
        table.add_column(heading, justify="right", no_wrap=True)
    if wide:
        for heading in ["REQUESTS", "MASKED", "PAIRS"]:
            table.add_column(heading, justify="right", no_wrap=True)
    for arm in arms:
        style = ARM_STYLES[arm.state]
        cells = [
            Text(text, style=style)
            for text in (
                per_second(arm.requests_per_s),
                milliseconds(arm.p50_ms),
                milliseconds(arm.p95_ms),
                milliseconds(arm.p99_ms),
                rate(arm.error_rate),
            )
        ]
        if wide:
            cells += [
                Text(count(arm.requests), style=style),
                Text(count(arm.masked), style="red" if arm.masked else style),
                Text(count(arm.mirrored_pairs), style=style),
            ]
        table.add_row(
            Text(f"{ARM_MARKS[arm.state]} {arm.name}", style=style),
            Text(f"{bar(arm.weight, bars)}{share(arm.weight):>6}", style=style),
            *cells,
        )
    return table
