"""What a worker counts of its requests, with a request path that the test moves."""

import math
from collections.abc import Iterator
from typing import Any

import pytest

from anabranch.router.metrics.catalogue import REQUESTS, Metric
from anabranch.router.metrics.meter import VariantMeter
from anabranch.router.metrics.samples import Buckets, Tally, Totals
from anabranch.store.records import Flag
from anabranch.variants.batching import FailureKind, Timing

Bench = Any
TIMING = Timing(0.001, 0.002, 4)


class Flown:
    def __init__(self, flags: Flag = Flag.NONE, *, is_hedged: bool = False) -> None:
        self.flags = flags
        self.level, self.took_ms = 2, 10.0
        self.is_hedged = is_hedged


def reported(meter: VariantMeter) -> Totals:
    tally, totals = Tally(), Totals()
    meter.report(tally, "m", "v")
    totals.heard(0, tally.take())
    return totals


def values(totals: Totals, metric: Metric) -> dict[tuple[str, ...], Any]:
    return {sample.labels: sample.value for sample in totals.samples() if sample.metric is metric}


def histogram(totals: Totals, metric: Metric) -> Buckets:
    (found,) = values(totals, metric).values()
    assert isinstance(found, Buckets)
    return found


def filled(buckets: Buckets, metric: Metric) -> Iterator[tuple[float, int]]:
    """The upper borders of the buckets that hold something, and how much."""
    borders = (*metric.borders, math.inf)
    return ((border, count) for border, count in zip(borders, buckets.counts, strict=True) if count)


def test_an_answer_is_counted_with_where_its_time_went() -> None:
    meter = VariantMeter()
    meter.note(Flown(), 0, 10.0, TIMING)
    totals = reported(meter)
    assert values(totals, REQUESTS.total) == {("m", "v", "OK"): 1}
    for metric, border, total in (
        (REQUESTS.duration, 0.01, 0.010),
        (REQUESTS.queue, 0.001, 0.001),
        (REQUESTS.compute, 0.002, 0.002),
        (REQUESTS.router, 0.0075, 0.007),
        (REQUESTS.batch_rows, 4.0, 4.0),
    ):
        found = histogram(totals, metric)
        assert list(filled(found, metric)) == [(border, 1)], metric.name
        assert found.total == pytest.approx(total), metric.name


def test_a_failure_is_slow_without_end_and_has_no_time_of_computing() -> None:
    meter = VariantMeter()
    meter.note(Flown(Flag.EVIDENCE | Flag.MASKED, is_hedged=True), 4, math.inf, TIMING)
    totals = reported(meter)
    assert values(totals, REQUESTS.total) == {("m", "v", "OK"): 0, ("m", "v", "DEADLINE_EXCEEDED"): 1}
    assert values(totals, REQUESTS.masked) == values(totals, REQUESTS.hedged) == {("m", "v"): 1}
    duration = histogram(totals, REQUESTS.duration)
    assert list(filled(duration, REQUESTS.duration)) == [(math.inf, 1)]
    assert duration.total == 0.0
    assert sum(histogram(totals, REQUESTS.compute).counts) == 0


def test_a_value_on_a_border_is_below_it() -> None:
    meter = VariantMeter()
    meter.note(Flown(), 0, 50.0, TIMING)
    meter.note(Flown(), 0, math.nextafter(50.0, 51.0), TIMING)
    found = histogram(reported(meter), REQUESTS.duration)
    assert list(filled(found, REQUESTS.duration)) == [(0.05, 1), (0.075, 1)]


def test_times_of_tokens_are_told_where_there_are_any() -> None:
    meter = VariantMeter()
    meter.note(Flown(), 0, 900.0, Timing(0.0, 0.9, 1, first_token_s=0.2, token_s=None))
    meter.note(Flown(), 0, 900.0, Timing(0.0, 0.9, 1, first_token_s=0.1, token_s=0.02))
    totals = reported(meter)
    assert list(filled(histogram(totals, REQUESTS.first_token), REQUESTS.first_token)) == [(0.1, 1), (0.2, 1)]
    assert list(filled(histogram(totals, REQUESTS.token), REQUESTS.token)) == [(0.02, 1)]


def test_reports_add_up_and_count_nothing_twice() -> None:
    meter, tally, totals = VariantMeter(), Tally(), Totals()
    for _ in range(3):
        meter.note(Flown(), 0, 1.0, TIMING)
        meter.note(Flown(), 13, 1.0, TIMING)
        assert len(meter.report(tally, "m", "v")) == 2
        totals.heard(0, tally.take())
    assert values(totals, REQUESTS.total) == {("m", "v", "OK"): 3, ("m", "v", "INTERNAL"): 3}
    assert sum(histogram(totals, REQUESTS.duration).counts) == 6


def test_the_series_of_a_variant_without_requests_are_there_from_the_start() -> None:
    totals = reported(VariantMeter())
    assert values(totals, REQUESTS.total) == {("m", "v", "OK"): 0}
    assert histogram(totals, REQUESTS.duration).counts == [0] * (len(REQUESTS.duration.borders) + 1)
    assert not values(totals, REQUESTS.token), "it does not generate, so far as is known"


def test_the_request_path_charges_the_variant_that_was_assigned(bench: Bench) -> None:
    bench.publish(bench.route(0.5, 0.0))
    bench.draws = [0.1, 0.9]
    bench.infer()
    bench.dispatcher.last.fail(FailureKind.ERROR)
    bench.dispatcher.last.answer()
    bench.infer()
    bench.dispatcher.last.answer()
    tally, totals = Tally(), Totals()
    assert bench.inference.meters.report(tally) == 2
    totals.heard(0, tally.take())
    counted = {labels: value for labels, value in values(totals, REQUESTS.total).items() if value}
    assert counted == {("m", "a", "INTERNAL"): 1, ("m", "base", "OK"): 1}
    assert values(totals, REQUESTS.masked)[("m", "a")] == 1


def test_requests_outside_an_experiment_are_counted_too(bench: Bench) -> None:
    bench.infer(metadata={"x-target-variant": "b"})
    bench.dispatcher.last.answer()
    tally, totals = Tally(), Totals()
    bench.inference.meters.report(tally)
    totals.heard(0, tally.take())
    assert values(totals, REQUESTS.total)[("m", "b", "OK")] == 1


def test_a_request_that_nobody_can_answer_is_counted_as_refused(bench: Bench) -> None:
    bench.infer(bench.request(model_name="stranger"))
    bench.infer(bench.request(rows=1), metadata={"x-target-variant": "stranger"})
    bench.infer()
    bench.dispatcher.last.fail(FailureKind.INPUT)
    refused = {name: count for name, count in bench.inference.counts.items() if name.startswith("refused")}
    assert refused == {"refused: NOT_FOUND": 2, "refused: INVALID_ARGUMENT": 1}
