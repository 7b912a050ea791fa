"""Every metric there is, each named once: what the server exposes, what docs/metrics.md and the tests read.

Labels hold names that the operator chose (models, variants, experiments, metrics) or that this code knows (statuses,
reasons): never a unit, a client or a request, so that the number of series is bounded by what is served.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """How a metric behaves, in Prometheus' words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Merge(StrEnum):
    """What the gauges of several workers become."""

    SUM = "sum"
    LEAST = "least"
    MOST = "most"


SECONDS: Final = (
    *(0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.007_5, 0.01, 0.015, 0.02, 0.03, 0.05),
    *(0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0),
)
"""Upper borders of every duration's buckets: the same everywhere, so that replicas and variants add up. 50 ms is one."""
ROWS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric.

    Attributes:
        name: As exposed.
        about: One sentence for the reader of a dashboard.
        labels: Names of its labels.
        merge: Of a gauge that workers report.
        borders: Upper borders of a histogram's buckets, ascending, without infinity.
    """

    name: str
    kind: Kind
    about: str
    labels: tuple[str, ...] = ()
    merge: Merge = Merge.SUM
    borders: tuple[float, ...] = ()


_VARIANT: Final = ("model", "variant")
_CLASS: Final = ("model", "class")
_ARM: Final = ("experiment", "model", "variant")
_TEST: Final = ("experiment", "model", "variant", "metric")


def _counter(name: str, about: str, labels: tuple[str, ...] = ()) -> Metric:
    return Metric(name=f"anabranch_{name}_total", kind=Kind.COUNTER, about=about, labels=labels)


def _gauge(name: str, about: str, labels: tuple[str, ...] = (), merge: Merge = Merge.SUM) -> Metric:
    return Metric(name=f"anabranch_{name}", kind=Kind.GAUGE, about=about, labels=labels, merge=merge)


def _histogram(
    name: str, about: str, labels: tuple[str, ...] = (), borders: tuple[float, ...] = SECONDS
) -> Metric:
    return Metric(name=f"anabranch_{name}", kind=Kind.HISTOGRAM, about=about, labels=labels, borders=borders)


class Requests:
    """What clients sent, by the variant that was assigned or chosen."""

    total: Final = _counter(
        "requests",
        "Requests by the variant that was assigned or chosen and by that variant's own gRPC status: one that failed "
        "and was answered by the baseline counts as the variant's failure.",
        (*_VARIANT, "status"),
    )
    masked: Final = _counter(
        "masked_requests",
        "Requests in which the candidate failed or took too long and the baseline was asked in its place.",
        _VARIANT,
    )
    hedged: Final = _counter(
        "hedged_requests",
        "Requests for which the baseline was asked too, since the candidate had used its time.",
        _VARIANT,
    )
    duration: Final = _histogram(
        "request_duration_seconds",
        "From a request's arrival to its answer, as experiments count it: what a variant did not answer, or not in "
        "its time, is in the bucket +Inf and not in the sum.",
        _VARIANT,
    )
    queue: Final = _histogram(
        "queue_duration_seconds", "Part of it that the variant's answers waited for a batch.", _VARIANT
    )
    compute: Final = _histogram(
        "compute_duration_seconds", "Part of it that the variant's answers took to compute.", _VARIANT
    )
    router: Final = _histogram(
        "router_duration_seconds",
        "The rest of it: what the router itself cost an answered request, with waiting for a thread's result.",
        _VARIANT,
    )
    batch_rows: Final = _histogram(
        "batch_rows", "Rows of the batch in which an answer was computed.", _VARIANT, ROWS
    )
    batches: Final = _counter(
        "batches", "Batches that a variant of this process has run, copies included.", _VARIANT
    )
    rows: Final = _counter(
        "rows", "Rows in these batches: what a variant has computed, whoever asked.", _VARIANT
    )
    first_token: Final = _histogram(
        "first_token_seconds", "From a request's submission to the first token of its answer.", _VARIANT
    )
    token: Final = _histogram("token_seconds", "Mean time of an answer's further tokens.", _VARIANT)
    refused: Final = _counter(
        "refused_requests",
        "Requests that no variant could answer, for what is in them, by the gRPC status the client got.",
        ("status",),
    )
    baseline_only: Final = _counter(
        "baseline_only_requests",
        "Requests that left the experiment and went to the baseline: no_unit (the request lacks the unit's metadata), "
        "unrecordable (the journal refuses records), no_snapshot (the supervisor was silent for too long).",
        ("reason",),
    )
    queued: Final = _gauge("queued_requests", "Requests that wait for a batch now.", _VARIANT)
    running: Final = _gauge("running_requests", "Requests that a variant computes now.", _VARIANT)
    fit: Final = _gauge(
        "variant_fit",
        "1 while a variant takes requests; 0 while it hangs, is ejected or its server is not ready.",
        _VARIANT,
        Merge.LEAST,
    )


class Priorities:
    """Requests by class of priority, as their clients saw them."""

    duration: Final = _histogram(
        "class_duration_seconds",
        "From a request's arrival to its answer, by class of priority, whoever answered; what got no answer is in the "
        "bucket +Inf and not in the sum.",
        _CLASS,
    )
    within: Final = _counter(
        "class_within_target", "Requests that were answered within their class's target.", _CLASS
    )
    target: Final = _gauge(
        "class_target_seconds",
        "Within what 99 of 100 requests of a class should be answered.",
        ("class",),
        Merge.LEAST,
    )


class Forecasts:
    """What is expected of the next minutes, where `serve --forecast` asks for it: over all servers of the store."""

    mean: Final = _gauge(
        "forecast_requests_per_second",
        "Requests a second in the busiest five minutes of the forecast's next quarter of an hour.",
        _CLASS,
        Merge.MOST,
    )
    high: Final = _gauge(
        "forecast_requests_per_second_high",
        "What they stay below in nine of ten cases: what to scale for.",
        _CLASS,
        Merge.MOST,
    )
    made: Final = _gauge(
        "forecast_timestamp_seconds",
        "When the forecast was made, in seconds since 1970.",
        merge=Merge.MOST,
    )
    failures: Final = _counter("forecast_failures", "Forecasts that were not made, or took too long.")


class Workers:
    """What workers do beside answering."""

    copies: Final = _counter("mirror_copies", "Copies of requests that were sent to a variant.")
    copies_dropped: Final = _counter(
        "mirror_dropped_copies", "Copies that were not sent or not compared, by reason.", ("reason",)
    )
    copies_in_flight: Final = _gauge("mirror_copies_in_flight", "Copies under way now.")
    feedback: Final = _counter("feedback", "Outcomes that clients reported, by result.", ("result",))
    remote_ejections: Final = _counter(
        "remote_ejections", "Times that a remote variant's server was left alone for failing.", _VARIANT
    )
    remote_refused: Final = _counter(
        "remote_refused_requests",
        "Requests that were not sent to a remote variant for want of room.",
        _VARIANT,
    )
    journal_records: Final = _counter("journal_records", "Records written to the journal.")
    journal_bytes: Final = _counter("journal_bytes", "Bytes written to the journal.")
    journal_dropped: Final = _counter(
        "journal_dropped_records", "Records that were lost since the disk refused them for too long."
    )
    connections: Final = _counter(
        "wire_connections", "Connections that clients opened to the inference port."
    )
    calls: Final = _counter("wire_calls", "Calls of any method on the inference port.")
    wire_problems: Final = _counter(
        "wire_problems",
        "Connections and calls that did not go well on the inference port, by problem.",
        ("problem",),
    )
    express: Final = _counter(
        "express_requests", "Requests like earlier ones, which took the express path past Python."
    )
    express_handed_over: Final = _counter(
        "express_handed_over_requests", "Of them, those that something unusual brought back."
    )
    access_refused: Final = _counter(
        "access_refused",
        "Calls refused because of who made them, or because too many were made, by port and status.",
        ("port", "status"),
    )
    serving: Final = _gauge("workers_serving", "Workers that serve.")
    cpu: Final = _counter("worker_cpu_seconds", "Processor time of the workers.")
    resident: Final = _gauge("worker_resident_bytes", "Memory of the workers.")
    snapshot_version: Final = _gauge(
        "snapshot_version", "Version of the oldest snapshot that a worker routes by.", merge=Merge.LEAST
    )
    snapshot_age: Final = _gauge(
        "snapshot_age_seconds",
        "Longest time that a worker has not heard of the supervisor.",
        merge=Merge.MOST,
    )
    stale: Final = _gauge("stale_workers", "Workers whose snapshot is too old: they serve baselines only.")
    loop_lag: Final = _histogram(
        "event_loop_lag_seconds", "How late timers of the event loop ran, ten a second.", ("process",)
    )


class Controllers:
    """What the supervisor does."""

    restarts: Final = _counter(
        "worker_restarts", "Workers that ended by themselves or hung, and were replaced."
    )
    tick: Final = _histogram(
        "tick_duration_seconds", "Time of one round of the controller: ingestion, every experiment, saving."
    )
    tick_failures: Final = _counter(
        "tick_failures", "Rounds of the controller that failed and were tried again."
    )
    last_tick: Final = _gauge(
        "last_tick_timestamp_seconds", "When the controller last finished a round, in seconds since 1970."
    )
    ingested: Final = _counter("ingested_records", "Records of the journal that were read.")
    duplicates: Final = _counter("ingested_duplicates", "Feedback that had been given before.")
    strangers: Final = _counter(
        "ingested_strangers", "Records of no known experiment, or feedback that cannot be counted."
    )
    corrupt: Final = _gauge(
        "corrupt_segments", "Segments of the journal that are damaged and read no further."
    )
    lag: Final = _gauge(
        "ingestion_lag_seconds",
        "Time since everything in the journal had been read; about a tick when all is well.",
    )
    waiting: Final = _gauge(
        "ingestion_waiting_bytes",
        "Bytes of the journal that the last round did not come to; 0 when it read everything.",
    )
    leading: Final = _gauge("leading", "1 while this server's controller moves the experiments on.")
    led: Final = _gauge(
        "led", "1 while some controller over the same store does, this one or another: one must."
    )
    lease_token: Final = _gauge("lease_token", "Grows whenever another controller takes over.")
    store_duration: Final = _histogram(
        "store_statement_duration_seconds", "Time of one statement of the database."
    )
    store_errors: Final = _counter("store_errors", "Statements that the database refused.")
    certificate_end: Final = _gauge(
        "tls_certificate_end_timestamp_seconds",
        "When the certificate in the file of --tls-cert ends, in seconds since 1970; absent without TLS.",
    )
    build: Final = _gauge("build_info", "1, with what runs.", ("version",))


class Envoys:
    """What Envoy tells of its requests, where it is the data plane (`serve --dataplane envoy`)."""

    entries: Final = _counter(
        "envoy_log_entries", "Entries of Envoy's access log, by what became of them.", ("result",)
    )
    missing: Final = _gauge(
        "envoy_log_missing_entries",
        "Assigned requests of which no entry has come: in flight, late, or lost.",
    )


class Experiments:
    """Where experiments stand: those that go on, and the last one of every model."""

    phase: Final = _gauge(
        "experiment_phase", "1 for the phase that it is in.", ("experiment", "model", "phase")
    )
    step: Final = _gauge("experiment_step", "The step it is at, from 1.", ("experiment", "model"))
    steps: Final = _gauge("experiment_steps", "Steps of its file.", ("experiment", "model"))
    epoch: Final = _gauge(
        "experiment_epoch", "Stretches of constant weights so far.", ("experiment", "model")
    )
    decisions: Final = _counter("experiment_decisions", "Decisions so far.", ("experiment", "model"))
    started: Final = _gauge(
        "experiment_started_timestamp_seconds",
        "When it began, in seconds since 1970.",
        ("experiment", "model"),
    )
    mirror: Final = _gauge(
        "experiment_mirror_ratio", "Share of the requests that is copied.", ("experiment", "model")
    )
    weight: Final = _gauge("experiment_weight_ratio", "Share of the traffic that an arm gets.", _ARM)
    live: Final = _gauge(
        "experiment_live", "1 while a candidate is in the experiment, 0 once it was removed.", _ARM
    )
    winner: Final = _gauge("experiment_winner", "1 for the candidate that is being or was promoted.", _ARM)
    requests: Final = _counter("experiment_requests", "Requests in the evidence.", _ARM)
    units: Final = _counter("experiment_units", "Units in the evidence: what decisions count.", _ARM)
    masked: Final = _counter(
        "experiment_masked", "Requests in the evidence that the baseline answered instead.", _ARM
    )
    pairs: Final = _counter("experiment_pairs", "Compared replies in the evidence.", _ARM)
    verdict: Final = _gauge(
        "experiment_verdict", "1 for the verdict on a candidate's metric.", (*_TEST, "outcome")
    )
    log_evidence: Final = _gauge(
        "experiment_log_evidence",
        "Natural logarithm of the e-value for a claim: that the metric holds, or that it fails.",
        (*_TEST, "claim"),
    )
    log_evidence_needed: Final = _gauge(
        "experiment_log_evidence_needed", "What it must reach to decide the claim.", (*_TEST, "claim")
    )
    samples: Final = _gauge("experiment_samples", "Outcomes behind a verdict.", _TEST)
    estimate: Final = _gauge(
        "experiment_estimate", "A candidate's metric as judged, in the metric's own unit.", _TEST
    )
    estimate_low: Final = _gauge("experiment_estimate_low", "Lower end of its confidence sequence.", _TEST)
    estimate_high: Final = _gauge("experiment_estimate_high", "Upper end of its confidence sequence.", _TEST)
    srm: Final = _gauge(
        "experiment_sample_ratio_log_evidence",
        "Natural logarithm of the evidence that units do not arrive as the weights say.",
        ("experiment", "model"),
    )
    srm_needed: Final = _gauge(
        "experiment_sample_ratio_log_evidence_needed",
        "What it must reach to block a promotion.",
        ("experiment", "model"),
    )


REQUESTS: Final = Requests()
PRIORITIES: Final = Priorities()
FORECASTS: Final = Forecasts()
WORKERS: Final = Workers()
CONTROLLER: Final = Controllers()
ENVOYS: Final = Envoys()
EXPERIMENTS: Final = Experiments()
Group = Requests | Priorities | Forecasts | Workers | Controllers | Envoys | Experiments
GROUPS: Final[dict[str, Group]] = {
    "Requests": REQUESTS,
    "Classes of priority": PRIORITIES,
    "Forecasts": FORECASTS,
    "Workers": WORKERS,
    "Controller": CONTROLLER,
    "Envoy": ENVOYS,
    "Experiments": EXPERIMENTS,
}


def metrics_of(group: Group) -> tuple[Metric, ...]:
    """The metrics of a group, in the order in which they are written."""
    return tuple(metric for metric in vars(type(group)).values() if isinstance(metric, Metric))


CATALOGUE: Final = tuple(metric for group in GROUPS.values() for metric in metrics_of(group))
BY_NAME: Final = {metric.name: metric for metric in CATALOGUE}
