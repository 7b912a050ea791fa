"""Forecasts beside a server: in a process of their own, which may fail or hang."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from anabranch.router.forecast import runner
from anabranch.router.forecast.runner import Forecaster, ForecastFailed, require_forecast
from anabranch.router.metrics.catalogue import FORECASTS
from anabranch.router.settings import InvalidSettings, Settings
from anabranch.store.memory_volumes import MemoryVolumes
from anabranch.store.volume_port import SLOT_S, Volume

NOW = 1_800_000_100.0


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


def filled() -> MemoryVolumes:
    store = MemoryVolumes()
    last = int(NOW // SLOT_S) * SLOT_S
    store.add(
        [
            Volume(model="m", level="batch", slot_s=last - place * SLOT_S, requests=1500, within=1500)
            for place in range(1, 30)
        ]
    )
    return store


def told(forecaster: Forecaster) -> dict[tuple[str, tuple[str, ...]], Any]:
    return {(sample.metric.name, sample.labels): sample.value for sample in forecaster.samples()}


def test_a_forecast_is_told_until_the_time_it_was_for_is_over() -> None:
    clock = Clock()
    forecaster = Forecaster(filled(), clock)
    assert told(forecaster) == {(FORECASTS.failures.name, ()): 0}
    asyncio.run(forecaster.make())
    found = told(forecaster)
    assert found[FORECASTS.made.name, ()] == NOW
    assert 4.9 < found[FORECASTS.mean.name, ("m", "batch")] < 5.1
    assert found[FORECASTS.high.name, ("m", "batch")] >= found[FORECASTS.mean.name, ("m", "batch")]
    clock.now += 901.0
    assert list(told(forecaster)) == [(FORECASTS.failures.name, ())]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; print('x'); sys.exit('no such thing')", "ended with 1: no such thing"),
        ("import time; time.sleep(60)", "not there after 0.5 s"),
    ],
)
def test_a_process_that_fails_or_hangs_leaves_what_was_told(code: str, reason: str) -> None:
    clock = Clock()
    forecaster = Forecaster(filled(), clock)
    asyncio.run(forecaster.make())
    before = told(forecaster)
    forecaster._command = (sys.executable, "-c", code)
    forecaster._longest_s = 0.5 if "sleep" in code else 60.0
    with pytest.raises(ForecastFailed, match=reason):
        asyncio.run(forecaster.make())
    assert told(forecaster) == before


def test_the_process_is_sent_the_whole_series() -> None:
    echo = "import sys, json; a = json.load(sys.stdin); print(json.dumps([{**s, 'mean': len(s['rates']), 'high': 0} for s in a]))"
    forecaster = Forecaster(filled(), Clock(), command=(sys.executable, "-c", echo))
    asyncio.run(forecaster.make())
    assert told(forecaster)[FORECASTS.mean.name, ("m", "batch")] == 29


def test_without_the_extra_a_server_that_should_forecast_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(models=tmp_path, forecast=True, metrics_port=0)
    require_forecast(settings)
    monkeypatch.setattr(runner, "_LIBRARY", "no_such_library")
    with pytest.raises(InvalidSettings, match=r"pip install 'anabranch\[forecast\]'"):
        require_forecast(settings)
    require_forecast(Settings(models=tmp_path))


def test_a_forecast_without_a_metrics_port_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="give --metrics-port"):
        Settings(models=tmp_path, forecast=True)
