"""What was counted since the last report, in the form in which a worker sends it and the supervisor adds it up.

Counters and histograms travel as what was added, so that a sum survives the worker; gauges travel as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, assert_never

from anabranch.router.metrics.catalogue import BY_NAME, Kind, Merge, Metric

Labels = tuple[str, ...]
Key = tuple[str, Labels]


@dataclass(slots=True)
class Buckets:
    """One histogram.

    Attributes:
        counts: Values by bucket; the last is beyond every border.
        total: Sum of the finite values.
    """

    counts: list[int]
    total: float = 0.0

    @property
    def copy(self) -> Buckets:
        """The same values, apart."""
        return Buckets(list(self.counts), self.total)


@dataclass(frozen=True, slots=True)
class Sample:
    """One series at one moment."""

    metric: Metric
    labels: Labels
    value: float | Buckets


class Tally:
    """Collects one report after another; used by one thread."""

    def __init__(self) -> None:
        self._before: dict[Key, float] = {}
        self._counted: list[list[Any]] = []
        self._measured: list[list[Any]] = []
        self._shown: list[list[Any]] = []

    def total(self, metric: Metric, value: float, *labels: str) -> None:
        """Take a counter as it stands; what it gained since the last time is reported."""
        key = (metric.name, labels)
        before = self._before.get(key)
        if before is None or value != before:
            self._before[key] = value
            self._counted.append([metric.name, labels, value - (before or 0)])

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        """Take what a counter gained."""
        self._counted.append([metric.name, labels, value])

    def measured(self, metric: Metric, buckets: Buckets, *labels: str) -> None:
        """Take what a histogram gained."""
        self._measured.append([metric.name, labels, buckets.counts, buckets.total])

    def shows(self, metric: Metric, value: float, *labels: str) -> None:
        """Take a gauge."""
        self._shown.append([metric.name, labels, value])

    def take(self) -> dict[str, list[list[Any]]]:
        """The report, ready for JSON; a new one begins."""
        report = {"counted": self._counted, "measured": self._measured, "shown": self._shown}
        self._counted, self._measured, self._shown = [], [], []
        return report


@dataclass(slots=True)
class Totals:
    """The sums of all reports; written by the event loop, read by the thread that answers a scrape."""

    _counted: dict[Key, float] = field(default_factory=dict)
    _measured: dict[Key, Buckets] = field(default_factory=dict)
    _shown: dict[int, dict[Key, float]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def heard(self, source: int, report: Mapping[str, Sequence[Sequence[Any]]]) -> None:
        """Add a report.

        Args:
            source: Whose gauges it has: a worker's lane; they replace those of its last report.
            report: What `Tally.take` made. A report without anything changes nothing.
        """
        if not report:
            return
        with self._lock:
            for name, labels, value in report["counted"]:
                key = (name, tuple(labels))
                self._counted[key] = self._counted.get(key, 0) + value
            for name, labels, counts, total in report["measured"]:
                key = (name, tuple(labels))
                known = self._measured.get(key)
                if known is None:
                    self._measured[key] = Buckets(list(counts), total)
                else:
                    known.counts = [a + b for a, b in zip(known.counts, counts, strict=True)]
                    known.total += total
            self._shown[source] = {(name, tuple(labels)): value for name, labels, value in report["shown"]}

    def keep(self, sources: Iterable[int]) -> None:
        """Forget the gauges of every worker but these; what they counted stays."""
        kept = set(sources)
        with self._lock:
            self._shown = {source: shown for source, shown in self._shown.items() if source in kept}

    def samples(self) -> Iterator[Sample]:
        """Every series as it stands."""
        with self._lock:
            counted = dict(self._counted)
            measured = {key: buckets.copy for key, buckets in self._measured.items()}
            merged = _merged(self._shown.values())
        for found in (counted, measured, merged):
            for (name, labels), value in found.items():
                yield Sample(BY_NAME[name], labels, value)


def _merged(shown: Iterable[Mapping[Key, float]]) -> dict[Key, float]:
    """The gauges of all workers as one."""
    merged: dict[Key, float] = {}
    for gauges in shown:
        for key, value in gauges.items():
            known = merged.get(key)
            merged[key] = value if known is None else _merge(BY_NAME[key[0]], known, value)
    return merged


def _merge(metric: Metric, one: float, other: float) -> float:
    assert metric.kind is Kind.GAUGE, f"{metric.name} is no gauge"
    match metric.merge:
        case Merge.SUM:
            return one + other
        case Merge.LEAST:
            return min(one, other)
        case Merge.MOST:
            return max(one, other)
    assert_never(metric.merge)
