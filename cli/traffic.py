"""Requests by model and class of priority: now, against the class's target, and in the next quarter of an hour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.cli.numbers import duration, milliseconds, per_second, share
from anabranch.router.classes import TARGET_SHARE, targets

if TYPE_CHECKING:
    from anabranch.router.forecast.outlook import Outlook
    from anabranch.store.port import Store

_WEEKS_S: Final = 28 * 86_400.0
_GAP: Final = 2
_NO_HISTORY: Final = "too short"


def load_traffic(store: Store, now_s: float) -> list[Outlook]:
    """How every model and class does now, over all servers of the store."""
    from anabranch.router.forecast.outlook import SHOWN_S, traffic

    # One stretch more than the hour: a request counts to the stretch in which it ended.
    return traffic(store.volumes.load(now_s - SHOWN_S - 300.0), now_s, _targets(store))


def load_forecast(store: Store, now_s: float) -> list[Outlook]:
    """The same with what is expected.

    Raises:
        CommandFailed: The extra `forecast` is not installed.
    """
    from anabranch.router.forecast.model import ForecastUnavailable
    from anabranch.router.forecast.outlook import outlook

    try:
        return outlook(store.volumes.load(now_s - _WEEKS_S), now_s, _targets(store))
    except ForecastUnavailable as error:
        message, _, advice = str(error).partition(": ")
        raise CommandFailed(ExitCode.BAD_INPUT, message, advice) from error


def classes_table(rows: Sequence[Outlook], *, with_forecast: bool) -> Table:
    """One row a model and class."""
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim")
    for heading in ("MODEL", "CLASS"):
        table.add_column(heading, no_wrap=True)
    columns = ["REQ/S", "P99 TARGET", "WITHIN (1 H)"]
    columns += ["NEXT 15 MIN", "AT MOST (90%)", "KNOWS", "HISTORY"] if with_forecast else []
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        cells = [per_second(row.now), f"{milliseconds(row.target_ms)} ms", _within(row)]
        if with_forecast:
            cells += [
                _NO_HISTORY if row.mean is None else per_second(row.mean),
                per_second(row.high),
                row.basis or "-",
                duration(row.history_s),
            ]
        table.add_row(row.model, row.level, *cells)
    return table


def _within(row: Outlook) -> Text | str:
    if row.within is None:
        return "-"
    return Text(share(row.within), style="green" if row.within >= TARGET_SHARE else "red")


def _targets(store: Store) -> dict[str, float]:
    catalog = store.ledger.catalog()
    return targets({} if catalog is None else catalog.class_targets_ms)
