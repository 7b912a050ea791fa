"""What the control plane of Envoy tells Prometheus of requests: by Envoy's access log, under the names that a router has."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from typing import Final

import numpy as np

from anabranch.mesh.access_log import AccessLog
from anabranch.mesh.ejections import Arm, Ejections
from anabranch.router.metrics.catalogue import ENVOYS, REQUESTS, WORKERS
from anabranch.router.metrics.meter import buckets_of
from anabranch.router.metrics.samples import Tally
from anabranch.router.metrics.server import ServerMetrics
from anabranch.router.recorder import Recorder
from anabranch.store.journal import JournalWriter
from anabranch.wire.seam import Status

_FEEDBACK: Final = ("accepted", "refused", "over rate")


class MeshMeter:
    """Requests by variant, as Envoy saw them end.

    A request whose variant did not answer is in the bucket +Inf of the durations and not in their sum, as a router has it.
    """

    def __init__(self) -> None:
        self._statuses: Counter[tuple[str, str, str]] = Counter()
        self._seconds: dict[Arm, array[float]] = {}

    def heard(self, model: str, variant: str, status: Status, seconds: float) -> None:
        """Take a request that has ended."""
        self._statuses[model, variant, status.name] += 1
        took = seconds if status is Status.OK else np.inf
        self._seconds.setdefault((model, variant), array("d")).append(took)

    def report(self, tally: Tally) -> None:
        """Tell what came since the last report."""
        for labels, count in self._statuses.items():
            tally.total(REQUESTS.total, count, *labels)
        for arm, taken in self._seconds.items():
            tally.measured(REQUESTS.duration, buckets_of(REQUESTS.duration, np.array(taken)), *arm)
            del taken[:]


class MeshMetrics:
    """Everything that one control plane tells.

    Args:
        server: What every server tells.
        recorder: Of this control plane's lane.
        journal: Where it records.
        access_log: Takes Envoy's log.
        ejections: Keeps account of candidates.
        feedback: Outcomes that clients reported, by what became of them.
    """

    def __init__(
        self,
        server: ServerMetrics,
        *,
        recorder: Recorder,
        journal: JournalWriter,
        access_log: AccessLog,
        ejections: Ejections,
        feedback: Mapping[str, int],
    ) -> None:
        self.meter = MeshMeter()
        self._server = server
        self._recorder = recorder
        self._journal = journal
        self._access_log = access_log
        self._ejections = ejections
        self._feedback = feedback
        self._tally = Tally()

    def take_stock(self, ejected: frozenset[Arm]) -> None:
        """Report what came since the last time.

        Args:
            ejected: Candidates that are left alone now.
        """
        tally = self._tally
        self.meter.report(tally)
        for arm, count in self._ejections.counts().items():
            tally.shows(REQUESTS.fit, float(arm not in ejected), *arm)
            tally.total(WORKERS.remote_ejections, count, *arm)
        for result, count in self._access_log.counts.items():
            tally.total(ENVOYS.entries, count, result.replace(": ", "_").replace(" ", "_"))
        tally.shows(ENVOYS.missing, self._access_log.missing)
        for result in _FEEDBACK:
            tally.total(WORKERS.feedback, self._feedback.get(result, 0), result.replace(" ", "_"))
        tally.total(WORKERS.journal_records, self._recorder.written)
        tally.total(WORKERS.journal_bytes, self._journal.written_bytes)
        tally.total(WORKERS.journal_dropped, self._recorder.dropped)
        self._server.told(self._recorder.lane, tally.take())
        self._server.looked((self._recorder.lane,), 0)
