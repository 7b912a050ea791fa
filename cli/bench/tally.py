"""What came back: answers by status and by variant, latencies, and how late the generator itself was."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from anabranch.cli.bench.histogram import Histogram
from anabranch.wire.client import Reply
from anabranch.wire.seam import Status

VARIANT_FIELD = b"x-invoked-variant"


class Tally:
    """The counts of one run, warm-up excluded.

    Attributes:
        sent: Requests begun.
        skipped: Requests whose moment came while too many were unanswered; never begun.
        ended: Answers and failures by status.
        texts: One text of each failing status.
        variants: OK answers by the variant that the server says it was.
        latency: From the moment a request was meant to leave until its OK.
        lag: From that moment until it left.
    """

    def __init__(self) -> None:
        self.sent = 0
        self.skipped = 0
        self.ended: Counter[Status] = Counter()
        self.texts: dict[Status, str] = {}
        self.variants: Counter[str] = Counter()
        self.latency = Histogram()
        self.lag = Histogram()
        self.last_end_s = 0.0

    def begin(self, intended_s: float, now_s: float) -> None:
        """Count a request that leaves."""
        self.sent += 1
        self.lag.add(now_s - intended_s)

    def end(self, intended_s: float, now_s: float, reply: Reply) -> None:
        """Count how it ended."""
        status = reply.status
        self.ended[status] += 1
        self.last_end_s = now_s
        if status is not Status.OK:
            self.texts.setdefault(status, reply.text)
            return
        self.latency.add(now_s - intended_s)
        variant = reply.find(VARIANT_FIELD)
        if variant is not None:
            self.variants[variant] += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Durations in milliseconds; None without any."""

    p50: float | None
    p90: float | None
    p99: float | None
    p99_9: float | None
    max: float | None


def quantiles_ms(histogram: Histogram) -> Quantiles:
    """Read the quantiles that people ask for."""

    def at(share: float) -> float | None:
        found_s = histogram.quantile(share)
        return None if found_s is None else round(found_s * 1000, 4)

    longest = round(histogram.longest_s * 1000, 4) if histogram.total else None
    return Quantiles(p50=at(0.5), p90=at(0.9), p99=at(0.99), p99_9=at(0.999), max=longest)
