"""What is expected of every model and class: the forecasts of all series, as people and autoscalers read them; pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

from anabranch.router.classes import CLASSES, TARGET_SHARE
from anabranch.router.forecast.model import predict
from anabranch.router.forecast.series import series_of
from anabranch.store.volume_port import SLOT_S, Volume, slot_of

SHOWN_S: Final = 3_600.0
"""The share within the target is of the last hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """One model and class.

    Attributes:
        now: Requests a second in the last whole stretch.
        target_ms: Within what 99 of 100 requests should be answered.
        within: Share of the last hour's requests that were; None where there were none.
        mean: Requests a second in the busiest of the next stretches; None where an hour of history is not there.
        high: What they stay below in nine of ten cases.
        basis: What habit the forecast knows: `week`, `day` or `level` for none; empty without a forecast.
        history_s: How far the history goes back.
    """

    model: str
    level: str
    now: float
    target_ms: float
    within: float | None
    mean: float | None = None
    high: float | None = None
    basis: str = ""
    history_s: float = 0.0

    @property
    def is_on_target(self) -> bool | None:
        """Whether the last hour met the class's target; None where there were no requests."""
        return None if self.within is None else self.within >= TARGET_SHARE


def traffic(volumes: Collection[Volume], now_s: float, targets_ms: Mapping[str, float]) -> list[Outlook]:
    """How all models and classes do now, without a forecast.

    Args:
        volumes: What is kept; an hour is enough.
        now_s: The time.
        targets_ms: By class.
    """
    made = []
    last = slot_of(now_s) - SLOT_S
    keys = {(volume.model, volume.level) for volume in volumes if volume.level in targets_ms}
    order = [str(name) for name in CLASSES]
    for model, level in sorted(keys, key=lambda key: (key[0], order.index(key[1]))):
        own = [volume for volume in volumes if (volume.model, volume.level) == (model, level)]
        recent = [volume for volume in own if volume.slot_s >= now_s - SHOWN_S]
        requests = sum(volume.requests for volume in recent)
        made.append(
            Outlook(
                model=model,
                level=level,
                now=sum(volume.requests for volume in own if volume.slot_s == last) / SLOT_S,
                target_ms=targets_ms[level],
                within=sum(volume.within for volume in recent) / requests if requests else None,
                history_s=now_s - min(volume.slot_s for volume in own),
            )
        )
    return made


def outlook(volumes: Collection[Volume], now_s: float, targets_ms: Mapping[str, float]) -> list[Outlook]:
    """The same with what is expected.

    Raises:
        ForecastUnavailable: The extra `forecast` is not installed.
    """
    predictions = {
        (series.model, series.level): predict(series.rates) for series in series_of(volumes, now_s)
    }
    made = []
    for seen in traffic(volumes, now_s, targets_ms):
        found = predictions.get((seen.model, seen.level))
        made.append(
            seen
            if found is None
            else replace(seen, mean=max(found.mean), high=max(found.high), basis=found.basis)
        )
    return made
