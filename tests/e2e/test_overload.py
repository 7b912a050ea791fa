"""More is asked than models can answer: copies give way, then batch work, then the rest is refused at once; and it passes by itself.

The worker's only thread is kept by large requests, whose size is tried until they take long enough: how fast the machine is
does not matter. Meanwhile the candidate's queue, of eight places, is filled by copies, by batch work and by urgent work in turn.
"""

import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import encode_inputs
from anabranch.store.records import Pair, Routed

Serve = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Wait = Callable[..., None]

PLACES = 8
COPIES = PLACES - 1
URGENT, SECOND, BATCH = 1, 2, 3
LONG_S = 8.0
COPIED = [{"mirror": {"percent": 100, "until": {"agreement": "decided"}, "maxDuration": "1h"}}]
AGREEMENT = {"name": "agreement", "source": "mirror.top1_agreement", "role": "guardrail", "min": 0.5}


class Crowd:
    """Requests that are under way at once, over one connection."""

    def __init__(self, served: Any) -> None:
        self._client = served.client()
        self._infer: Any = self._client.channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=pb.ModelInferResponse.FromString,
        )

    def ask(self, variant: str = "", priority: int = URGENT, rows: int = 1) -> Any:
        """Send a request and do not wait; without a variant, the experiment chooses."""
        request = pb.ModelInferRequest(
            model_name="digits",
            model_version=variant,
            parameters={"priority": pb.InferParameter(int64_param=priority)},
        )
        encode_inputs(request, {"pixels": np.full((rows, 64), 0.5, np.float32)})
        return self._infer.future(request, timeout=120)

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def served(serve: Serve) -> Any:
    return serve(**{"metrics-port": 0, "max-queue": PLACES, "baseline": "digits=plain"})


@pytest.fixture
def crowd(served: Any) -> Iterator[Crowd]:
    made = Crowd(served)
    yield made
    made.close()


def metric(served: Any, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels."""
    with urllib.request.urlopen(served.metrics, timeout=30) as response:
        text = response.read().decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"anabranch_{name}" and labels.items() <= sample.labels.items()
    )


def codes(asked: list[Any]) -> Counter[grpc.StatusCode]:
    return Counter(each.code() for each in asked)


def rows_that_take_long(crowd: Crowd) -> int:
    """How many rows keep the thread for `LONG_S`."""
    rows, took_s = 256, 0.0
    while True:
        begun = time.monotonic()
        crowd.ask("wide", rows=rows).result()
        took_s = time.monotonic() - begun
        if took_s >= LONG_S / 16:
            return int(rows * LONG_S / took_s)
        rows *= 2


@pytest.mark.timeout(300)
def test_copies_give_way_first_then_batch_work_then_the_rest_is_refused_and_all_is_accounted_for(
    served: Any, crowd: Crowd, experiment: Make, wait_until: Wait
) -> None:
    served.apply(experiment("copied", ["wide"], COPIED, [AGREEMENT], baseline="plain"))
    probes: list[Any] = []

    def is_copied() -> bool:
        probes.append(crowd.ask())
        return "assignment_id" in probes[-1].result().parameters

    wait_until(is_copied, "the experiment is in force")
    wait_until(lambda: metric(served, "mirror_copies_in_flight") == 0, "its first copies are compared")
    rows = rows_that_take_long(crowd)

    # While the first large request runs, some to be copied wait, and behind them another large one. The answers make
    # copies, which wait as long as somebody waits for an answer.
    first = crowd.ask("wide", rows=rows // 2)
    wait_until(lambda: metric(served, "queued_requests") == 0, "it is under way")
    begun = [crowd.ask() for _ in range(COPIES)]
    large = crowd.ask("wide", SECOND, rows=rows)
    assert codes([first, *begun]) == {grpc.StatusCode.OK: 1 + COPIES}
    wait_until(lambda: metric(served, "queued_requests", variant="wide") == COPIES, "the copies wait")

    batch = [crowd.ask("wide", BATCH) for _ in range(PLACES)]
    wait_until(
        lambda: metric(served, "mirror_dropped_copies_total", reason="shed") == COPIES, "copies give way"
    )
    assert not any(each.done() for each in batch), "and nothing else does"

    urgent = [crowd.ask("wide", URGENT) for _ in range(PLACES)]
    assert codes(batch) == {grpc.StatusCode.RESOURCE_EXHAUSTED: PLACES}
    assert {each.details() for each in batch} == {"the queue is full of more urgent requests"}
    refused = [crowd.ask("wide", URGENT) for _ in range(PLACES)]
    assert codes(refused) == {grpc.StatusCode.RESOURCE_EXHAUSTED: PLACES}
    assert all("busy, try again later" in each.details() for each in refused)
    assert not large.done(), "all of it happens at once, and not when the queue moves"
    assert not any(each.done() for each in urgent)

    # It passes by itself.
    assert large.code() is grpc.StatusCode.OK
    assert codes(urgent) == {grpc.StatusCode.OK: PLACES}
    assert codes([crowd.ask("wide", BATCH) for _ in range(PLACES)]) == {grpc.StatusCode.OK: PLACES}
    after = [crowd.ask() for _ in range(PLACES)]
    assert codes(after) == {grpc.StatusCode.OK: PLACES}

    mine = [*probes, *begun, *after]
    ids = [each.result().parameters["assignment_id"].string_param for each in mine]
    given = [served.open_id(each) for each in ids if each]
    # Copies of the baseline to itself, which come now and then, are of arm 0.
    wait_until(
        lambda: (
            sum(isinstance(record, Pair) and record.arm == 1 for _, record in served.records())
            == len(given) - COPIES
        ),
        "every copy is compared, or was given up",
    )
    assert metric(served, "mirror_dropped_copies_total") == COPIES
    assert served.stop() == 0
    records = [(name, record) for name, record in served.records()]
    routed = Counter((name.lane, record.sequence) for name, record in records if isinstance(record, Routed))
    assert routed == Counter((assignment.lane, assignment.sequence) for assignment in given)
    assert served.requests_in_evidence("copied") == len(given)
