"""From kept volumes to what is expected."""

import json
import subprocess
import sys

import numpy as np
import pytest

from anabranch.router.forecast.model import AHEAD, DAY, LEAST, WEEK, predict
from anabranch.router.forecast.outlook import outlook, traffic
from anabranch.router.forecast.series import series_of
from anabranch.store.volume_port import SLOT_S, Volume

NOW = 1_800_000_100.0
END = int(NOW // SLOT_S) * SLOT_S
TARGETS = {"realtime": 50.0, "interactive": 200.0, "batch": 5000.0}


def volumes(rates: list[float], model: str = "m", level: str = "interactive", end: int = END) -> list[Volume]:
    """Kept volumes that end with the last whole stretch."""
    start = end - len(rates) * SLOT_S
    return [
        Volume(
            model=model,
            level=level,
            slot_s=start + place * SLOT_S,
            requests=round(rate * SLOT_S),
            within=round(rate * SLOT_S / 2),
        )
        for place, rate in enumerate(rates)
    ]


def test_a_series_has_whole_stretches_only_and_zeros_where_others_had_requests() -> None:
    kept = [
        *volumes([1.0, 2.0, 3.0, 4.0], model="a"),
        *volumes([7.0], model="b", end=END - 2 * SLOT_S),
        Volume(model="a", level="interactive", slot_s=END, requests=9_999, within=0),
    ]
    one, other = series_of(kept, NOW)
    assert (one.model, one.rates.tolist()) == ("a", [1.0, 2.0, 3.0, 4.0])
    assert (other.model, other.start_s, other.rates.tolist()) == ("b", END - 3 * SLOT_S, [7.0, 0.0, 0.0])


def test_stretches_in_which_nobody_counted_are_bridged() -> None:
    kept = volumes([2.0], end=END - 4 * SLOT_S) + volumes([6.0])
    [series] = series_of(kept, NOW)
    assert series.rates.tolist() == [2.0, 3.0, 4.0, 5.0, 6.0]


def test_less_than_an_hour_is_not_forecast() -> None:
    assert predict(np.full(LEAST - 1, 5.0)) is None
    assert predict(np.full(LEAST, 5.0)) is not None


def test_a_steady_volume_goes_on_and_its_limit_is_above_it() -> None:
    rng = np.random.default_rng(7)
    found = predict(rng.poisson(40.0 * SLOT_S, 200) / SLOT_S)
    assert found is not None
    assert found.basis == "level"
    assert len(found.mean) == len(found.high) == AHEAD
    assert all(38.0 < mean < 42.0 for mean in found.mean)
    assert all(mean < high < 45.0 for mean, high in zip(found.mean, found.high, strict=True))


@pytest.mark.parametrize(("days", "period", "basis"), [(3, DAY, "day"), (21, WEEK, "week")])
def test_a_rise_that_comes_every_day_or_week_is_foreseen(days: int, period: int, basis: str) -> None:
    rng = np.random.default_rng(8)
    places = np.arange(days * DAY + AHEAD) % period
    # Three times the volume in two hours of each period, which begin just now.
    begins = (days * DAY) % period
    is_busy = (places - begins) % period < 24
    truth = np.where(is_busy, 30.0, 10.0)
    found = predict(rng.poisson(truth[: days * DAY] * SLOT_S) / SLOT_S)
    assert found is not None
    assert found.basis == basis
    assert max(found.mean) > 20.0
    level_only = predict(rng.poisson(truth[days * DAY - 100 : days * DAY] * SLOT_S) / SLOT_S)
    assert level_only is not None
    assert max(level_only.mean) < 12.0


def test_nothing_at_all_is_forecast_as_nothing() -> None:
    found = predict(np.zeros(300))
    assert found is not None
    assert max(found.mean) < 0.01


def test_every_class_is_told_with_its_target_and_what_it_kept_of_it() -> None:
    kept = [
        *volumes([4.0] * 20, level="realtime"),
        *volumes([0.0] * 20, level="batch"),
        *volumes([1.0] * 3, model="young"),
    ]
    told = {(row.model, row.level): row for row in outlook(kept, NOW, TARGETS)}
    assert list(told) == [("m", "realtime"), ("m", "batch"), ("young", "interactive")]
    urgent = told["m", "realtime"]
    assert (urgent.now, urgent.target_ms, urgent.within) == (4.0, 50.0, 0.5)
    assert urgent.is_on_target is False
    assert urgent.mean == pytest.approx(4.0, rel=0.1)
    assert told["m", "batch"].within is None
    assert (told["young", "interactive"].mean, told["young", "interactive"].basis) == (None, "")


def test_without_a_forecast_no_library_is_needed() -> None:
    code = (
        "import sys; from anabranch.router.forecast.outlook import traffic; traffic([], 0.0, {});"
        "from anabranch.router.forecast import runner; print([name for name in ('pandas', 'statsforecast') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
    assert traffic([], NOW, TARGETS) == []


def test_the_process_answers_for_every_series_that_is_long_enough() -> None:
    asked = [
        {"model": "m", "level": "batch", "rates": [3.0] * 40},
        {"model": "m", "level": "realtime", "rates": [3.0] * 2},
    ]
    done = subprocess.run(
        [sys.executable, "-m", "anabranch.router.forecast.process"],
        input=json.dumps(asked).encode(),
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    [told] = json.loads(done.stdout)
    assert (told["model"], told["level"]) == ("m", "batch")
    assert 2.9 < told["mean"] <= told["high"] < 3.2
