"""Classes of priority: from what a request says to its place in the queue, and to what is counted of it."""

import math
from typing import Any

import pytest

from anabranch.router import classes
from anabranch.router.classes import PRIORITY, PriorityClass
from anabranch.router.metrics.catalogue import PRIORITIES, Metric
from anabranch.router.metrics.meter import Meters
from anabranch.router.metrics.samples import Tally, Totals
from anabranch.store.records import Flag
from anabranch.variants.batching import Timing
from anabranch.wire.seam import Status

Bench = Any


@pytest.mark.parametrize(("named", "level"), [("realtime", 1), ("interactive", 2), ("batch", 3)])
def test_a_request_names_its_class_by_metadata(bench: Bench, named: str, level: int) -> None:
    bench.infer(metadata={PRIORITY: named})
    assert bench.dispatcher.last.priority == level


def test_metadata_and_parameter_may_say_the_same_and_not_different_things(bench: Bench) -> None:
    request = bench.request()
    request.parameters["priority"].int64_param = 3
    bench.infer(request, metadata={PRIORITY: "batch"})
    assert bench.dispatcher.last.priority == 3
    ((status, message),) = bench.infer(request, metadata={PRIORITY: "realtime"}).failures
    assert status is Status.INVALID_ARGUMENT
    assert message == (
        "x-priority is 'realtime', which is priority 1, but the parameter priority is 3: send one of them"
    )


@pytest.mark.parametrize("named", ["", "urgent", "Batch", b"batch"])
def test_a_class_that_there_is_not_is_refused_with_those_there_are(bench: Bench, named: Any) -> None:
    ((status, message),) = bench.infer(metadata={PRIORITY: named}).failures
    assert status is Status.INVALID_ARGUMENT
    assert message == f"x-priority is {named!r}: there are realtime, interactive, batch"


def test_levels_beyond_the_last_class_are_of_it() -> None:
    assert [classes.class_of(level) for level in (1, 2, 3, 99)] == [
        PriorityClass.REALTIME,
        PriorityClass.INTERACTIVE,
        PriorityClass.BATCH,
        PriorityClass.BATCH,
    ]


def test_targets_are_checked_by_name_and_size() -> None:
    assert classes.targets({"batch": 9.0}) == {"realtime": 50.0, "interactive": 200.0, "batch": 9.0}
    assert classes.target_problems({"batch": 9.0}) == []
    assert classes.target_problems({"urgent": 1.0, "batch": 0.0, "realtime": math.nan}) == [
        "class_targets_ms has 'urgent': there are realtime, interactive, batch",
        "class_targets_ms has 0 for batch, must be positive and finite",
        "class_targets_ms has nan for realtime, must be positive and finite",
    ]


class Flown:
    flags = Flag.NONE
    is_hedged = False

    def __init__(self, level: int, took_ms: float) -> None:
        self.level, self.took_ms = level, took_ms


def test_requests_are_counted_by_class_as_their_clients_waited(bench: Bench) -> None:
    meters = Meters(bench.models, {"realtime": 50.0, "interactive": 200.0, "batch": 5000.0})
    (one, other) = list(meters["m"].values())[:2]
    timing = Timing(0.0, 0.0, 1)
    for meter, level, took_ms in (
        (one, 1, 50.0),
        (other, 1, 51.0),
        (one, 3, 4_000.0),
        (other, 42, math.inf),
    ):
        # A candidate that was stood in for is charged without end; its client waited for the baseline only.
        meter.note(Flown(level, took_ms), 0, math.inf, timing)
    tally, totals = Tally(), Totals()
    assert meters.report(tally) == 4
    totals.heard(0, tally.take())

    def values(metric: Metric) -> dict[tuple[str, ...], Any]:
        return {sample.labels: sample.value for sample in totals.samples() if sample.metric is metric}

    assert values(PRIORITIES.within) == {("m", "realtime"): 1, ("m", "batch"): 1}
    durations = values(PRIORITIES.duration)
    assert {labels: sum(buckets.counts) for labels, buckets in durations.items()} == {
        ("m", "realtime"): 2,
        ("m", "batch"): 2,
    }
    assert durations["m", "batch"].counts[-1] == 1
    assert durations["m", "realtime"].total == pytest.approx(0.101)
