"""Forecasts beside a server: one in every stretch, in a process of its own, bounded in time; never on the request path."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import orjson

from anabranch.router.forecast.model import HORIZON_S, MOST
from anabranch.router.forecast.series import series_of
from anabranch.router.metrics.catalogue import FORECASTS
from anabranch.router.metrics.samples import Sample
from anabranch.router.settings import InvalidSettings, Settings
from anabranch.router.volumes import FLUSH_S
from anabranch.store.volume_port import SLOT_S, VolumeStore, slot_of

LONGEST_S: Final = 60.0
"""A forecast that takes longer is given up."""
_LIBRARY: Final = "statsforecast"
# One core and no more, whatever the libraries would take.
_ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_log = logging.getLogger(__name__)


class ForecastFailed(Exception):
    """The process that forecasts did not: the message says why."""


def require_forecast(settings: Settings) -> None:
    """See that a forecast that is asked for can be made.

    Raises:
        InvalidSettings: The extra `forecast` is not installed.
    """
    if settings.forecast and importlib.util.find_spec(_LIBRARY) is None:
        raise InvalidSettings(
            f"a forecast is asked for, and {_LIBRARY} is not installed: pip install 'anabranch[forecast]', or leave --forecast out"
        )


class Forecaster:
    """Keeps the newest forecast.

    Args:
        store: Where the volume of requests is.
        wall_clock: Seconds since 1970.
        command: The process that forecasts.
        longest_s: After which it is given up.

    Attributes:
        failures: Forecasts that were not made.
    """

    def __init__(
        self,
        store: VolumeStore,
        wall_clock: Callable[[], float],
        *,
        command: tuple[str, ...] = (sys.executable, "-m", "anabranch.router.forecast.process"),
        longest_s: float = LONGEST_S,
    ) -> None:
        self._store = store
        self._wall_clock = wall_clock
        self._command = command
        self._longest_s = longest_s
        self._made_s = 0.0
        self._told: list[Mapping[str, Any]] = []
        self.failures = 0

    async def run(self) -> None:
        """Forecast now, and whenever a stretch is over and stored; until cancelled."""
        while True:
            try:
                await self.make()
            except Exception as error:  # noqa: BLE001  # the next stretch may go better, and requests do not wait for it
                self.failures += 1
                _log.error("no forecast was made: %s", error)
            now = self._wall_clock()
            # Other servers store what they counted a little after a stretch ends.
            await asyncio.sleep(slot_of(now) + SLOT_S + 2 * FLUSH_S - now)

    async def make(self) -> None:
        """Make one forecast.

        Raises:
            ForecastFailed: The process failed, or took too long.
        """
        now = self._wall_clock()
        series = await asyncio.to_thread(lambda: series_of(self._store.load(now - MOST * SLOT_S), now))
        asked = orjson.dumps(
            [{"model": one.model, "level": one.level, "rates": one.rates.tolist()} for one in series]
        )
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **_ONE_THREAD},
        )
        try:
            async with asyncio.timeout(self._longest_s):
                answer, complaint = await process.communicate(asked)
        except TimeoutError:
            raise ForecastFailed(f"it was not there after {self._longest_s:g} s, and given up") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode:
            last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
            raise ForecastFailed(f"the process ended with {process.returncode}: {last}")
        self._told, self._made_s = orjson.loads(answer), now

    def samples(self) -> Iterator[Sample]:
        """The forecast as metrics; none that is older than what it looked ahead."""
        yield Sample(FORECASTS.failures, (), self.failures)
        if self._wall_clock() - self._made_s > HORIZON_S:
            return
        yield Sample(FORECASTS.made, (), self._made_s)
        for told in self._told:
            labels = (told["model"], told["level"])
            yield Sample(FORECASTS.mean, labels, told["mean"])
            yield Sample(FORECASTS.high, labels, told["high"])
