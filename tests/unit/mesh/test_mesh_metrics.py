"""What the control plane of Envoy tells of requests, feedback and its journal."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from prometheus_client import generate_latest

from anabranch.bandit.snapshot import Snapshot
from anabranch.mesh.ejections import Ejections
from anabranch.mesh.metrics import MeshMetrics
from anabranch.router.metrics.server import ServerMetrics
from anabranch.router.recorder import Recorder
from anabranch.store.ingest import Ingested
from anabranch.store.journal import JournalWriter
from anabranch.wire.seam import Status

Manifests = Any


def test_requests_are_told_by_variant_and_status_as_a_router_tells_them(
    tmp_path: Path, snapshot: Snapshot, manifests: Manifests
) -> None:
    journal = JournalWriter(tmp_path, 7)
    ejections = Ejections()
    ejections.watch(snapshot, manifests)
    model, route = next(iter(snapshot.routes.items()))
    candidate = route.arms[1]
    for _ in range(3):
        ejections.heard(model, candidate, Status.UNAVAILABLE, 5.0, 0.1)
    ejected = ejections.at(5.0)
    assert ejected == {(model, candidate)}
    server = ServerMetrics(None, wall_clock=lambda: 50.0)
    metrics = MeshMetrics(
        server,
        recorder=Recorder(journal, 7),
        journal=journal,
        access_log=cast(
            Any, SimpleNamespace(counts=Counter({"recorded": 4, "not assigned: baseline": 1}), missing=2)
        ),
        ejections=ejections,
        feedback=Counter({"accepted": 3, "over rate": 1}),
    )
    metrics.meter.heard(model, "base", Status.OK, 0.004)
    metrics.meter.heard(model, "base", Status.OK, 0.2)
    metrics.meter.heard(model, candidate, Status.UNAVAILABLE, 0.1)
    metrics.take_stock(ejected)
    metrics.meter.heard(model, "base", Status.OK, 0.004)
    server.ticked(0.25, Ingested(), (), own=None, leader=None)
    metrics.take_stock(ejected)
    journal.close()
    told = set(generate_latest(server.registry()).decode().splitlines())
    arm = f'model="{model}",variant="{candidate}"'
    for line in (
        f'anabranch_requests_total{{model="{model}",status="OK",variant="base"}} 3.0',
        f'anabranch_request_duration_seconds_bucket{{le="0.005",model="{model}",variant="base"}} 2.0',
        f'anabranch_request_duration_seconds_count{{model="{model}",variant="base"}} 3.0',
        # It did not answer: its time is beyond every border, and not in the sum.
        f'anabranch_request_duration_seconds_bucket{{le="30.0",{arm}}} 0.0',
        f"anabranch_request_duration_seconds_count{{{arm}}} 1.0",
        f"anabranch_request_duration_seconds_sum{{{arm}}} 0.0",
        f"anabranch_variant_fit{{{arm}}} 0.0",
        f"anabranch_remote_ejections_total{{{arm}}} 1.0",
        'anabranch_envoy_log_entries_total{result="recorded"} 4.0',
        'anabranch_envoy_log_entries_total{result="not_assigned_baseline"} 1.0',
        "anabranch_envoy_log_missing_entries 2.0",
        'anabranch_feedback_total{result="accepted"} 3.0',
        'anabranch_feedback_total{result="over_rate"} 1.0',
        "anabranch_journal_dropped_records_total 0.0",
        "anabranch_ingestion_lag_seconds 0.25",
    ):
        assert line in told, (line, sorted(each for each in told if line.split("{")[0] in each))
