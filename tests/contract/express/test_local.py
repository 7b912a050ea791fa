"""Variants in this process: only the run itself is Python's."""

import random
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import grpc
import numpy as np
import pytest

from anabranch.bandit.assignment import assign, unit_point
from anabranch.bandit.snapshot import FeedbackRule, MirrorPlan
from anabranch.proto.tensors import decode_outputs
from anabranch.store.records import Flag, Pair
from anabranch.variants.batching import BatchPolicy
from anabranch.wire.seam import Status

Router = Any
Start = Callable[..., Any]

CAND, BASE = ("x-user-id", "user-1"), ("x-user-id", "user-3")
RAW = {unit: (unit[0].encode(), unit[1].encode()) for unit in (CAND, BASE)}
STICKY = Flag.EVIDENCE | Flag.STICKY
MASKED = STICKY | Flag.MASKED


@pytest.fixture
def split(start: Start, local: ModuleType) -> Iterator[Router]:
    """A router that has learnt to split its requests."""
    router = learnt(start(local=local.LocalVariant))
    yield router
    for variant in router.locals.values():
        variant.gate.set()


def learnt(router: Router) -> Router:
    router.publish(0.5, unit_metadata="x-user-id")
    assert router.ask(None, CAND, timeout=20).variant == "cand"
    assert router.ask(None, BASE).variant == "base"
    return router


def test_answers_are_the_same_to_the_byte(start: Start, local: ModuleType) -> None:
    router = start(local=local.LocalVariant)
    request = router.request(3, id="7")
    first = router.ask(request)
    with router.takes(2):
        others = [router.ask(request) for _ in range(2)]
    assert all(other.body == first.body for other in others)
    response = first.response
    assert (response.model_name, response.model_version, response.id) == ("m", "base", "7")
    assert decode_outputs(response)["y"].tolist() == [[1.0] * 3, [5.0] * 3, [9.0] * 3]
    assert [seen.tolist() for seen in router.locals["base"].seen] == 3 * [[[0, 1], [2, 3], [4, 5]]]
    assert router.counts() == {"answered": 3}
    assert router.metered() == {"base": (3, 0, 0), "cand": (0, 0, 0)}
    assert router.ask(router.request(3)).response.id == ""


def test_units_stay_with_their_arms(split: Router) -> None:
    route = split.publish(0.3, unit_metadata="x-user-id")
    split.ask(None, ("x-user-id", "somebody"))
    users = [f"user-{number}" for number in range(60)]
    with split.takes(60):
        calls = [split.begin(split.request(id=user), ("x-user-id", user)) for user in users]
        results = [split.end(call) for call in calls]
    for user, result in zip(users, results, strict=True):
        arm, propensity = assign(route.layout, unit_point(b"5a17", user.encode()))
        said, record = split.opened(result), split.record_of(result)
        assert result.variant == result.response.model_version == route.arms[arm]
        assert result.response.id == user
        assert (said.arm, said.flags, said.top1) == (arm, STICKY, -1)
        assert (record.arm, record.flags, record.status) == (arm, STICKY, 0)
        assert record.propensity == said.propensity == pytest.approx(propensity)
        assert record.unit == split.ids.digest(user.encode())
        assert 1 <= record.batch_rows <= 16
        assert 0.0 <= record.queue_ms + record.compute_ms <= record.latency_ms + 0.1


def test_the_class_that_was_answered_is_in_the_id(split: Router) -> None:
    split.publish(0.5, feedback={"correct": FeedbackRule()})
    assert [split.opened(split.ask()).top1 for _ in range(5)] == 5 * [0]


def test_sampled_requests_are_copied(start: Start, local: ModuleType) -> None:
    router = start(local=local.LocalVariant)
    route = router.publish(0.3, mirror=MirrorPlan(fraction=0.5, arms=(1,), noise_floor=0.0))
    with router.takes(39):
        results = [router.ask() for _ in range(40)]
    draw = random.Random(1).random
    copies = 0
    for result in results:
        arm, is_sampled = assign(route.layout, draw())[0], draw() < 0.5
        if is_sampled and arm == 0:
            copies += 1
            # Whether a copy is one for the noise floor.
            draw()
        assert router.opened(result).arm == arm
        assert router.record_of(result).flags == (Flag.EVIDENCE | Flag.SAMPLED * is_sampled)
    router.eventually(lambda: not any(router.left().values()))
    assert len(router.records(Pair)) == copies > 5


def test_a_candidate_that_fails_is_masked(split: Router) -> None:
    split.locals["cand"].failure = ValueError("broken")
    with split.takes(1):
        result = split.ask(None, CAND)
    assert result.response.model_version == "base"
    record = split.record_of(result)
    assert (record.arm, record.flags, record.status) == (1, MASKED, Status.INTERNAL)
    assert split.counts() == {"answered": 3, "masked": 1}


def test_a_candidate_that_breaks_its_manifest_is_masked(split: Router, monkeypatch: Any) -> None:
    monkeypatch.setattr(split.locals["cand"], "width", 0)
    with split.takes(1):
        result = split.ask(None, CAND)
    assert result.status is grpc.StatusCode.OK
    assert len(split.records()) == 3


def test_a_baseline_that_fails_is_told(split: Router) -> None:
    split.locals["base"].failure = ValueError("broken")
    with split.takes(1):
        result = split.ask(None, BASE)
    assert (result.status.name, result.details) == ("INTERNAL", "variant base failed on this request")
    assert split.counts() == {"answered": 2, "failed: INTERNAL": 1}


def test_inputs_that_a_variant_refuses_are_the_clients_mistake(start: Start, local: ModuleType) -> None:
    router = start(local=lambda manifest: local.LocalVariant(manifest, reads_contents=True))
    router.publish(0.5, unit_metadata="x-user-id")
    negative = bytearray(router.request())
    place = bytes(negative).index(np.float32(1.0).tobytes())
    negative[place : place + 4] = np.float32(-1.0).tobytes()
    assert router.ask(None, CAND).variant == "cand"
    for unit in (CAND, BASE):
        result = router.ask(bytes(negative), unit)
        assert (result.status.name, result.details) == ("INVALID_ARGUMENT", "x is below zero")
    assert len(router.records()) == 1
    assert router.counts() == {"answered": 1, "refused: INVALID_ARGUMENT": 2}


@pytest.mark.parametrize("unit", [CAND, BASE])
@pytest.mark.parametrize("wait_s", [0.0, 0.2])
def test_a_cancelled_request_is_lost(split: Router, unit: tuple[str, str], wait_s: float) -> None:
    variant = split.locals["cand" if unit is CAND else "base"]
    variant.gate.clear()
    with split.takes(1):
        call = split.begin(None, unit)
        split.eventually(lambda: sum(split.left()[name] for name in ("queued", "running")))
        time.sleep(wait_s)
        call.cancel()
        split.eventually(lambda: split.counts_now().get("failed: CANCELLED") == 1)
    variant.gate.set()
    assert split.records()[-1].status == Status.CANCELLED
    assert split.counts() == {"answered": 2, "failed: CANCELLED": 1}


@pytest.mark.parametrize("unit", [CAND, BASE])
def test_a_request_that_is_reset_in_the_read_that_it_came_in(
    split: Router, raw: ModuleType, unit: tuple[str, str]
) -> None:
    client = raw.RawClient(split.port)
    assert client.status(client.send(split.request(), RAW[unit])) == 0
    before = len(split.records())
    with split.takes(11):
        streams = [client.send(split.request(), RAW[unit], flush=False) for _ in range(10)]
        data = client.engine.data_to_send()
        for stream in streams:
            client.engine.reset_stream(stream, raw.CANCEL)
        kept = client.send(split.request(), RAW[unit], flush=False)
        client.socket.sendall(data + client.engine.data_to_send())
        assert client.status(kept) == 0
    split.eventually(lambda: split.counts_now().get("failed: CANCELLED") == 10)
    statuses = [record.status for record in split.records()[before:]]
    assert sorted(statuses) == [0] + 10 * [Status.CANCELLED]
    client.cut()


def test_what_ends_a_connection_ends_requests_that_came_with_it(
    split: Router, raw: ModuleType, frames: ModuleType
) -> None:
    client = raw.RawClient(split.port)
    assert client.status(client.send(split.request(), RAW[CAND])) == 0
    with split.takes(4):
        streams = [client.send(split.request(), RAW[unit], flush=False) for unit in (CAND, BASE, CAND, BASE)]
        data = client.engine.data_to_send()
        bomb = (
            frames.block([(b":method", b"POST")])
            + frames.literal(b"x", b"a" * 3900, indexed=True)
            + b"\xbe" * 40
        )
        reset = frames.frame(frames.RST_STREAM, 0, streams[0], bytes(3) + b"\x08")
        client.socket.sendall(
            data + reset + frames.frame(frames.HEADERS, frames.END_HEADERS, streams[-1] + 2, bomb)
        )
        split.eventually(lambda: len(split.wire._connections) == 1)
    split.eventually(lambda: not any(split.left().values()))
    # On Python alone what was read in vain is dropped: nothing had begun.
    assert split.counts().get("failed: CANCELLED", 0) == (4 if split.has_express else 0)
    client.cut()


def test_a_connection_that_is_cut_ends_its_requests(split: Router, raw: ModuleType) -> None:
    for variant in split.locals.values():
        variant.gate.clear()
    client = raw.RawClient(split.port)
    for number in range(10):
        client.send(split.request(), RAW[(CAND, BASE)[number % 2]])
    split.eventually(lambda: split.left()["queued"] + split.left()["running"] == 10)
    client.cut()
    split.eventually(lambda: split.counts_now().get("failed: CANCELLED") == 10)
    for variant in split.locals.values():
        variant.gate.set()
    assert {record.status for record in split.records()[2:]} == {Status.CANCELLED}


@pytest.mark.parametrize("wait_s", [0.05, 0.2])
def test_a_slow_answer_is_recorded_once(split: Router, wait_s: float) -> None:
    for variant in split.locals.values():
        variant.gate.clear()
    with split.takes(20):
        calls = [split.begin(split.request(id=str(n)), (CAND, BASE)[n % 2]) for n in range(20)]
        split.eventually(lambda: split.left()["queued"] + split.left()["running"] == 20)
        time.sleep(wait_s)
        for variant in split.locals.values():
            variant.gate.set()
        results = [split.end(call) for call in calls]
    assert [result.response.id for result in results] == [str(n) for n in range(20)]
    assert [result.variant for result in results] == 10 * ["cand", "base"]
    assert len(split.records()) == 22
    assert split.counts() == {"answered": 22}


def test_the_baseline_stands_in_for_a_candidate_that_hangs(start: Start, local: ModuleType) -> None:
    split = learnt(start(local=local.LocalVariant, candidate_timeout_s=0.3))
    split.locals["cand"].gate.clear()
    began = time.monotonic()
    with split.takes(1):
        result = split.ask(None, CAND)
    assert time.monotonic() - began > 0.29
    assert result.variant == "base"
    assert split.counts() == {"answered": 3, "masked": 1, "hedged": 1}
    # It hangs now: nobody waits for it any more.
    with split.takes(1):
        result = split.ask(None, CAND)
    assert split.record_of(result).status == Status.UNAVAILABLE
    split.locals["cand"].gate.set()
    split.eventually(lambda: not split.backends[("m", "cand")].unfit())
    with split.takes(1):
        assert split.ask(None, CAND).variant == "cand"


def test_a_deadline_that_passes_is_told(split: Router, raw: ModuleType) -> None:
    client = raw.RawClient(split.port)
    assert client.status(client.send(split.request(), RAW[BASE], (b"grpc-timeout", b"9S"))) == 0
    split.locals["base"].gate.clear()
    with split.takes(1):
        stream = client.send(split.request(), RAW[BASE], (b"grpc-timeout", b"300m"))
        assert client.status(stream) == Status.DEADLINE_EXCEEDED
    assert split.counts() == {"answered": 3, "failed: DEADLINE_EXCEEDED": 1}
    split.locals["base"].gate.set()
    assert split.records()[-1].status == Status.DEADLINE_EXCEEDED
    client.cut()


def test_a_full_queue_refuses_as_ever(start: Start, local: ModuleType) -> None:
    split = learnt(start(local=local.LocalVariant, policy=BatchPolicy(max_batch_size=1, max_queue_size=2)))
    for variant in split.locals.values():
        variant.gate.clear()
    calls = [split.begin(None, BASE) for _ in range(10)]
    time.sleep(0.1)
    for variant in split.locals.values():
        variant.gate.set()
    results = [split.end(call) for call in calls]
    statuses = {result.status.name for result in results}
    assert statuses == {"OK", "RESOURCE_EXHAUSTED"}
    refused = [result for result in results if result.status.name != "OK"]
    assert {result.trailing["x-invoked-variant"] for result in refused} == {"base"}
    assert len(split.records()) == 12


def test_a_drain_answers_what_is_in_flight(split: Router) -> None:
    for variant in split.locals.values():
        variant.gate.clear()
    calls = [split.begin(None, (CAND, BASE)[n % 2]) for n in range(10)]
    split.eventually(lambda: split.left()["queued"] + split.left()["running"] == 10)
    split.loop.call_soon_threadsafe(
        split.loop.call_later, 0.1, lambda: [variant.gate.set() for variant in split.locals.values()]
    )
    split.run(split.wire.drain(5.0))
    assert {split.end(call).status for call in calls} == {grpc.StatusCode.OK}
    assert len(split.records()) == 12
