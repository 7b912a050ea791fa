"""Connections: hostile bytes, slow clients, shutting down, and TLS."""

import asyncio
import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import ngh2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Server = Any
Start = Callable[..., Any]
Connect = Callable[..., Any]

_TLS = Path(__file__).with_name("tls")
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS = b"\0\0\0\4\0\0\0\0\0"


def _request_bytes() -> bytes:
    client = ngh2.Connection(ngh2.Role.CLIENT)
    client.initiate_connection()
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/test.Wire/Echo",
        b":authority": b"test",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
    }
    stream_id = client.send_request(list(fields.items()))
    client.send_data(stream_id, b"\0\0\0\0\5hello", end_stream=True)
    return bytes(client.data_to_send())


_REQUEST = _request_bytes()


@st.composite
def _frames(draw: st.DrawFn) -> bytes:
    """Frames with plausible heads: any type, small stream ids, lengths that need not be true."""
    out = bytearray()
    for _ in range(draw(st.integers(1, 6))):
        payload = draw(st.binary(max_size=40))
        length = draw(st.one_of(st.just(len(payload)), st.integers(0, 1 << 14)))
        kind, flags = draw(st.integers(0, 12)), draw(st.integers(0, 255))
        stream_id = draw(st.sampled_from([0, 1, 2, 3, 5, 0x7FFF_FFFF]))
        out += length.to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload
    return bytes(out)


@st.composite
def _damaged_request(draw: st.DrawFn) -> bytes:
    data = bytearray(_REQUEST)
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(len(_PREFACE), len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


_hostile = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=200).map(lambda data: _PREFACE + data),
    _frames().map(lambda data: _PREFACE + _SETTINGS + data),
    _damaged_request(),
    st.integers(0, len(_REQUEST)).map(lambda size: _REQUEST[:size]),
)


@given(_hostile)
@settings(
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_hostile_bytes_leave_the_server_serving(server: Server, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        try:
            # Until the server closes: it has dealt with every byte.
            while connection.recv(65_536):
                pass
        except ConnectionError:
            pass
    assert server.call("Echo", b"after") == b"after"


def test_a_request_in_single_bytes_is_answered(server: Server, raw_client: Connect) -> None:
    client = raw_client(server.port)
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream_id = client.request("Echo", b"\0\0\0\0\5hello")
    for byte in client.engine.data_to_send():
        client.socket.sendall(bytes([byte]))
    client.pump(client.ended(stream_id))
    assert client.body_of(stream_id) == b"\0\0\0\0\5hello"


def test_a_message_split_over_many_frames_is_put_together(server: Server, raw_client: Connect) -> None:
    client = raw_client(server.port)
    stream_id = client.request("Echo", b"", end_stream=False)
    for byte in b"\0\0\0\0\5hello":
        client.engine.send_data(stream_id, bytes([byte]))
        client.flush()
    client.engine.end_stream(stream_id)
    client.pump(client.ended(stream_id))
    assert client.body_of(stream_id) == b"\0\0\0\0\5hello"
    assert client.headers_of(stream_id)[b"grpc-status"] == b"0"


def test_pings_are_answered(server: Server, raw_client: Connect) -> None:
    client = raw_client(server.port)
    client.engine.ping(b"12345678")
    events = client.pump(lambda events: any(isinstance(event, ngh2.PingAcknowledged) for event in events))
    assert b"12345678" in [event.opaque_data for event in events if isinstance(event, ngh2.PingAcknowledged)]


def test_calls_in_flight_end_when_the_server_drains_and_new_ones_do_not_begin(start_server: Start) -> None:
    server = start_server(grace_s=5)
    slow = [server.unary("Later").future(b"300", timeout=10) for _ in range(20)]
    server.eventually(lambda: server.stats()["calls"] > 20)
    os.kill(server.process.pid, signal.SIGTERM)
    assert [future.result() for future in slow] == [b"late"] * 20
    server.process.wait(timeout=5)
    assert server.failure("Echo", timeout=2).code() is grpc.StatusCode.UNAVAILABLE


def test_calls_that_outlast_the_grace_end_as_unavailable(start_server: Start) -> None:
    server = start_server(grace_s=0.2)
    hanging = server.unary("Hang").future(b"", timeout=10)
    server.eventually(lambda: server.stats()["calls"] >= 2)
    os.kill(server.process.pid, signal.SIGTERM)
    assert hanging.code() is grpc.StatusCode.UNAVAILABLE
    assert hanging.details() == "the server is shutting down"


def test_a_drain_under_load_answers_every_request_that_it_recorded(
    start_server: Start, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    server = start_server(journal=str(journal))
    answered: list[str] = []
    refused: set[grpc.StatusCode] = set()

    async def client(name: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(server.address, options=options) as channel:
            record: Any = channel.unary_unary("/test.Wire/Record")

            async def caller(lane: int) -> None:
                number = 0
                while True:
                    key = f"{name}-{lane}-{number}"
                    try:
                        await record(key.encode(), timeout=10)
                    except grpc.aio.AioRpcError as error:
                        refused.add(error.code())
                        return
                    answered.append(key)
                    number += 1
                    if len(answered) == 600:
                        os.kill(server.process.pid, signal.SIGTERM)

            await asyncio.gather(*(caller(lane) for lane in range(16)))

    async def run() -> None:
        await asyncio.gather(*(client(name) for name in range(3)))

    asyncio.run(run())
    assert len(answered) >= 600
    # grpcio cancels what comes late.
    assert refused <= {
        grpc.StatusCode.UNAVAILABLE,
        *([grpc.StatusCode.CANCELLED] if server.wire == "grpcio" else []),
    }
    assert sorted(journal.read_text().split()) == sorted(answered)


def _credentials(*, with_client: bool) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        (_TLS / "ca.pem").read_bytes(),
        (_TLS / "client.key").read_bytes() if with_client else None,
        (_TLS / "client.pem").read_bytes() if with_client else None,
    )


def _files(*, mutual: bool) -> dict[str, str]:
    files = {"certificate_file": str(_TLS / "server.pem"), "key_file": str(_TLS / "server.key")}
    return {**files, "client_ca_file": str(_TLS / "ca.pem")} if mutual else files


def test_tls_serves_messages_of_every_size_and_streams(start_server: Start) -> None:
    server = start_server(tls=_files(mutual=False))
    with grpc.secure_channel(server.address, _credentials(with_client=False)) as channel:
        echo: Any = channel.unary_unary("/test.Wire/Echo")
        bidi: Any = channel.stream_stream("/test.Wire/Bidi")
        seen: Any = channel.unary_unary("/test.Wire/Metadata")
        assert json.loads(seen(b"", timeout=20))["peer_identity"] is None
        for size in (0, 1, 100_000, 3 << 20):
            assert echo(bytes(size), timeout=20) == bytes(size)
        assert list(bidi(iter([bytes(100_000)] * 30), timeout=20)) == [bytes(100_000)] * 30


def test_mutual_tls_wants_a_certificate_of_the_authority(start_server: Start) -> None:
    server = start_server(tls=_files(mutual=True))
    with grpc.secure_channel(server.address, _credentials(with_client=True)) as channel:
        echo: Any = channel.unary_unary("/test.Wire/Echo")
        assert echo(b"known", timeout=20) == b"known"
        seen: Any = channel.unary_unary("/test.Wire/Metadata")
        assert json.loads(seen(b"", timeout=20))["peer_identity"] == "client"
    with grpc.secure_channel(server.address, _credentials(with_client=False)) as channel:
        echo = channel.unary_unary("/test.Wire/Echo")
        with pytest.raises(grpc.RpcError) as caught:
            echo(b"unknown", timeout=20)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_a_plain_client_of_a_tls_port_is_turned_away(start_server: Start) -> None:
    server = start_server(tls=_files(mutual=False))
    assert server.failure("Echo").code() is grpc.StatusCode.UNAVAILABLE


def test_ipv6_is_served(start_server: Start) -> None:
    server = start_server(host="::1")
    with grpc.insecure_channel(f"[::1]:{server.port}") as channel:
        metadata: Any = channel.unary_unary("/test.Wire/Metadata")
        peer = json.loads(metadata(b"", timeout=20))["peer"]
    assert peer.startswith("ipv6:[::1]:")


def test_connections_that_come_and_go_leave_nothing_behind(server: Server) -> None:
    def visit() -> None:
        for _ in range(10):
            with server.new_channel() as channel:
                assert channel.unary_unary("/test.Wire/Echo")(b"x", timeout=20) == b"x"

    visit()
    before = server.rss_bytes()
    threads = [threading.Thread(target=visit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.rss_bytes() - before < 32 << 20
