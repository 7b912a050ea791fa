"""What the supervisor tells: the sums of its workers' reports, its own rounds, its database, and the experiments."""

from __future__ import annotations

import contextlib
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from prometheus_client import CollectorRegistry

from anabranch.router.link import WorkerReport
from anabranch.router.metrics.catalogue import CONTROLLER, PRIORITIES, WORKERS
from anabranch.router.metrics.collector import Source, new_registry
from anabranch.router.metrics.experiments import experiment_samples
from anabranch.router.metrics.lag import LagProbe
from anabranch.router.metrics.meter import buckets_of
from anabranch.router.metrics.samples import Sample, Tally, Totals
from anabranch.store.ingest import Ingested
from anabranch.store.lease import Lease, LeaseRecord
from anabranch.store.port import StoredExperiment
from anabranch.wire.certificate_end import certificate_end

_OWN: Final = -1
"""Where the supervisor's own numbers stand among the lanes, which begin at 0."""
_MOST_STATEMENTS: Final = 100_000


class ServerMetrics:
    """The metrics of one server, or of a controller on its own.

    Args:
        lag: Of the supervisor's own loop; None where there is none.
        certificate: The port's own; None without TLS.
        targets_ms: By class of priority, within what its requests should be answered; none where none are served.
        wall_clock: Seconds since 1970.
    """

    def __init__(
        self,
        lag: LagProbe | None,
        *,
        certificate: Path | None = None,
        targets_ms: Mapping[str, float] | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._lag = lag
        self._certificate = certificate
        self._targets_ms = targets_ms or {}
        self._wall_clock = wall_clock
        self._totals = Totals()
        self._tally = Tally()
        self._experiments: tuple[StoredExperiment, ...] = ()
        # Filled by the threads that ask the database, and bounded, should nobody read.
        self._statements: deque[tuple[float, bool]] = deque(maxlen=_MOST_STATEMENTS)
        # Of a journal that this process reads; None until it has read one.
        self._caught_up_s: float | None = None
        self._store_errors = self._tick_failures = 0

    def heard(self, report: WorkerReport) -> None:
        """Add what a worker reports."""
        self.told(report.lane, report.metrics)

    def told(self, lane: int, metrics: Mapping[str, list[list[Any]]]) -> None:
        """Add what `Tally.take` gave for a lane."""
        self._totals.heard(lane, metrics)

    def stated(self, took_s: float, was_refused: bool) -> None:
        """A statement of the database has ended; on any thread."""
        self._statements.append((took_s, was_refused))

    def ticked(
        self,
        took_s: float,
        ingested: Ingested | None,
        experiments: Iterable[StoredExperiment],
        *,
        own: Lease | None,
        leader: LeaseRecord | None,
    ) -> None:
        """A round of the controller has ended.

        Args:
            took_s: Its time.
            ingested: What it read; None where others read the journal.
            experiments: All experiments.
            own: What this server's controller leads by, if it does.
            leader: Who leads.
        """
        now = self._wall_clock()
        self._experiments = tuple(experiments)
        tally = self._tally
        tally.measured(CONTROLLER.tick, buckets_of(CONTROLLER.tick, np.array([took_s])))
        if ingested is not None:
            if self._caught_up_s is None or not ingested.waiting_bytes:
                self._caught_up_s = now - took_s
            tally.add(CONTROLLER.ingested, ingested.records)
            tally.add(CONTROLLER.duplicates, ingested.duplicates)
            tally.add(CONTROLLER.strangers, ingested.strangers)
            tally.shows(CONTROLLER.corrupt, len(ingested.corrupt))
            tally.shows(CONTROLLER.waiting, ingested.waiting_bytes)
        tally.shows(CONTROLLER.last_tick, now)
        tally.shows(CONTROLLER.leading, float(own is not None))
        tally.shows(CONTROLLER.led, float(leader is not None))
        tally.shows(CONTROLLER.lease_token, leader.token if leader is not None else 0)

    def tick_failed(self) -> None:
        """A round of the controller failed."""
        self._tick_failures += 1

    def looked(self, lanes: Iterable[int], restarts: int, refused: Mapping[str, int] | None = None) -> None:
        """Take stock; called after every round, whether it went well or not.

        Args:
            lanes: Those of the workers that run.
            restarts: Workers that were replaced so far.
            refused: Calls that the control port refused so far, by status.
        """
        self._totals.keep((*lanes, _OWN))
        tally = self._tally
        for status, count in (refused or {}).items():
            tally.total(WORKERS.access_refused, count, "control", status)
        tally.total(CONTROLLER.restarts, restarts)
        tally.total(CONTROLLER.tick_failures, self._tick_failures)
        if self._lag is not None:
            tally.measured(WORKERS.loop_lag, self._lag.take(), "supervisor")
        took = array("d")
        while self._statements:
            took_s, was_refused = self._statements.popleft()
            took.append(took_s)
            self._store_errors += was_refused
        tally.measured(CONTROLLER.store_duration, buckets_of(CONTROLLER.store_duration, np.array(took)))
        tally.total(CONTROLLER.store_errors, self._store_errors)
        self._totals.heard(_OWN, tally.take())

    def registry(self, *more: Source) -> CollectorRegistry:
        """What the metrics port serves; with samples from elsewhere."""
        own = (self._totals.samples, self._now, lambda: experiment_samples(self._experiments))
        return new_registry((*own, *more))

    def _now(self) -> Iterator[Sample]:
        """What depends on the moment of the scrape."""
        if self._caught_up_s is not None:
            yield Sample(CONTROLLER.lag, (), max(0.0, self._wall_clock() - self._caught_up_s))
        if self._certificate is not None:
            # A file that cannot be read is not used, and the log says so.
            with contextlib.suppress(OSError, ValueError):
                yield Sample(CONTROLLER.certificate_end, (), certificate_end(self._certificate).timestamp())
        for name, target_ms in self._targets_ms.items():
            yield Sample(PRIORITIES.target, (name,), target_ms / 1000.0)
        yield Sample(CONTROLLER.build, (version("anabranch"),), 1.0)
