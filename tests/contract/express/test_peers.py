"""With real peers on every side: grpcio behind, the journal on disk, several connections, variants here and elsewhere."""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest

from anabranch.store.journal import JournalWriter, read_records, segments
from anabranch.store.records import Flag, Routed
from anabranch.wire.seam import Status

Router = Any
Start = Callable[..., Any]

CAND, BASE = ("x-user-id", "user-1"), ("x-user-id", "user-3")
MASKED = Flag.EVIDENCE | Flag.STICKY | Flag.MASKED


@pytest.fixture
def split(start: Start, scripted: ModuleType, grpcio: ModuleType) -> Router:
    """A router before servers on grpcio, that has learnt to split its requests."""
    return learnt(start(server=partial(grpcio.GrpcioServer, scripted)))


def learnt(router: Router) -> Router:
    router.publish(0.5, unit_metadata="x-user-id")
    assert router.ask(None, CAND, timeout=20).variant == "cand"
    assert router.ask(None, BASE).variant == "base"
    return router


def aborting(code: grpc.StatusCode) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    def infer(_request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata((("x-why", "because"),))
        context.abort(code, "it is what it is: 100 %")
        raise AssertionError

    return infer


def test_grpcio_answers(split: Router) -> None:
    with split.takes(50):
        calls = [split.begin(split.request(id=str(n)), ("x-user-id", f"user-{n}")) for n in range(50)]
        results = [split.end(call) for call in calls]
    assert [result.response.id for result in results] == [str(n) for n in range(50)]
    assert {result.variant for result in results} == {"base", "cand"}
    assert len(split.records()) == 52
    seen = [metadata for server in split.servers.values() for _, metadata, _ in server.seen]
    assert all(dict(metadata)["x-user-id"].startswith("user-") for metadata in seen)


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE]
)
def test_grpcio_aborts(split: Router, code: grpc.StatusCode) -> None:
    for server in split.servers.values():
        server.infer = aborting(code)
    with split.takes(1):
        result = split.ask(None, BASE)
    assert (result.status, result.details) == (code, "variant base: it is what it is: 100 %")
    split.servers["base"].infer = None
    result = split.ask(None, CAND)
    assert result.response.model_version == "base"
    record = split.record_of(result)
    assert (record.flags, record.status) == (MASKED, code.value[0])


def test_grpcio_hears_of_deadlines_and_cancellations(split: Router) -> None:
    release, cancelled = threading.Event(), threading.Event()

    def wait(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(cancelled.set)
        release.wait(10)
        return request

    server = split.servers["cand"]
    server.infer = wait
    with split.takes(1):
        call = split.begin(None, CAND, timeout=7)
        split.eventually(lambda: len(server.seen) == 2)
        call.cancel()
        assert cancelled.wait(5)
    assert 6.0 < server.seen[-1][2] <= 7.1
    release.set()
    split.eventually(lambda: split.counts_now().get("failed: CANCELLED") == 1)


def test_grpcio_is_killed_with_requests_in_flight(split: Router) -> None:
    release = threading.Event()
    server = split.servers["cand"]

    def wait(request: bytes, context: grpc.ServicerContext) -> bytes:
        release.wait(10)
        return request

    server.infer = wait
    calls = [split.begin(split.request(id=str(n)), CAND) for n in range(8)]
    split.eventually(lambda: len(server.seen) == 9)
    server.stop()
    results = [split.end(call) for call in calls]
    release.set()
    assert [(result.variant, result.response.id) for result in results] == [
        ("base", str(n)) for n in range(8)
    ]
    assert split.counts() == {"answered": 10, "masked": 8}


def test_the_journal_on_disk_says_the_same(start: Start, tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path, 7)
    router = start(journal=journal)
    router.records = lambda kind=Routed: written(router, tmp_path)
    learnt(router)
    with router.takes(40):
        results = [router.ask(None, ("x-user-id", f"user-{n}")) for n in range(40)]
    records = {record.sequence: record for record in router.records()}
    assert len(records) == 42
    for n, result in enumerate(results):
        said = router.opened(result)
        record = records[said.sequence]
        assert (record.arm, record.flags, record.epoch) == (said.arm, said.flags, said.epoch)
        assert record.unit == router.ids.digest(f"user-{n}".encode())
        assert abs(record.at_s - time.time()) < 20


def written(router: Router, folder: Path) -> list[Routed]:
    router.do(router.commit)
    found = [record for name in segments(folder) for record, _ in read_records(name.path(folder), 0)]
    return [record for record in found if isinstance(record, Routed)]


def test_several_connections_share_the_requests(start: Start) -> None:
    split = learnt(start(connections=3))
    for server in split.servers.values():
        server.behave = lambda asked: asked.later(0.05)
    with split.takes(60):
        calls = [split.begin(None, (CAND, BASE)[n % 2]) for n in range(60)]
        results = [split.end(call) for call in calls]
    assert [result.variant for result in results] == 30 * ["cand", "base"]
    for server in split.servers.values():
        split.eventually(lambda server=server: len(server.connections) == 3)
        used = {id(asked.connection) for asked in server.seen[1:]}
        assert len(used) > 1


def test_a_server_of_few_streams_is_sent_the_rest_later(start: Start, scripted: ModuleType) -> None:
    split = learnt(start(server=partial(scripted.ScriptedServer, most_streams=3)))
    most = 0

    def behave(asked: Any) -> None:
        nonlocal most
        most = max(most, len(asked.connection.open))
        asked.later(0.005)

    for server in split.servers.values():
        server.behave = behave
    calls = [split.begin(split.request(id=str(n)), (CAND, BASE)[n % 2]) for n in range(60)]
    results = [split.end(call) for call in calls]
    assert [result.response.id for result in results] == [str(n) for n in range(60)]
    assert {result.status for result in results} == {grpc.StatusCode.OK}
    assert len(split.records()) == 62
    assert most <= 3
    if split.has_express:
        assert 2 < split.taken < 60


@pytest.mark.parametrize("is_local", ["base", "cand"])
def test_one_variant_here_and_one_elsewhere(start: Start, local: ModuleType, is_local: str) -> None:
    split = learnt(start(local=local.LocalVariant, is_local=(is_local,)))
    with split.takes(20):
        results = [split.ask(split.request(id=str(n)), (CAND, BASE)[n % 2]) for n in range(20)]
    assert [result.variant for result in results] == 10 * ["cand", "base"]
    assert [result.response.id for result in results] == [str(n) for n in range(20)]
    # The candidate fails, wherever it is.
    if is_local == "cand":
        split.locals["cand"].failure = ValueError("broken")
    else:
        split.servers["cand"].behave = lambda asked: asked.fail(Status.INTERNAL)
    with split.takes(1):
        result = split.ask(None, CAND)
    assert result.variant == "base"
    record = split.record_of(result)
    assert (record.arm, record.flags, record.status) == (1, MASKED, Status.INTERNAL)
    assert split.counts() == {"answered": 23, "masked": 1}


def test_answers_are_the_same_to_the_byte(start: Start) -> None:
    router = start()
    for request in (router.request(2, id="7"), router.request(3), router.request(4, id="x" * 200)):
        with router.takes(1):
            bodies = {router.ask(request).body for _ in range(2)}
        assert len(bodies) == 1
    router.publish(1.0)
    for request in (router.request(2, id="7"), router.request(3)):
        first, second = (router.ask(request) for _ in range(2))
        ids = [result.initial["x-assignment-id"].encode() for result in (first, second)]
        assert first.body.replace(ids[0], ids[1]) == second.body


def test_more_than_may_be_held_is_answered_all_the_same(start: Start) -> None:
    """Together the requests are longer than the path holds."""
    router = start()
    request = router.request(31_000)
    router.ask(request)
    router.ask()
    server = router.servers["base"]
    waiting: list[Any] = []
    server.behave = waiting.append
    count = 290
    calls = [router.begin(request) for _ in range(count)]
    router.eventually(lambda: len(waiting) == count, within_s=20)
    router.do(lambda: [asked.answer() for asked in waiting])
    assert {router.end(call).status for call in calls} == {grpc.StatusCode.OK}
    assert router.counts() == {"answered": count + 2}
    server.behave = type(server).behave
    with router.takes(1):
        router.ask()
