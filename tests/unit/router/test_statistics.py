"""What Triton's clients read of a worker's variants."""

from typing import Any, cast

import pytest

from anabranch.proto import open_inference_pb2 as pb
from anabranch.router.backends import LocalBackend
from anabranch.router.metrics.samples import Tally
from anabranch.router.models import UnknownModel
from anabranch.router.statistics import statistics_of
from anabranch.variants.batching import FailureKind, QueueLoad

Bench = Any


class Busy:
    def load(self, _name: str) -> QueueLoad:
        return QueueLoad(queued=0, running=0, batch_s=0.1, batches=3, rows=20)


def ask(bench: Bench, **names: str) -> list[pb.ModelStatistics]:
    bench.inference.meters.report(Tally())
    backends = {("m", "a"): LocalBackend(cast(Any, Busy()), "m/a")}
    request = pb.ModelStatisticsRequest(**names)
    return list(statistics_of(request, bench.models, bench.inference.meters, backends).model_stats)


def test_answers_failures_and_their_times_are_told_by_variant(bench: Bench) -> None:
    for _ in range(2):
        bench.infer(metadata={"x-target-variant": "a"})
        bench.now += 0.010
        bench.dispatcher.last.answer()
    bench.infer(metadata={"x-target-variant": "a"})
    bench.dispatcher.last.fail(FailureKind.ERROR)
    (found,) = ask(bench, name="m", version="a")
    stats = found.inference_stats
    assert (stats.success.count, stats.fail.count) == (2, 1)
    assert stats.success.ns == pytest.approx(20e6)
    assert (stats.queue.ns, stats.compute_infer.ns) == pytest.approx((2e6, 4e6))
    assert (found.execution_count, found.inference_count) == (3, 20), "what ran, copies included"


def test_without_names_everything_is_told(bench: Bench) -> None:
    assert [(found.name, found.version) for found in ask(bench)] == [("m", "a"), ("m", "b"), ("m", "base")]
    assert [found.version for found in ask(bench, name="m/b")] == ["b"]


def test_what_is_not_served_is_not_found(bench: Bench) -> None:
    with pytest.raises(UnknownModel, match="stranger"):
        ask(bench, name="stranger")
