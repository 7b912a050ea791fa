"""The forecast itself: the level of now by exponential smoothing, and the change that this time of the day or week brings.

The next minutes are mostly like the last ones, so the level counts most. It is statsforecast's AutoETS without a trend, with the
interval around it. What volumes did from the same time on, on the days before, is added to it: changes and not levels, for a level
of last week says little of this one's. All of it is in logarithms, as volumes grow and vary by factors.

Source: Hyndman, Khandakar, "Automatic time series forecasting", JSS 27(3), 2008, for the choice of the smoothing's form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from anabranch.store.volume_port import SLOT_S

if TYPE_CHECKING:
    from anabranch.router.forecast.series import Rates

HORIZON_S: Final = 900.0
AHEAD: Final = int(HORIZON_S // SLOT_S) + 1
"""Stretches that are forecast: the one that goes on now, and those that begin within the horizon after it."""
LEAST: Final = 12
"""Stretches without which nothing is forecast: an hour."""
DAY: Final = int(86_400 // SLOT_S)
WEEK: Final = 7 * DAY
MOST: Final = 4 * WEEK
"""Stretches that are read at most; what is older tells little of today."""
COVERAGE: Final = 90
"""Share of the cases, in per cent, that the interval is made for: a one-sided limit is at its upper end."""
_BEFORE: Final = 1
_LEAST_DAYS: Final = 2
_LEAST_RATE: Final = 1.0 / SLOT_S
# Two-sided limits that leave a tenth above.
_LEVEL: Final = 2 * COVERAGE - 100


class ForecastUnavailable(Exception):
    """The forecasting library is not installed; the message says how to get it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What is expected of the next stretches.

    Attributes:
        mean: Requests a second, by stretch.
        high: What they stay below in nine of ten cases.
        basis: What habit was taken out: `week`, `day` or `level` for none.
    """

    mean: tuple[float, ...]
    high: tuple[float, ...]
    basis: str


def predict(rates: Rates, ahead: int = AHEAD) -> Prediction | None:
    """Forecast one series.

    Args:
        rates: Requests a second, by stretch, the oldest first.
        ahead: How many stretches.

    Returns:
        None where there are less than `LEAST` stretches.

    Raises:
        ForecastUnavailable: The extra `forecast` is not installed.
    """
    if len(rates) < LEAST:
        return None
    auto_ets = _auto_ets()
    logs = np.log(np.maximum(rates[-MOST:], 0.0) + _LEAST_RATE)
    # The habit brings the change; the smoothing, without a trend, the level, and how far it errs.
    told = auto_ets(season_length=1, model="ZNN").forecast(y=logs[-DAY:], h=ahead, level=[_LEVEL])
    habit, basis = _habit(logs, ahead)

    def rate(of: Rates) -> tuple[float, ...]:
        return tuple(np.maximum(np.exp(of + habit) - _LEAST_RATE, 0.0).tolist())

    return Prediction(
        mean=rate(np.asarray(told["mean"])), high=rate(np.asarray(told[f"hi-{_LEVEL}"])), basis=basis
    )


def _habit(logs: Rates, ahead: int) -> tuple[Rates, str]:
    """How volumes changed from this time of the day on before, in logarithms, by stretches ahead; and what is known of it.

    Every earlier day says something; days of the same name say by how much theirs differ. Either counts as far as it is more
    than chance: where days do not agree, nothing is foreseen.
    """
    days = (len(logs) - _BEFORE) // DAY
    if days < _LEAST_DAYS:
        return np.zeros(ahead), "level"
    end = len(logs)
    changes = np.array(
        [
            logs[end - day * DAY : end - day * DAY + ahead]
            - logs[end - day * DAY - _BEFORE : end - day * DAY].mean()
            for day in range(1, days + 1)
        ]
    )
    habit = _beyond_chance(changes)
    if days < 2 * 7:
        return habit, "day"
    return habit + _beyond_chance(changes[6::7] - habit), "week"


def _beyond_chance(changes: Rates) -> Rates:
    """The mean change by stretch, shrunk to nothing by the share of it that chance explains (James and Stein's rule)."""
    mean = changes.mean(axis=0)
    by_chance = changes.var(axis=0, ddof=1) / len(changes)
    kept = np.maximum(0.0, 1.0 - by_chance / np.maximum(mean**2, 1e-12))
    return np.asarray(mean * kept)


def _auto_ets() -> type:
    try:
        # Imported here: it brings pandas, and takes a second.
        from statsforecast.models import AutoETS
    except ImportError as error:
        raise ForecastUnavailable(
            f"a forecast needs statsforecast, which is not installed ({error}): pip install 'anabranch[forecast]'"
        ) from error
    found: type = AutoETS
    return found
