import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch import _native
from anabranch.wire.engine import Engine, EngineError, Event, PlainEngine
from anabranch.wire.grpc_framing import OK_TRAILERS, RESPONSE_HEADERS, frame

PATH = b"/test.Wire/Echo"
KNOWN = ("the handler",)
FIELDS = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", PATH),
    (b":authority", b"test"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
    (b"grpc-timeout", b"5S"),
    (b"x-unit", b"user-7"),
]
WINDOW = 1 << 20

NewEngine = Callable[..., Any]
BOTH = pytest.mark.parametrize("new", [PlainEngine, _native.NativeEngine])


def pair(new: NewEngine, *, most_message_bytes: int = 1 << 22) -> tuple[Engine, Engine]:
    """A client and a server that have greeted each other."""
    client = new(None, max_header_bytes=65536, max_message_bytes=most_message_bytes)
    server = new({PATH: KNOWN}, max_header_bytes=65536, max_message_bytes=most_message_bytes)
    for each in (client, server):
        each.initiate({4: WINDOW}, WINDOW)
    for _ in range(2):
        carry(client, server)
        carry(server, client)
    client.events(), server.events()
    return client, server


def carry(source: Engine, target: Engine, cuts: Iterator[int] | None = None) -> None:
    """Move what is to be sent, in pieces of the sizes given."""
    data = source.data_to_send(1 << 24)
    while data:
        size = len(data) if cuts is None else min(next(cuts), len(data))
        target.receive(memoryview(data), size)
        data = data[size:]


def bodies(events: list[tuple[Any, ...]]) -> dict[int, bytes]:
    """By stream, the bytes that came, with the prefix of each message, whichever events they came in."""
    found: dict[int, bytes] = {}
    for event in events:
        match event:
            case (Event.CALL, stream, _, _, _, message) | (Event.ANSWER, stream, _, message, _):
                assert stream not in found, "a whole call comes once"
                found[stream] = frame(message)
            case (Event.DATA, stream, data, _):
                found[stream] = found.get(stream, b"") + data
    return found


def test_a_request_that_comes_whole_is_one_event() -> None:
    client, server = pair(_native.NativeEngine)
    stream = client.request(FIELDS, b"mess", b"age")
    carry(client, server)
    assert server.events() == [(Event.CALL, stream, KNOWN, tuple(FIELDS), b"5S", b"message")]


def test_a_response_that_comes_whole_is_one_event() -> None:
    client, server = pair(_native.NativeEngine)
    stream = client.request(FIELDS, b"message", b"")
    carry(client, server)
    server.respond(stream, RESPONSE_HEADERS, b"ans", b"wer", OK_TRAILERS)
    carry(server, client)
    assert client.events() == [(Event.ANSWER, stream, tuple(RESPONSE_HEADERS), b"answer", tuple(OK_TRAILERS))]


@BOTH
@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b":path", b"/test.Wire/Unknown"),
        (b":method", b"PUT"),
        (b"content-type", b"application/grpc+proto"),
        (b"grpc-encoding", b"identity"),
    ],
)
def test_an_unusual_request_comes_frame_by_frame(new: NewEngine, name: bytes, value: bytes) -> None:
    client, server = pair(new)
    fields = [(name, value) if field[0] == name else field for field in FIELDS]
    stream = client.request(fields if (name, value) in fields else [*FIELDS, (name, value)], b"message", b"")
    carry(client, server)
    kinds = [event[0] for event in server.events()]
    assert kinds == [Event.REQUEST, Event.DATA]
    assert stream == 1


@BOTH
def test_what_comes_in_two_reads_is_reported_at_the_end_of_each(new: NewEngine) -> None:
    client, server = pair(new)
    client.request(FIELDS, b"message", b"")
    data = client.data_to_send(1 << 20)
    server.receive(memoryview(data), len(data) - 3)
    first = [event[0] for event in server.events()]
    server.receive(memoryview(data)[-3:], 3)
    last = list(server.events())
    assert first[0] == Event.REQUEST, "a deadline runs from the request's first read on"
    assert last[-1][0] == Event.DATA
    assert last[-1][3], "the stream's end comes with its last bytes"


@BOTH
def test_two_messages_of_a_unary_call_are_both_reported(new: NewEngine) -> None:
    client, server = pair(new)
    stream = client.send_request(FIELDS)
    both = frame(b"one") + frame(b"two")
    client.send_data(stream, both)
    client.end_stream(stream)
    carry(client, server)
    assert bodies(list(server.events())) == {stream: both}


@BOTH
def test_a_message_over_the_limit_is_not_put_together(new: NewEngine) -> None:
    client, server = pair(new, most_message_bytes=100)
    stream = client.request(FIELDS, bytes(101), b"")
    carry(client, server)
    events = list(server.events())
    assert Event.CALL not in [event[0] for event in events]
    assert bodies(events) == {stream: frame(bytes(101))}


@BOTH
def test_a_stream_that_is_gone_takes_no_answer(new: NewEngine) -> None:
    client, server = pair(new)
    stream = client.request(FIELDS, b"message", b"")
    carry(client, server)
    client.reset_stream(stream, 8)
    carry(client, server)
    assert (Event.CLOSED, stream, 8) in [tuple(event[:3]) for event in server.events()]
    with pytest.raises(EngineError):
        server.respond(stream, RESPONSE_HEADERS, b"answer", b"", OK_TRAILERS)


@BOTH
def test_after_a_failure_every_call_is_refused(new: NewEngine) -> None:
    server = new({PATH: KNOWN}, max_header_bytes=65536, max_message_bytes=1 << 20)
    server.initiate({}, WINDOW)
    garbage = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"
    with pytest.raises(EngineError):
        server.receive(memoryview(garbage), len(garbage))
    for refused in (
        lambda: server.ping(bytes(8)),
        lambda: server.reset_stream(1, 8),
        server.send_shutdown_notice,
    ):
        with pytest.raises(EngineError):
            refused()


@BOTH
def test_fields_that_are_no_pairs_of_bytes_are_refused(new: NewEngine) -> None:
    client, server = pair(new)
    stream = client.request(FIELDS, b"message", b"")
    carry(client, server)
    wrong: Any = [("grpc-status", "0")]
    with pytest.raises(TypeError):
        server.respond(stream, RESPONSE_HEADERS, b"answer", b"", wrong)
    with pytest.raises(TypeError):
        client.request(wrong, b"message", b"")


@pytest.mark.parametrize("count", [1023, 1024])
def test_as_many_fields_as_are_taken_in_are_given_back(count: int) -> None:
    client, server = pair(_native.NativeEngine)
    many = [(b"x", b"")] * count
    stream = client.request(FIELDS + many[len(FIELDS) :], b"message", b"")
    carry(client, server)
    server.respond(stream, RESPONSE_HEADERS, b"answer", b"", many)
    carry(server, client)
    [(kind, _, _, message, trailers)] = client.events()
    assert (kind, message, trailers) == (Event.ANSWER, b"answer", tuple(many))


def test_more_fields_than_are_taken_in_are_refused() -> None:
    client, _ = pair(_native.NativeEngine)
    with pytest.raises(TypeError):
        client.request([(b"x", b"")] * 1025, b"message", b"")


def test_fields_that_end_their_stream_while_they_are_made_find_it_gone() -> None:
    client, server = pair(_native.NativeEngine)

    def ending(stream: int, fields: Any) -> Iterator[tuple[bytes, bytes]]:
        client.reset_stream(stream, 8)
        carry(client, server)
        yield from fields

    calls: list[Callable[[int], None]] = [
        lambda stream: server.respond(stream, ending(stream, RESPONSE_HEADERS), b"a", b"", OK_TRAILERS),  # type: ignore[arg-type]
        lambda stream: server.respond(stream, RESPONSE_HEADERS, b"a", b"", ending(stream, OK_TRAILERS)),  # type: ignore[arg-type]
        lambda stream: server.send_response(stream, ending(stream, RESPONSE_HEADERS), False),  # type: ignore[arg-type]
        lambda stream: server.send_trailers(stream, ending(stream, OK_TRAILERS)),  # type: ignore[arg-type]
    ]
    for call in calls:
        stream = client.request(FIELDS, b"message", b"")
        carry(client, server)
        with pytest.raises(EngineError):
            call(stream)


def test_a_call_from_within_a_read_is_refused() -> None:
    refused: set[str] = set()

    class Reentrant:
        def __hash__(self) -> int:
            return hash(PATH)

        def __eq__(self, other: object) -> bool:
            calls: dict[str, Callable[[], object]] = {
                "data_to_send": lambda: server.data_to_send(1 << 20),
                "receive": lambda: server.receive(memoryview(b"x"), 1),
                "reset_stream": lambda: server.reset_stream(1, 8),
            }
            for name, call in calls.items():
                with pytest.raises(EngineError, match="from within"):
                    call()
                refused.add(name)
            return False

    unary: dict[Any, object] = {Reentrant(): KNOWN}
    server = _native.NativeEngine(unary, max_header_bytes=65536, max_message_bytes=1 << 20)
    server.initiate({}, WINDOW)
    client = _native.NativeEngine(None, max_header_bytes=65536, max_message_bytes=1 << 20)
    client.initiate({}, WINDOW)
    client.request(FIELDS, b"message", b"")
    carry(client, server)
    assert refused == {"data_to_send", "receive", "reset_stream"}
    assert Event.REQUEST in [event[0] for event in server.events()]
    server.ping(bytes(8))


@BOTH
def test_a_message_that_a_prefix_cannot_announce_is_refused(new: NewEngine) -> None:
    client, server = pair(new)
    stream = client.request(FIELDS, b"message", b"")
    carry(client, server)
    half = bytes(1 << 31)  # never touched: it takes no memory
    with pytest.raises((ValueError, struct.error)):
        client.request(FIELDS, half, half)
    with pytest.raises((ValueError, struct.error)):
        server.respond(stream, RESPONSE_HEADERS, half, half, OK_TRAILERS)


def test_a_body_that_never_falls_idle_keeps_its_room() -> None:
    client, server = pair(_native.NativeEngine)
    stream = client.send_request(FIELDS)
    part = bytes(16_384)  # a frame
    client.send_data(stream, part)

    def pass_on() -> None:
        client.send_data(stream, part)
        sent = client.data_to_send(1)
        server.receive(memoryview(sent), len(sent))
        for event in server.events():
            if event[0] == Event.DATA:
                server.acknowledge(stream, len(event[2]))
        carry(server, client)
        assert client.waiting_on(stream) >= len(part)

    for _ in range(20):
        pass_on()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(2_000):
            pass_on()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 8_192, "two parts wait, however many went"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32), sizes=st.lists(st.integers(0, 70_000), min_size=1, max_size=8))
@BOTH
def test_messages_survive_whatever_the_reads(new: NewEngine, seed: int, sizes: list[int]) -> None:
    rng = random.Random(seed)
    client, server = pair(new)

    def cuts() -> Iterator[int]:
        while True:
            yield rng.choice((1, 5, 9, 14, 100, 5_000, 40_000, 262_144))

    sent = {
        client.request(FIELDS, message[: len(message) // 3], message[len(message) // 3 :]): message
        for message in (rng.randbytes(size) for size in sizes)
    }
    received: list[tuple[Any, ...]] = []
    answered: list[tuple[Any, ...]] = []
    open_streams = set(sent)
    for _ in range(200):
        carry(client, server, cuts())
        for event in server.events():
            received.append(event)
            if event[0] == Event.DATA and event[2]:
                server.acknowledge(event[1], len(event[2]))
            is_end = event[0] == Event.CALL or (event[0] == Event.DATA and event[3])
            if is_end:
                server.respond(event[1], RESPONSE_HEADERS, sent[event[1]], b"!", OK_TRAILERS)
        carry(server, client, cuts())
        for event in client.events():
            answered.append(event)
            if event[0] == Event.DATA and event[2]:
                client.acknowledge(event[1], len(event[2]))
            if event[0] in (Event.ANSWER, Event.CLOSED):
                open_streams.discard(event[1])
        if not open_streams:
            break
    assert not open_streams
    assert bodies(received) == {stream: frame(message) for stream, message in sent.items()}
    assert bodies(answered) == {stream: frame(message + b"!") for stream, message in sent.items()}
    assert client.waiting_bytes == server.waiting_bytes == 0
