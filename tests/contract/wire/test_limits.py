"""The limits that only the project's own wire enforces, and its answers to what is no gRPC."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import ngh2
import pytest

Server = Any
Start = Callable[..., Any]
Connect = Callable[..., Any]


@pytest.fixture(scope="module")
def wire() -> str:
    return "ngh2"


@pytest.fixture(scope="module")
def server(launch: Start) -> Iterator[Server]:
    """A server for the tests that leave it as it was."""
    running = launch("ngh2")
    yield running
    running.stop()


def _closed(connection: socket.socket) -> bool:
    try:
        while connection.recv(65_536):
            pass
    except ConnectionResetError:
        pass
    return True


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({b"content-type": b"application/json"}, b"415"),
        ({b"content-type": b"application/grpc-web"}, b"415"),
        ({b":method": b"GET"}, b"405"),
        ({b"content-type": b"application/grpc+proto"}, b"200"),
        ({b"content-type": b"application/grpc;charset=utf-8"}, b"200"),
    ],
)
def test_what_is_no_grpc_gets_an_http_status(
    server: Server, raw_client: Connect, headers: dict[bytes, bytes], status: bytes
) -> None:
    client = raw_client(server.port)
    stream_id = client.request("Echo", headers=headers)
    client.pump(client.ended(stream_id))
    assert client.headers_of(stream_id)[b":status"] == status


@pytest.mark.parametrize("timeout", [b"1", b"123456789m", b"5x", b"-1S", b""])
def test_a_timeout_that_is_none_is_refused(server: Server, raw_client: Connect, timeout: bytes) -> None:
    client = raw_client(server.port)
    stream_id = client.request("Echo", headers={b"grpc-timeout": timeout})
    client.pump(client.ended(stream_id))
    assert client.headers_of(stream_id)[b"grpc-status"] == b"13"


def test_metadata_that_is_no_base64_is_refused(server: Server, raw_client: Connect) -> None:
    client = raw_client(server.port)
    stream_id = client.request("Metadata", headers={b"x-key-bin": b"!!"})
    client.pump(client.ended(stream_id))
    assert client.headers_of(stream_id)[b"grpc-status"] == b"3"


def test_a_second_message_of_a_unary_call_is_refused(server: Server, raw_client: Connect) -> None:
    client = raw_client(server.port)
    stream_id = client.request("Echo", b"\0\0\0\0\1a\0\0\0\0\1b")
    client.pump(client.ended(stream_id))
    assert client.headers_of(stream_id)[b"grpc-status"] == b"12"


def test_the_server_itself_ends_a_call_past_its_deadline(server: Server, raw_client: Connect) -> None:
    before = server.stats()
    client = raw_client(server.port)
    stream_id = client.request("Hang", headers={b"grpc-timeout": b"30m"})
    client.pump(client.ended(stream_id))
    assert client.headers_of(stream_id)[b"grpc-status"] == b"4"
    after = server.stats()
    assert after["handler_cancelled"] == before["handler_cancelled"] + 1
    assert after["deadline_exceeded"] == before["deadline_exceeded"] + 1


def test_a_deadline_passes_while_the_request_is_still_arriving(server: Server, raw_client: Connect) -> None:
    client = raw_client(server.port)
    stream_id = client.request("Echo", b"\0\0\0\0\5he", headers={b"grpc-timeout": b"30m"}, end_stream=False)
    client.pump(client.ended(stream_id))
    assert client.headers_of(stream_id)[b"grpc-status"] == b"4"


def test_a_refused_upload_is_told_to_stop(server: Server, raw_client: Connect) -> None:
    client = raw_client(server.port)
    stream_id = client.request("Nothing", b"\0\0\0\0\5he", end_stream=False)
    events = client.pump(client.ended(stream_id))
    assert client.headers_of(stream_id)[b"grpc-status"] == b"12"
    resets = [event for event in events if isinstance(event, ngh2.StreamReset)]
    assert [(event.stream_id, event.error_code) for event in resets] == [(stream_id, ngh2.ErrorCode.NO_ERROR)]


def test_a_stream_that_is_over_is_closed_for_a_client_that_would_go_on(
    server: Server, raw_client: Connect
) -> None:
    client = raw_client(server.port)
    stream_id = client.request("StreamBoom", b"\0\0\0\0\1a", end_stream=False)
    client.pump(client.ended(stream_id))
    assert client.body_of(stream_id) == b"\0\0\0\0\1a"
    assert client.headers_of(stream_id)[b"grpc-status"] == b"13"


def test_a_client_that_reads_no_replies_keeps_the_server_small_and_loses_none(
    server: Server, raw_client: Connect
) -> None:
    client = raw_client(server.port)
    before = server.stats()["calls"]
    idle = server.rss_bytes()
    size = 1 << 20
    ids = [client.request("Big", b"\0\0\0\0\7%d" % size) for _ in range(400)]
    client.flush()
    server.eventually(lambda: server.stats()["calls"] >= before + 400)
    for _ in range(50):
        server.call("Echo", bytes(1000))
    grown = server.rss_bytes() - idle
    assert grown < 48 << 20
    client.pump(lambda events: sum(isinstance(event, ngh2.StreamClosed) for event in events) == 400)
    received = dict.fromkeys(ids, 0)
    for event in client.events:
        if isinstance(event, ngh2.DataReceived):
            received[event.stream_id] += len(event.data)
    assert set(received.values()) == {size + 5}


def test_a_client_that_grants_no_window_keeps_the_server_small(server: Server, raw_client: Connect) -> None:
    client = raw_client(server.port, window_bytes=65_535)
    before = server.stats()["calls"]
    idle = server.rss_bytes()
    for _ in range(400):
        client.request("Big", b"\0\0\0\0\7%d" % (1 << 20))
    client.engine.update_settings({ngh2.Setting.INITIAL_WINDOW_SIZE: 0})
    client.flush()
    server.eventually(lambda: server.stats()["calls"] >= before + 400)
    for _ in range(50):
        server.call("Echo", bytes(1000))
    assert server.rss_bytes() - idle < 48 << 20


def test_incomplete_requests_are_bounded_for_all_connections_together(
    start_server: Start, raw_client: Connect
) -> None:
    server = start_server(limits={"max_buffered_bytes": 1_000_000})
    clients = [raw_client(server.port) for _ in range(3)]
    # Each announces a megabyte and sends 400 kB of it.
    ids = [client.request("Echo", b"\0\0\x10\0\0" + bytes(400_000), end_stream=False) for client in clients]
    for client in clients[:2]:
        client.pump(lambda _, client=client: client.engine.queued_body_size() == 0)
        client.flush()
    server.eventually(lambda: server.stats()["calls"] >= 3)
    clients[2].pump(clients[2].ended(ids[2]))
    headers = clients[2].headers_of(ids[2])
    assert headers[b"grpc-status"] == b"8"
    assert b"1000000" in headers[b"grpc-message"]
    # Room is made when a waiting request goes.
    clients[0].engine.reset_stream(ids[0])
    clients[0].flush()
    server.eventually(lambda: server.stats()["cancelled"] == 1)
    assert server.call("Echo", bytes(500_000)) == bytes(500_000)


def test_a_connection_over_the_limit_is_closed_at_once(start_server: Start, raw_client: Connect) -> None:
    server = start_server(limits={"max_connections": 2})
    first = raw_client(server.port)
    first.pump(lambda events: len(events) > 1)
    server.call("Echo")
    assert _closed(raw_client(server.port).socket)
    assert server.stats()["connections_refused"] == 1
    first.socket.close()
    server.eventually(lambda: server.stats()["connections"] == 2)


def test_one_address_may_not_take_every_connection(start_server: Start, raw_client: Connect) -> None:
    server = start_server(limits={"max_connections_per_peer": 1})
    first = raw_client(server.port)
    first.pump(lambda events: len(events) > 1)
    assert _closed(raw_client(server.port).socket)
    # Another address has room still, and so has this one when its connection is gone.
    with socket.create_connection(
        ("127.0.0.1", server.port), timeout=5, source_address=("127.0.0.2", 0)
    ) as other:
        other.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        assert other.recv(9)
    first.socket.close()
    server.eventually(lambda: server.call("Echo") == b"")
    assert server.stats()["peers_refused"] >= 1


def test_a_connection_without_a_handshake_is_closed(start_server: Start) -> None:
    server = start_server(limits={"handshake_timeout_s": 0.2})
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as silent:
        assert _closed(silent)
    assert server.stats()["connections_stalled"] == 1


def test_a_client_that_gives_no_sign_of_life_is_closed(start_server: Start, raw_client: Connect) -> None:
    server = start_server(limits={"keepalive_s": 0.2, "keepalive_timeout_s": 0.2})
    client = raw_client(server.port)
    stream_id = client.request("Hang")
    client.flush()
    # It reads, and answers no ping.
    assert _closed(client.socket)
    stats = server.stats()
    assert (stats["connections_stalled"], stats["handler_cancelled"]) == (1, 1)
    assert stream_id == 1


def test_a_living_client_outlasts_the_keepalive(start_server: Start) -> None:
    server = start_server(limits={"keepalive_s": 0.1, "keepalive_timeout_s": 0.1})
    assert server.call("Later", b"700") == b"late"
    assert server.stats()["connections"] == 1


def test_a_client_that_stops_reading_is_closed_in_time(start_server: Start, raw_client: Connect) -> None:
    server = start_server(limits={"write_stall_s": 0.3})
    client = raw_client(server.port, window_bytes=65_535)
    client.request("Big", b"\0\0\0\0\x0820000000")
    client.engine.update_settings({ngh2.Setting.INITIAL_WINDOW_SIZE: 0})
    client.flush()
    server.eventually(lambda: server.stats()["connections_stalled"] == 1)


def test_an_idle_connection_is_closed_and_a_client_comes_back(start_server: Start) -> None:
    server = start_server(limits={"idle_s": 0.2})
    assert server.call("Echo", b"one") == b"one"
    client_side = server.channel
    closed = []
    client_side.subscribe(lambda state: closed.append(state.name == "IDLE"))
    give_up = 200
    while not any(closed[1:]) and give_up:
        give_up -= 1
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as probe:
            probe.settimeout(0.05)
            try:
                probe.recv(100)
                probe.recv(100)
            except TimeoutError:
                pass
    assert any(closed[1:])
    assert server.call("Echo", b"two") == b"two"


def test_headers_over_twice_the_limit_end_their_connection_alone(
    start_server: Start, raw_client: Connect
) -> None:
    server = start_server(limits={"max_header_bytes": 4096})
    client = raw_client(server.port)
    client.request("Echo", headers={b"x-big-%d" % number: b"v" * 1000 for number in range(9)})
    client.pump()
    assert client.closed
    assert server.stats()["protocol_errors"] == 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\0\0\0\0\5hell", b"13"),
        (b"\0\0\0", b"13"),
        (b"", b"13"),
        (b"\7\0\0\0\1x", b"13"),
        (b"\1\0\0\0\1x", b"13"),
        (b"\0\xff\xff\xff\xff", b"8"),
    ],
    ids=["cut", "cut-prefix", "none", "flag", "compressed-without-encoding", "4-gigabytes"],
)
def test_a_body_that_is_no_message_is_refused(
    server: Server, raw_client: Connect, body: bytes, code: bytes
) -> None:
    client = raw_client(server.port)
    stream_id = client.request("Echo", body)
    client.pump(client.ended(stream_id))
    assert client.headers_of(stream_id)[b"grpc-status"] == code


def test_an_unknown_compression_is_unimplemented_and_named(server: Server, raw_client: Connect) -> None:
    client = raw_client(server.port)
    stream_id = client.request("Echo", b"\1\0\0\0\1x", headers={b"grpc-encoding": b"snappy"})
    client.pump(client.ended(stream_id))
    headers = client.headers_of(stream_id)
    assert headers[b"grpc-status"] == b"12"
    assert b"snappy" in headers[b"grpc-message"]
    assert b"gzip" in headers[b"grpc-accept-encoding"]


def test_streams_beyond_the_limit_are_refused_unprocessed(start_server: Start, raw_client: Connect) -> None:
    server = start_server(limits={"max_concurrent_streams": 10})
    client = raw_client(server.port)
    ids = [client.request("Hang") for _ in range(12)]
    events = client.pump(lambda events: sum(isinstance(event, ngh2.StreamReset) for event in events) == 2)
    resets = [event for event in events if isinstance(event, ngh2.StreamReset)]
    assert {event.stream_id for event in resets} == set(ids[10:])
    assert {event.error_code for event in resets} == {ngh2.ErrorCode.REFUSED_STREAM}
    assert server.stats()["calls"] == 11


def test_a_flood_of_resets_ends_its_connection_alone(server: Server, raw_client: Connect) -> None:
    client = raw_client(server.port)
    try:
        for _ in range(100):
            ids = [client.request("Hang") for _ in range(50)]
            requests = client.engine.data_to_send()
            for stream_id in ids:
                client.engine.reset_stream(stream_id, ngh2.ErrorCode.CANCEL)
            client.socket.sendall(requests + client.engine.data_to_send())
        client.pump()
    except (ConnectionError, ngh2.NGH2Error):
        client.closed = True
    assert client.closed
    assert server.call("Echo", b"after") == b"after"
