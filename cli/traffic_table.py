"""The table of variants: who gets which share of the traffic, how fast, with how many errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from rich.table import Table
from rich.text import Text

from anabranch.cli.marks import ARM_MARKS, ARM_STYLES, bar
from anabranch.cli.numbers import count, milliseconds, per_second, rate, share
from anabranch.cli.view_types import ArmView

GAP = 2
_PERCENT = 6


@dataclass(frozen=True, slots=True)
class _Column:
    heading: str
    cell: Callable[[ArmView], str]


_RATE = _Column("REQ/S", lambda arm: per_second(arm.requests_per_s))
_P50 = _Column("P50 MS", lambda arm: milliseconds(arm.p50_ms))
_P95 = _Column("P95", lambda arm: milliseconds(arm.p95_ms))
_P99 = _Column("P99", lambda arm: milliseconds(arm.p99_ms))
_ERRORS = _Column("ERRORS", lambda arm: rate(arm.error_rate))
_REQUESTS = _Column("REQUESTS", lambda arm: count(arm.requests))
_MASKED = _Column("MASKED", lambda arm: count(arm.masked))
_PAIRS = _Column("PAIRS", lambda arm: count(arm.mirrored_pairs))

_BEST = _Column("BEST", lambda arm: share(arm.best_probability))

_FEW = (_RATE, _P50, _P95, _P99, _ERRORS)
_ALL = (*_FEW, _REQUESTS, _MASKED, _PAIRS)
_SOME = (*_FEW, _BEST)
_EVERY = (*_FEW, _BEST, _REQUESTS, _MASKED, _PAIRS)
# Width of the bar and the columns, the richest form first; the last is taken when nothing fits.
_FORMS = ((20, _ALL), (8, _ALL), (20, _FEW), (8, _FEW), (4, _FEW), (0, (_RATE, _P95, _P99)), (0, ()))
_FORMS_WITH_BEST = ((20, _EVERY), (8, _EVERY), (20, _SOME), (8, _SOME), (4, _SOME), *_FORMS)


def name_width(arms: Sequence[ArmView], width: int) -> int:
    """Columns for the names with mark and gap: what they need, within three tenths of the screen."""
    longest = max((len(arm.name) for arm in arms), default=0)
    return min(max(longest + 2, len("VERDICTS")) + GAP, 3 * width // 10)


def traffic_table(
    arms: Sequence[ArmView], width: int, names: int, colours: Mapping[str, str] = MappingProxyType({})
) -> Table:
    """One row a variant, with as many columns as fit.

    Args:
        arms: The variants.
        width: Columns of the screen.
        names: Columns for the names.
        colours: Of the bars, by variant; without, they look like the rest of the row.
    """
    forms = _FORMS_WITH_BEST if any(arm.best_probability is not None for arm in arms) else _FORMS
    bars, columns = next(
        (form for form in forms if names + _needed(arms, *form) <= width),
        _FORMS[-1],
    )
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("VARIANT", width=names - GAP, no_wrap=True, overflow="ellipsis")
    table.add_column("SHARE", width=bars + _PERCENT, no_wrap=True)
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    for arm in arms:
        style = ARM_STYLES[arm.state]
        table.add_row(
            Text(f"{ARM_MARKS[arm.state]} {arm.name}", style=style),
            Text.assemble(
                (bar(arm.weight, bars), colours.get(arm.name, style)),
                (f"{share(arm.weight):>{_PERCENT}}", style),
            ),
            *(
                Text(column.cell(arm), style="red" if column is _MASKED and arm.masked else style)
                for column in columns
            ),
        )
    return table


def _needed(arms: Sequence[ArmView], bars: int, columns: Sequence[_Column]) -> int:
    widths = [
        max(len(column.heading), *(len(column.cell(arm)) for arm in arms)) if arms else len(column.heading)
        for column in columns
    ]
    return bars + _PERCENT + sum(GAP + width for width in widths)
