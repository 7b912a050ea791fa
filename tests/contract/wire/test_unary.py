"""Unary calls: what every wire promises its handlers and its clients."""

import asyncio
import gzip
import json
import threading
from typing import Any

import grpc
import grpc.aio
import pytest

Server = Any


def test_a_message_comes_back(server: Server) -> None:
    assert server.call("Echo", b"hello") == b"hello"
    assert server.call("Echo", b"") == b""


@pytest.mark.parametrize("size", [1, 16_379, 16_384, 65_536, 1 << 20, 16 << 20])
@pytest.mark.parametrize("method", ["Echo", "Halves"])
def test_messages_of_every_size_come_back_in_one_piece_or_two(server: Server, method: str, size: int) -> None:
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert server.call(method, message) == message


def test_a_message_over_the_limit_is_refused_with_both_numbers(server: Server) -> None:
    size, limit = (20 << 20) + 1, 20 << 20
    error = server.failure("Echo", bytes(size))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(size) in error.details()
    assert str(limit) in error.details()
    assert server.call("Echo", b"after") == b"after"


def test_metadata_arrives_in_both_directions(server: Server) -> None:
    sent = [("x-user-id", "u1"), ("x-user-id", "u2"), ("x-key-bin", b"\0\1\xfe,"), ("x-empty", "")]
    reply, call = server.unary("Metadata").with_call(b"", metadata=sent, timeout=20)
    seen = json.loads(reply)
    own = [pair for pair in seen["metadata"] if pair[0].startswith("x-")]
    assert own == [["x-user-id", "u1"], ["x-user-id", "u2"], ["x-key-bin", "0001fe2c"], ["x-empty", ""]]
    assert "user-agent" in dict(seen["metadata"])
    assert not any(
        name.startswith((":", "grpc-")) or name in ("te", "content-type") for name, _ in seen["metadata"]
    )
    assert seen["method"] == "/test.Wire/Metadata"
    assert seen["peer"].startswith("ipv4:127.0.0.1:")
    initial, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
    assert initial["x-invoked-variant"] == "onnx-fp32"
    assert initial["x-raw-bin"] == b"\0\xff\x10"
    assert trailing["x-assignment-id"] == "a1"
    assert trailing["x-tail-bin"] == b""


def test_metadata_that_cannot_be_sent_is_an_internal_error_of_that_call_alone(server: Server) -> None:
    assert server.failure("BadMetadata").code() is grpc.StatusCode.INTERNAL
    assert server.call("Echo", b"after") == b"after"


def test_the_handler_sees_the_deadline(server: Server) -> None:
    left = json.loads(server.unary("Remaining")(b"", timeout=7))
    assert 5 < left <= 7.1
    assert json.loads(server.unary("Remaining")(b"")) is None


def test_a_call_past_its_deadline_is_cancelled_in_the_handler(server: Server) -> None:
    before = server.stats()["handler_cancelled"]
    assert server.failure("Hang", timeout=0.05).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    server.eventually(lambda: server.stats()["handler_cancelled"] == before + 1)


def test_a_cancelled_call_is_cancelled_in_the_handler(server: Server) -> None:
    stats = server.stats()
    future = server.unary("Hang").future(b"")
    server.eventually(lambda: server.stats()["calls"] >= stats["calls"] + 2)
    future.cancel()
    server.eventually(lambda: server.stats()["handler_cancelled"] == stats["handler_cancelled"] + 1)


def test_a_lost_connection_cancels_its_calls(server: Server) -> None:
    before = server.stats()
    channel = server.new_channel()
    futures = [channel.unary_unary("/test.Wire/Hang").future(b"") for _ in range(5)]
    server.eventually(lambda: server.stats()["calls"] >= before["calls"] + 6)
    channel.close()
    server.eventually(lambda: server.stats()["handler_cancelled"] == before["handler_cancelled"] + 5)
    assert {future.code() for future in futures} == {grpc.StatusCode.CANCELLED}


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_an_error_arrives_with_its_code_text_and_metadata(server: Server, code: grpc.StatusCode) -> None:
    text = "Größe 12 % zu groß: 推論 ✗\n\ttab"
    error = server.failure("Fail", json.dumps({"status": code.value[0], "message": text}).encode())
    assert error.code() is code
    assert error.details() == text
    assert dict(error.trailing_metadata())["x-reason"] == "asked"
    assert dict(error.trailing_metadata())["x-reason-bin"] == b"\1"


def test_a_very_long_error_text_keeps_its_status(server: Server) -> None:
    error = server.failure("Fail", json.dumps({"status": 9, "message": "n" * 3000}).encode())
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details().startswith("nnnn")


def test_an_exception_in_a_handler_tells_the_client_nothing_but_a_request_id(server: Server) -> None:
    error = server.failure("Boom", metadata=[("x-request-id", "r-17")])
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in error.details()
    assert dict(error.trailing_metadata())["x-request-id"] == "r-17"
    assert len(dict(server.failure("Boom").trailing_metadata())["x-request-id"]) == 32


def test_an_unknown_method_is_unimplemented(server: Server) -> None:
    assert server.failure("Nothing").code() is grpc.StatusCode.UNIMPLEMENTED
    assert server.failure("Nothing", bytes(1 << 20)).code() is grpc.StatusCode.UNIMPLEMENTED
    assert server.call("Echo", b"after") == b"after"


def test_only_the_first_answer_counts(server: Server) -> None:
    assert server.call("Twice") == b"first"


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests_are_read(server: Server, compression: grpc.Compression) -> None:
    message = b"abc" * 100_000
    assert server.call("Echo", message, compression=compression) == message


def test_a_compressed_message_that_unfolds_over_the_limit_is_refused(server: Server) -> None:
    size = 30 << 20
    assert len(gzip.compress(bytes(size), 1)) < 20 << 20
    error = server.failure("Echo", bytes(size), compression=grpc.Compression.Gzip)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_thousand_calls_at_once_are_answered_each_with_its_own(server: Server) -> None:
    async def run() -> list[bytes]:
        async with grpc.aio.insecure_channel(server.address) as channel:
            echo: Any = channel.unary_unary("/test.Wire/Echo")
            return list(await asyncio.gather(*(echo(b"%d" % number, timeout=20) for number in range(1000))))

    assert asyncio.run(run()) == [b"%d" % number for number in range(1000)]


def test_slow_calls_do_not_hold_up_quick_ones(server: Server) -> None:
    slow = [server.unary("Later").future(b"400", timeout=20) for _ in range(50)]
    assert server.call("Echo", b"quick") == b"quick"
    assert not any(future.done() for future in slow)
    assert [future.result() for future in slow] == [b"late"] * 50


def test_before_flush_has_run_when_a_reply_arrives(server: Server) -> None:
    missing: list[str] = []

    def client(name: int) -> None:
        with server.new_channel() as channel:
            record = channel.unary_unary("/test.Wire/Record")
            for number in range(100):
                key = f"{name}-{number}"
                record(key.encode(), timeout=20)
                if f"{key}\n" not in server.journal.read_text():
                    missing.append(key)

    threads = [threading.Thread(target=client, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert missing == []


def test_replies_leave_when_before_flush_raises(server: Server) -> None:
    before = server.stats()["flush_errors"]
    assert server.call("BreakFlush") == b"still here"
    assert server.stats()["flush_errors"] == before + 1
    assert server.call("Echo", b"after") == b"after"
