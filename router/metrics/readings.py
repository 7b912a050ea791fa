"""What a worker reads off its parts once a second: counters that are there anyway, and how busy everything is."""

from __future__ import annotations

import os
import resource
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from anabranch.router.backends import Backends, LocalBackend, RemoteBackend
from anabranch.router.infer import Inference
from anabranch.router.metrics.catalogue import REQUESTS, WORKERS
from anabranch.router.metrics.lag import LagProbe
from anabranch.router.metrics.samples import Tally
from anabranch.router.mirror import Mirror
from anabranch.router.recorder import Recorder
from anabranch.router.routes import Routes
from anabranch.store.journal import JournalWriter
from anabranch.variants.remote import RemoteVariant
from anabranch.wire.seam import Wire

_REFUSED: Final = ("INVALID_ARGUMENT", "NOT_FOUND")
_BASELINE_ONLY: Final = {"no unit: baseline": "no_unit", "unrecordable: baseline": "unrecordable"}
_WIRE_PROBLEMS: Final = (
    "connections_refused",
    "peers_refused",
    "connections_stalled",
    "protocol_errors",
    "cancelled",
    "deadline_exceeded",
    "refused",
    "handler_errors",
    "flush_errors",
)
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_STATM: Final = Path("/proc/self/statm")


class Readings:
    """One worker's parts, as Prometheus sees them.

    Args:
        inference: Its request path, with the meters.
        backends: Its variants.
        mirror: Its copies.
        recorder: What it writes down.
        journal: Where it writes.
        routes: What it routes by.
        wire: Its port.
        feedback: Its counts of feedback.
        access: Its counts of calls that were refused because of who made them, by status.
        lag: Its event loop.
    """

    def __init__(
        self,
        *,
        inference: Inference,
        backends: Backends,
        mirror: Mirror,
        recorder: Recorder,
        journal: JournalWriter,
        routes: Routes,
        wire: Wire,
        feedback: Mapping[str, int],
        access: Mapping[str, int],
        lag: LagProbe,
    ) -> None:
        self._inference = inference
        self._backends = backends
        self._mirror = mirror
        self._recorder = recorder
        self._journal = journal
        self._routes = routes
        self._wire = wire
        self._feedback = feedback
        self._access = access
        self._lag = lag
        self._stale_requests = 0
        self._tally = Tally()

    def take(self, remotes: list[RemoteVariant], *, is_serving: bool) -> dict[str, list[list[object]]]:
        """The report that is due.

        Args:
            remotes: The variants elsewhere.
            is_serving: Whether the port is open.
        """
        tally = self._tally
        requests = self._inference.meters.report(tally)
        if self._routes.is_stale:
            # To the second: what came since the last report may be from before.
            self._stale_requests += requests
        self._read_requests(tally)
        self._read_variants(tally, remotes)
        self._read_recording(tally)
        self._read_process(tally)
        tally.shows(WORKERS.serving, float(is_serving))
        tally.shows(WORKERS.snapshot_version, self._routes.version)
        tally.shows(WORKERS.snapshot_age, self._routes.age_s)
        tally.shows(WORKERS.stale, float(self._routes.is_stale))
        return tally.take()

    def _read_requests(self, tally: Tally) -> None:
        counts: Counter[str] = self._inference.counts
        for name in _REFUSED:
            tally.total(REQUESTS.refused, counts[f"refused: {name}"], name)
        for name, reason in _BASELINE_ONLY.items():
            tally.total(REQUESTS.baseline_only, counts[name], reason)
        tally.total(REQUESTS.baseline_only, self._stale_requests, "no_snapshot")
        tally.total(WORKERS.copies, self._mirror.sent)
        for reason, count in self._mirror.drops.items():
            tally.total(WORKERS.copies_dropped, count, reason)
        tally.shows(WORKERS.copies_in_flight, self._mirror.in_flight)
        for result in ("accepted", "refused", "over rate"):
            tally.total(WORKERS.feedback, self._feedback.get(result, 0), result.replace(" ", "_"))
        for status in ("unauthenticated", "permission_denied"):
            tally.total(WORKERS.access_refused, self._access.get(status, 0), "inference", status)

    def _read_variants(self, tally: Tally, remotes: list[RemoteVariant]) -> None:
        for (model, variant), backend in self._backends.items():
            tally.shows(REQUESTS.fit, float(backend.unfit() is None), model, variant)
            if isinstance(backend, LocalBackend | RemoteBackend):
                load = backend.load()
                tally.shows(REQUESTS.queued, load.queued, model, variant)
                tally.shows(REQUESTS.running, load.running, model, variant)
                if isinstance(backend, LocalBackend):
                    tally.total(REQUESTS.batches, load.batches, model, variant)
                    tally.total(REQUESTS.rows, load.rows, model, variant)
        for remote in remotes:
            labels = remote.manifest.model, remote.manifest.variant
            tally.total(WORKERS.remote_ejections, remote.ejections, *labels)
            tally.total(WORKERS.remote_refused, remote.refused, *labels)

    def _read_recording(self, tally: Tally) -> None:
        tally.total(WORKERS.journal_records, self._recorder.written)
        tally.total(WORKERS.journal_bytes, self._journal.written_bytes)
        tally.total(WORKERS.journal_dropped, self._recorder.dropped)

    def _read_process(self, tally: Tally) -> None:
        stats = self._wire.stats
        tally.total(WORKERS.connections, stats.connections)
        tally.total(WORKERS.calls, stats.calls)
        for problem in _WIRE_PROBLEMS:
            tally.total(WORKERS.wire_problems, getattr(stats, problem), problem)
        express = self._inference.express
        if express is not None:
            tally.total(WORKERS.express, express.taken)
            tally.total(WORKERS.express_handed_over, express.handed_over)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        tally.total(WORKERS.cpu, usage.ru_utime + usage.ru_stime)
        if (resident := resident_bytes()) is not None:
            tally.shows(WORKERS.resident, resident)
        tally.measured(WORKERS.loop_lag, self._lag.take(), "worker")


def resident_bytes() -> int | None:
    """Memory of this process; None where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return None
