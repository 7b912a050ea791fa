"""What the generator is asked for and what it answers, as JSON between two processes."""

from dataclasses import dataclass
from enum import StrEnum

UNIT_HEADER = "x-unit"
"""The metadata that every split sticks to."""


class Dialect(StrEnum):
    """How a server is spoken to."""

    GRPC = "grpc"
    """The Open Inference Protocol over gRPC."""
    JSON = "json"
    """JSON over HTTP/1.1, one request at a time on a connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """One measurement.

    Attributes:
        port: The server's, on 127.0.0.1.
        path: The gRPC method or the HTTP path.
        body: The request's message, in base64.
        needle: Bytes that every 64th answer over gRPC must contain, in base64; empty to check statuses only.
        connections: Open at once.
        streams: In flight on each; with JSON 1.
        seconds: The measured window.
        warm_up_s: Load before it.
        rate: Requests a second, sent at Poisson times whatever is answered; None keeps `streams` in flight instead.
        seed: Of the Poisson times and units.
        units: Distinct values of `unit_header`.
        unit_header: The metadata that a split sticks to; empty to send none.
        deadline_ms: Sent as `grpc-timeout`; 0 sends none.
        slo_ms: Answers slower than this do not count as good.
        server_pid: Root of the process tree whose CPU is read.
        keeps_timeline: Whether every answer is told one by one.
    """

    port: int
    path: str
    body: str
    server_pid: int
    dialect: Dialect = Dialect.GRPC
    needle: str = ""
    connections: int = 4
    streams: int = 16
    seconds: float = 3.0
    warm_up_s: float = 0.7
    rate: float | None = None
    seed: int = 1
    units: int = 1000
    unit_header: str = ""
    deadline_ms: int = 0
    slo_ms: float = 50.0
    keeps_timeline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What was seen in the measured window.

    Attributes:
        sent: Requests whose time came within the window.
        answered: Of them answered, whatever the status; all that were sent, unless the server lost some.
        failed: Answers that are no success, wrong bytes included.
        statuses: Failures by gRPC or HTTP status.
        good_per_s: Successes within `slo_ms`, a second.
        rps: Successes a second.
        cpu_us: CPU of the server's process tree for each answer, in microseconds.
        cpu_parts: Of it, each kind of process.
        cpu_share: The same as a share of one core.
        p50_ms: Of the successes; in open loop from the time a request was due.
        p90_ms: Likewise.
        p99_ms: Likewise.
        lag_p99_ms: How late the generator itself was in sending; an open loop means nothing when this is large.
        rss_mib: Memory of the tree at the end.
        load_cpu_share: The generator's own share of its core.
        variants: Answers by the `x-invoked-variant` they carry; empty where a server does not say.
        timeline: By answer, the monotonic time that the request was sent or due, and the variant; empty unless asked for.
    """

    sent: int
    answered: int
    failed: int
    statuses: dict[str, int]
    good_per_s: float
    rps: float
    cpu_us: float
    cpu_parts: dict[str, float]
    cpu_share: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    lag_p99_ms: float
    rss_mib: float
    load_cpu_share: float
    variants: dict[str, int]
    timeline: list[tuple[float, str]]
