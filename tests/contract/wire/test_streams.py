"""Streaming calls: order, ends, and back-pressure in both directions."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

Server = Any


@pytest.mark.parametrize("name", ["Bidi", "Stepwise"])
def test_messages_come_back_in_order(server: Server, name: str) -> None:
    messages = [b"%d" % number * (number % 50) for number in range(500)]
    assert list(server.stream(name)(iter(messages), timeout=20)) == messages


def test_large_messages_stream_in_both_directions(server: Server) -> None:
    messages = [bytes([number]) * (1 << 20) for number in range(24)]
    assert list(server.stream("Bidi")(iter(messages), timeout=30)) == messages


def test_a_stream_answers_while_it_is_still_open(server: Server) -> None:
    answers: list[bytes] = []
    has_begun = threading.Event()

    def talk() -> Iterator[bytes]:
        assert has_begun.wait(20)
        for number in range(20):
            yield b"%d" % number
            answers.append(next(call))

    call = server.stream("Bidi")(talk(), timeout=20)
    has_begun.set()
    # The requests are drawn by a thread of the client, which reads each answer before it sends the next.
    server.eventually(lambda: len(answers) == 20)
    assert answers == [b"%d" % number for number in range(20)]


def test_an_empty_stream_ends_with_its_trailers(server: Server) -> None:
    call = server.stream("Bidi")(iter([]), timeout=20)
    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK
    assert dict(call.trailing_metadata())["x-end"] == "half-close"


def test_a_client_stream_is_answered_after_its_last_message(server: Server) -> None:
    call = server.stream("Sink")(iter([bytes(5), b"", bytes(70_000)]), timeout=20)
    assert [json.loads(message) for message in call] == [[5, 0, 70_000]]
    assert dict(call.initial_metadata())["x-initial"] == "i"
    assert dict(call.trailing_metadata())["x-end"] == "e"


def test_a_flood_of_messages_is_received_whole(server: Server) -> None:
    call = server.stream("Flood")(iter([json.dumps([300, 100_000]).encode()]), timeout=30)
    assert [len(message) for message in call] == [100_000] * 300


def test_a_stream_that_fails_keeps_what_was_sent_before(server: Server) -> None:
    call = server.stream("StreamBoom")(iter([b"one", b"two"]), timeout=20)
    assert next(call) == b"one"
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in error.details()


def test_a_stream_may_be_refused_at_once(server: Server) -> None:
    call = server.stream("Early")(iter([bytes(1 << 20)]), timeout=20)
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "not now"
    assert server.call("Echo", b"after") == b"after"


def test_cancelling_a_stream_reaches_its_handler(server: Server) -> None:
    before = server.stats()["handler_cancelled"]
    call = server.stream("Stuck")(iter([b"x"]))
    assert dict(call.initial_metadata())["x-started"] == "yes"
    call.cancel()
    server.eventually(lambda: server.stats()["handler_cancelled"] == before + 1)


def test_a_streams_deadline_reaches_its_handler(server: Server) -> None:
    before = server.stats()["handler_cancelled"]
    call = server.stream("Stuck")(iter([b"x"]), timeout=0.1)
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    server.eventually(lambda: server.stats()["handler_cancelled"] == before + 1)


def test_a_client_that_does_not_read_a_stream_keeps_the_server_small(server: Server) -> None:
    before = server.stats()["handler_cancelled"]
    idle = server.rss_bytes()
    # 4 GB are offered.
    calls = [server.stream("Flood")(iter([json.dumps([10_000, 100_000]).encode()])) for _ in range(4)]
    assert [len(next(call)) for call in calls] == [100_000] * 4
    for _ in range(200):
        assert server.call("Echo", bytes(1000)) == bytes(1000)
    grown = server.rss_bytes() - idle
    for call in calls:
        call.cancel()
    server.eventually(lambda: server.stats()["handler_cancelled"] == before + 4)
    assert grown < 64 << 20


def test_a_handler_that_does_not_read_a_stream_keeps_the_server_small(server: Server) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield bytes(100_000)

    idle = server.rss_bytes()
    before = server.stats()["handler_cancelled"]
    call = server.stream("Stuck")(endless())
    assert dict(call.initial_metadata())["x-started"] == "yes"
    for _ in range(200):
        assert server.call("Echo", bytes(1000)) == bytes(1000)
    grown = server.rss_bytes() - idle
    call.cancel()
    server.eventually(lambda: server.stats()["handler_cancelled"] == before + 1)
    assert grown < 64 << 20
    assert sent < 640
