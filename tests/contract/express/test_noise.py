"""Frames that nobody would send, among those of requests in flight: whoever is cut off, the others are answered, and nothing is left."""

import random
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

import grpc
import pytest

Router = Any
Start = Callable[..., Any]

CAND, BASE = (b"x-user-id", b"user-1"), (b"x-user-id", b"user-3")


def noise(draw: random.Random, frames: ModuleType, streams: list[int]) -> bytes:
    """A frame that may be about one of the streams."""
    kind = draw.choice(
        (frames.DATA, frames.HEADERS, frames.RST_STREAM, frames.RST_STREAM, frames.WINDOW_UPDATE, frames.PING)
    )
    flags = draw.choice((0, frames.END_STREAM, frames.END_HEADERS, 5, frames.PADDED))
    if kind == frames.RST_STREAM:
        payload = draw.choice((0, 2, 7, 8, 11)).to_bytes(4, "big")
    elif kind == frames.HEADERS:
        payload = frames.block(
            draw.choice(
                (
                    [(b":status", b"200"), (b"content-type", b"application/grpc")],
                    [(b"grpc-status", b"0")],
                    [(b"grpc-status", b"13")],
                    frames.request("Echo"),
                    [(b"x", b"y")],
                )
            )
        )
    elif kind == frames.WINDOW_UPDATE:
        payload = draw.choice((0, 1, 1 << 20, (1 << 31) - 1)).to_bytes(4, "big")
    elif kind == frames.PING:
        payload = draw.randbytes(8)
    else:
        payload = draw.choice((b"", b"\0\0\0\0\0", b"\0\0\0\0\3abc", b"\1\0\0\0\1a", draw.randbytes(20)))
    stream = 0 if kind == frames.PING else draw.choice([*streams, 0, 1, 2, 999])
    return bytes(frames.frame(kind, flags, stream, payload))


@pytest.fixture
def split(router: Router, raw: ModuleType) -> Router:
    router.publish(0.5, unit_metadata="x-user-id")
    client = raw.RawClient(router.port)
    for unit in (CAND, BASE):
        assert client.status(client.send(router.request(), unit)) == 0
    client.cut()
    return router


@pytest.mark.parametrize("seed", range(3))
def test_noise_from_clients(split: Router, raw: ModuleType, frames: ModuleType, seed: int) -> None:
    draw = random.Random(seed)
    for server in split.servers.values():
        server.behave = lambda asked: asked.later(draw.choice((0.0, 0.002, 0.01)))
    for _ in range(25):
        client = raw.RawClient(split.port)
        streams = [client.send(split.request(), draw.choice((CAND, BASE))) for _ in range(5)]
        with suppress(ConnectionError):
            for _ in range(draw.randint(1, 6)):
                client.socket.sendall(noise(draw, frames, streams))
        client.cut()
    split.eventually(lambda: not split.wire._connections)
    split.eventually(lambda: not any(split.left().values()))
    unit = (CAND[0].decode(), CAND[1].decode())
    assert split.ask(None, unit).status is grpc.StatusCode.OK
    records = split.records()
    assert len({record.sequence for record in records}) == len(records)


@pytest.mark.parametrize("seed", range(3))
def test_noise_from_servers(split: Router, frames: ModuleType, seed: int) -> None:
    draw = random.Random(seed)
    rounds, at_once = 12, 15
    is_quiet = True

    def behave(asked: Any) -> None:
        if is_quiet or draw.random() < 0.8:
            asked.later(draw.choice((0.0, 0.002)))
            return
        streams = list(asked.connection.open)
        data = b"".join(noise(draw, frames, streams) for _ in range(draw.randint(1, 4)))
        asked.connection.transport.write(data)
        asked.later(0.01)

    for server in split.servers.values():
        server.behave = behave
    units = [(name.decode(), value.decode()) for name, value in (CAND, BASE)]
    for _ in range(rounds):
        # Of a server that failed, Python has to hear of a success first.
        is_quiet = True
        for unit in 2 * units:
            split.ask(None, unit, timeout=2)
        is_quiet = False
        for call in [split.begin(None, draw.choice(units), timeout=2) for _ in range(at_once)]:
            split.end(call)
    split.eventually(lambda: not any(split.left().values()))
    counts = split.counts()
    ended = sum(
        n for name, n in counts.items() if name == "answered" or name.startswith(("failed", "refused"))
    )
    assert ended == 2 + rounds * (4 + at_once)
    assert len(split.records()) == ended - counts.get("refused: INVALID_ARGUMENT", 0)
    assert not split.has_express or split.taken > 0
