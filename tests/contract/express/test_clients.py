"""Clients that do not keep to the plain case: streams that are reset, connections that are cut, bytes that come late."""

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from anabranch.store.records import Flag
from anabranch.wire.seam import Limits, Status

Router = Any
Start = Callable[..., Any]

CAND, BASE = (b"x-user-id", b"user-1"), (b"x-user-id", b"user-3")


def never(_asked: Any) -> None:
    """Says nothing."""


@pytest.fixture
def split(router: Router, raw: ModuleType) -> Router:
    return learnt(router, raw)


def learnt(router: Router, raw: ModuleType) -> Router:
    """A router that has learnt to split the requests of raw clients."""
    router.publish(0.5, unit_metadata="x-user-id")
    client = raw.RawClient(router.port)
    for unit in (CAND, BASE):
        assert client.status(client.send(router.request(), unit)) == 0
    client.cut()
    return router


def answered(router: Router) -> dict[str, int]:
    """The counts but for the requests that taught the path."""
    counts = router.counts()
    counts["answered"] -= 2
    return {name: count for name, count in counts.items() if count}


@pytest.mark.parametrize("unit", [CAND, BASE])
@pytest.mark.parametrize("wait_s", [0.0, 0.02, 0.2])
def test_a_reset_ends_the_request_and_no_other(
    split: Router, raw: ModuleType, unit: tuple[bytes, bytes], wait_s: float
) -> None:
    server = split.servers["cand" if unit is CAND else "base"]
    before = len(server.seen)
    server.behave = never
    client = raw.RawClient(split.port)
    with split.takes(2):
        first, second = (client.send(split.request(), unit) for _ in range(2))
        split.eventually(lambda: len(server.seen) == before + 2)
        time.sleep(wait_s)
        client.reset(first)
        split.eventually(lambda: server.seen[before].is_cancelled)
        split.do(server.seen[before + 1].answer)
        assert client.status(second) == 0
    assert answered(split) == {"answered": 1, "failed: CANCELLED": 1}
    split.eventually(lambda: not any(split.left().values()))
    lost, won = split.records()[2:]
    assert (lost.status, lost.latency_ms, lost.arm) == (Status.CANCELLED, float("inf"), int(unit is CAND))
    assert (won.status, won.arm) == (0, int(unit is CAND))
    client.cut()


def test_a_request_that_is_reset_at_once(split: Router, raw: ModuleType) -> None:
    """The reset comes in the same read as the request."""
    client = raw.RawClient(split.port)
    split.servers["cand"].behave = never
    streams = [client.send(split.request(), CAND, flush=False) for _ in range(20)]
    data = client.engine.data_to_send()
    for stream in streams:
        client.engine.reset_stream(stream, 8)
    client.socket.sendall(data + client.engine.data_to_send())
    split.eventually(lambda: split.counts_now().get("failed: CANCELLED") == 20)
    split.eventually(lambda: not any(split.left().values()))
    assert {record.status for record in split.records()[2:]} == {Status.CANCELLED}
    client.cut()


@pytest.mark.parametrize("wait_s", [0.0, 0.02, 0.2])
def test_a_connection_that_is_cut_ends_its_requests(split: Router, raw: ModuleType, wait_s: float) -> None:
    for server in split.servers.values():
        server.behave = never
    client, other = raw.RawClient(split.port), raw.RawClient(split.port)
    with split.takes(13):
        for number in range(12):
            client.send(split.request(), (CAND, BASE)[number % 2])
        kept = other.send(split.request(), CAND)
        split.eventually(lambda: sum(len(server.seen) for server in split.servers.values()) == 15)
        time.sleep(wait_s)
        client.cut()
        split.eventually(lambda: split.counts_now().get("failed: CANCELLED") == 12)
        split.eventually(
            lambda: sum(each.is_cancelled for server in split.servers.values() for each in server.seen) == 12
        )
        for each in split.servers["cand"].seen:
            if not (each.is_cancelled or each.is_over):
                split.do(each.answer)
        assert other.status(kept) == 0
    assert answered(split) == {"answered": 1, "failed: CANCELLED": 12}
    assert len(split.records()) == 15
    other.cut()


def test_a_connection_that_is_cut_under_its_answers(
    split: Router, raw: ModuleType, scripted: ModuleType
) -> None:
    data = bytes(240_000)
    for server in split.servers.values():
        server.behave = lambda asked: asked.answer(scripted.scores(asked.message, data))
    for _ in range(10):
        client = raw.RawClient(split.port)
        for number in range(10):
            client.send(split.request(), (CAND, BASE)[number % 2])
        client.read()
        client.cut()
    split.eventually(lambda: not any(split.left().values()))
    split.eventually(lambda: not split.wire._connections)
    counts = answered(split)
    assert sum(counts.values()) == len(split.records()) - 2
    assert set(counts) <= {"answered", "failed: CANCELLED"}


def test_what_ends_a_connection_ends_each_request_on_it(
    split: Router, raw: ModuleType, frames: ModuleType
) -> None:
    """A reset, and a block of fields beyond every limit behind it, in one read."""
    for server in split.servers.values():
        server.behave = never
    client = raw.RawClient(split.port)
    with split.takes(3):
        streams = [client.send(split.request(), unit) for unit in (CAND, BASE, CAND)]
        split.eventually(lambda: sum(len(server.seen) for server in split.servers.values()) == 5)
        bomb = (
            frames.block([(b":method", b"POST")])
            + frames.literal(b"x", b"a" * 3900, indexed=True)
            + b"\xbe" * 40
        )
        resets = [frames.frame(frames.RST_STREAM, 0, stream, bytes(3) + b"\x08") for stream in streams[:2]]
        client.socket.sendall(
            b"".join(resets) + frames.frame(frames.HEADERS, frames.END_HEADERS, streams[-1] + 2, bomb)
        )
        split.eventually(lambda: split.counts_now().get("failed: CANCELLED") == 3)
    split.eventually(
        lambda: sum(each.is_cancelled for server in split.servers.values() for each in server.seen) == 3
    )
    assert {record.status for record in split.records()[2:]} == {Status.CANCELLED}
    client.cut()


@pytest.mark.parametrize("cuts", [(1,), (5,), (5, 6), (3, 5, 20), (30,)])
def test_a_request_may_come_in_pieces(split: Router, raw: ModuleType, cuts: tuple[int, ...]) -> None:
    client = raw.RawClient(split.port)
    for unit in (CAND, BASE):
        stream = client.open(unit)
        message = split.request(id="7")
        body = b"\0" + len(message).to_bytes(4, "big") + message
        begin = 0
        for cut in (*cuts, len(body)):
            client.engine.send_data(stream, body[begin:cut])
            client.flush()
            begin = cut
            time.sleep(0.005)
        client.engine.end_stream(stream)
        client.flush()
        assert client.status(stream) == 0
    assert answered(split) == {"answered": 2}
    assert len(split.records()) == 4
    client.cut()


@pytest.mark.parametrize("wait_s", [0.0, 0.01])
def test_a_request_that_stays_open_is_not_answered(split: Router, raw: ModuleType, wait_s: float) -> None:
    client = raw.RawClient(split.port)
    message = split.request()
    body = b"\0" + len(message).to_bytes(4, "big") + message
    with split.takes(0):
        stream = client.open(CAND)
        client.engine.send_data(stream, body)
        client.flush()
        time.sleep(0.03)
        assert split.records()[2:] == []
        time.sleep(wait_s)
        client.reset(stream)
    split.eventually(lambda: not any(split.left().values()))
    client.cut()


@pytest.mark.parametrize(
    "body",
    [b"", b"\0\0", b"\0\0\0\0\5abc", b"\1\0\0\0\3abc", b"\0\0\0\0\1a\0\0\0\0\1b", b"\0\xff\xff\xff\xff"],
)
def test_bodies_that_are_no_message_are_refused(split: Router, raw: ModuleType, body: bytes) -> None:
    client = raw.RawClient(split.port)
    with split.takes(0):
        stream = client.open(CAND)
        client.engine.send_data(stream, body, end_stream=True)
        client.flush()
        assert client.status(stream) != 0
    assert len(split.records()) == 2
    client.cut()


def test_a_client_that_reads_slowly_gets_every_answer(
    start: Start, raw: ModuleType, scripted: ModuleType
) -> None:
    split = learnt(start(), raw)
    data = bytes(range(240)) * 800
    for server in split.servers.values():
        server.behave = lambda asked: asked.answer(scripted.scores(asked.message, data))
    client = raw.RawClient(split.port, window_bytes=70_000)
    streams = [client.send(split.request(id=str(n)), (CAND, BASE)[n % 2]) for n in range(60)]
    time.sleep(0.1)
    client.wait(*streams)
    assert all(client.status(stream) == 0 and data in client.bodies[stream] for stream in streams)
    assert len(split.records()) == 62
    client.cut()


def test_a_client_that_never_reads_is_held_up(start: Start, raw: ModuleType, scripted: ModuleType) -> None:
    """Of what is left unread, no more is made than limits allow; the rest waits, and is not lost."""
    split = learnt(start(limits=Limits(write_buffer_bytes=300_000)), raw)
    data = bytes(240_000)
    for server in split.servers.values():
        server.behave = lambda asked: asked.answer(scripted.scores(asked.message, data))
    client = raw.RawClient(split.port, window_bytes=1000)
    streams = []
    for number in range(30):
        streams.append(client.send(split.request(), (CAND, BASE)[number % 2]))
        time.sleep(0.005)
    time.sleep(0.1)
    before = split.counts_now()["answered"]
    assert before < 12
    client.cut()
    split.eventually(lambda: not any(split.left().values()))
    counts = answered(split)
    assert len(split.records()) - 2 == sum(counts.values()) < 15


def test_deadlines_of_a_client_that_does_not_look_at_them(split: Router, raw: ModuleType) -> None:
    for server in split.servers.values():
        server.behave = never
    client = raw.RawClient(split.port)
    split.servers["cand"].behave = type(split.servers["cand"]).behave
    assert client.status(client.send(split.request(), CAND, (b"grpc-timeout", b"9S"))) == 0
    with split.takes(1):
        began = time.monotonic()
        stream = client.send(split.request(), BASE, (b"grpc-timeout", b"300m"))
        assert client.status(stream) == 4
        assert 0.29 < time.monotonic() - began < 2.0
    last = split.records()[-1]
    assert (last.status, last.flags) == (Status.DEADLINE_EXCEEDED, Flag.EVIDENCE | Flag.STICKY)
    split.eventually(lambda: split.servers["base"].seen[-1].is_cancelled)
    client.cut()


def test_first_requests_that_come_together_teach_once(router: Router, raw: ModuleType) -> None:
    client = raw.RawClient(router.port)
    assert client.status(client.send(router.request(100))) == 0
    kinds = range(1, 9)
    for rows in kinds:
        streams = [client.send(router.request(rows), flush=False) for _ in range(20)]
        client.flush()
        assert {client.status(stream) for stream in streams} == {0}
    with router.takes(len(kinds)):
        assert {client.status(client.send(router.request(rows))) for rows in kinds} == {0}
    # There is more to be learnt of each.
    for taken in (0, 8):
        with router.takes(taken):
            timed = [client.send(router.request(rows), (b"grpc-timeout", b"9S")) for rows in kinds]
            assert {client.status(stream) for stream in timed} == {0}
    client.cut()


def test_what_cannot_be_learnt_does_not_hinder_what_can(router: Router, raw: ModuleType) -> None:
    client = raw.RawClient(router.port)
    for number in range(30):
        extra = (b"x-raw-bin", b"AP8") if number % 2 else (b"x-target-variant", b"cand")
        assert client.status(client.send(router.request(), extra)) == 0
    assert client.status(client.send(router.request())) == 0
    with router.takes(1):
        assert client.status(client.send(router.request())) == 0
    client.cut()
