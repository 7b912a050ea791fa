"""Reports of workers that come, go and restart, as the supervisor adds them up."""

import orjson
import pytest

from anabranch.router.metrics.catalogue import CATALOGUE, CONTROLLER, REQUESTS, WORKERS, Kind, Metric
from anabranch.router.metrics.samples import Buckets, Tally, Totals


def value(totals: Totals, metric: Metric) -> object:
    (found,) = [sample.value for sample in totals.samples() if sample.metric is metric]
    return found


def test_what_a_worker_counted_survives_it_and_what_it_showed_does_not() -> None:
    totals = Totals()
    for lane, records in ((0, 5), (1, 7)):
        tally = Tally()
        tally.total(WORKERS.journal_records, records)
        tally.shows(WORKERS.serving, 1)
        totals.heard(lane, tally.take())
    assert value(totals, WORKERS.serving) == 2
    totals.keep([1])
    assert value(totals, WORKERS.journal_records) == 12
    assert value(totals, WORKERS.serving) == 1


def test_a_counter_is_told_by_what_it_gained() -> None:
    tally, totals = Tally(), Totals()
    for count in (3, 3, 10):
        tally.total(WORKERS.copies, count)
        totals.heard(0, tally.take())
    assert value(totals, WORKERS.copies) == 10


def test_the_last_word_of_a_worker_replaces_what_it_showed_before() -> None:
    tally, totals = Tally(), Totals()
    for age_s in (50.0, 0.5):
        tally.shows(WORKERS.snapshot_age, age_s)
        totals.heard(0, tally.take())
    assert value(totals, WORKERS.snapshot_age) == 0.5


@pytest.mark.parametrize(
    ("metric", "merged"),
    [(REQUESTS.queued, 7.0), (WORKERS.snapshot_version, 3.0), (WORKERS.snapshot_age, 4.0)],
)
def test_gauges_of_workers_become_one_as_the_catalogue_says(metric: Metric, merged: float) -> None:
    totals = Totals()
    labels = tuple("mv")[: len(metric.labels)]
    for lane, shown in enumerate((3.0, 4.0)):
        tally = Tally()
        tally.shows(metric, shown, *labels)
        totals.heard(lane, tally.take())
    assert value(totals, metric) == merged


def test_a_report_travels_as_json() -> None:
    tally, totals = Tally(), Totals()
    tally.total(REQUESTS.total, 2, "m", "v", "OK")
    tally.measured(CONTROLLER.tick, Buckets([1, 2], 0.5))
    totals.heard(3, orjson.loads(orjson.dumps(tally.take())))
    assert {sample.labels: sample.value for sample in totals.samples()} == {
        ("m", "v", "OK"): 2,
        (): Buckets([1, 2], 0.5),
    }


def test_a_worker_that_has_nothing_to_say_yet_changes_nothing() -> None:
    totals = Totals()
    totals.heard(0, {})
    assert list(totals.samples()) == []


def test_names_follow_prometheus_and_none_is_given_twice() -> None:
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE)
    for metric in CATALOGUE:
        assert metric.name.startswith("anabranch_")
        assert metric.name.endswith("_total") is (metric.kind is Kind.COUNTER), metric.name
        assert bool(metric.borders) is (metric.kind is Kind.HISTOGRAM), metric.name
        assert metric.borders == tuple(sorted(set(metric.borders)))
        assert not {"unit", "user", "client", "request", "id", "peer", "lane"} & set(metric.labels), (
            metric.name
        )
        assert "_ms" not in metric.name, f"{metric.name} is not in base units"
        assert metric.about.endswith(".")
