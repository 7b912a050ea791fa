"""Samples in Prometheus' text format: prometheus_client writes it, this says what there is to write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Final, assert_never

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from anabranch.router.metrics.catalogue import CATALOGUE, Kind, Metric
from anabranch.router.metrics.samples import Buckets, Sample

Source = Callable[[], Iterable[Sample]]
"""Gives the samples of the moment; called by the thread that answers a scrape."""
_INFINITY: Final = "+Inf"


class ServerCollector(Collector):
    """Everything that a server says of itself.

    Args:
        sources: Where the samples come from.
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        self._sources = tuple(sources)

    def collect(self) -> Iterator[Family]:
        """The families, in the catalogue's order; one without samples is left out."""
        found: dict[str, list[Sample]] = {}
        for source in self._sources:
            for sample in source():
                found.setdefault(sample.metric.name, []).append(sample)
        for metric in CATALOGUE:
            if samples := found.get(metric.name):
                yield _family(metric, samples)


def new_registry(sources: Iterable[Source]) -> CollectorRegistry:
    """A registry of its own: nothing that another library registers globally is told."""
    registry = CollectorRegistry()
    registry.register(ServerCollector(sources))
    # Processor time, memory and open files of the supervisor itself, under the names that everybody uses.
    ProcessCollector(registry=registry)
    return registry


def _family(metric: Metric, samples: Iterable[Sample]) -> Family:
    match metric.kind:
        case Kind.COUNTER:
            counter = CounterMetricFamily(metric.name, metric.about, labels=metric.labels)
            for sample in samples:
                counter.add_metric(sample.labels, _number(sample))
            return counter
        case Kind.GAUGE:
            gauge = GaugeMetricFamily(metric.name, metric.about, labels=metric.labels)
            for sample in samples:
                gauge.add_metric(sample.labels, _number(sample))
            return gauge
        case Kind.HISTOGRAM:
            histogram = HistogramMetricFamily(metric.name, metric.about, labels=metric.labels)
            for sample in samples:
                buckets = _buckets(sample)
                histogram.add_metric(sample.labels, _cumulative(metric, buckets), sum_value=buckets.total)
            return histogram
    assert_never(metric.kind)


def _number(sample: Sample) -> float:
    assert not isinstance(sample.value, Buckets), f"{sample.metric.name} is no histogram"
    return sample.value


def _buckets(sample: Sample) -> Buckets:
    assert isinstance(sample.value, Buckets), f"{sample.metric.name} is a histogram"
    return sample.value


def _cumulative(metric: Metric, buckets: Buckets) -> list[tuple[str, float]]:
    borders = [*(str(border) for border in metric.borders), _INFINITY]
    return list(zip(borders, accumulate(buckets.counts), strict=True))
