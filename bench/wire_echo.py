"""CPU time of a unary echo: the project's wire against grpc.aio, interleaved in one run.

    python bench/wire_echo.py [--reps 3] [--seconds 2] [--payload 64] [--connections 4] [--streams 16]

Prints one JSON line. The figure is CPU of the server's process tree per answered request; the client speaks HTTP/2 by the
same engine for both servers and checks every grpc-status.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from typing import Any

import ngh2
import psutil
import uvloop

from anabranch.wire.grpcio_server import GrpcioWire
from anabranch.wire.ngh2_server import Ngh2Wire
from anabranch.wire.seam import Call, Handlers, Limits, Wire

_METHOD = "/bench.Echo/Echo"
_HEADERS = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", _METHOD.encode()),
    (b":authority", b"bench"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
    (b"user-agent", b"bench"),
    (b"grpc-timeout", b"10S"),
]


def _echo(call: Call, message: bytes) -> None:
    call.reply(message)


async def _serve(kind: str) -> None:
    if kind == "grpc.aio":
        port = await _serve_plain_aio()
    else:
        wire: Wire = Ngh2Wire() if kind == "ngh2" else GrpcioWire()
        port = await wire.start(
            host="127.0.0.1",
            port=0,
            handlers=Handlers(unary={_METHOD: _echo}),
            limits=Limits(),
            before_flush=lambda: None,
        )
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def _serve_plain_aio() -> int:
    """The peer: what a user of grpcio writes, bytes in and out."""
    import grpc
    import grpc.aio

    class Generic(grpc.GenericRpcHandler):
        def service(self, _handler_call_details: Any) -> Any:
            async def echo(request: bytes, _context: Any) -> bytes:
                return request

            return grpc.unary_unary_rpc_method_handler(echo)

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((Generic(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    # Without a reference the server would be collected.
    asyncio.get_running_loop().bench_server = server  # type: ignore[attr-defined]  # any attribute will do
    return port


class _Client(asyncio.Protocol):
    """One connection that keeps a number of calls in flight."""

    def __init__(self, body: bytes, streams: int) -> None:
        self.body = body
        self.streams = streams
        self.answered = self.failed = 0
        self.running = True
        self.engine = ngh2.Connection(ngh2.Role.CLIENT)
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.engine.initiate_connection({ngh2.Setting.INITIAL_WINDOW_SIZE: 1 << 24})
        self.engine.set_local_window_size(1 << 26)
        for _ in range(self.streams):
            self._call()
        self._flush()

    def data_received(self, data: bytes) -> None:
        self.engine.receive_data(data)
        for event in self.engine.events():
            if isinstance(event, ngh2.TrailersReceived):
                if (b"grpc-status", b"0") not in event.headers:
                    self.failed += 1
            elif isinstance(event, ngh2.StreamClosed):
                self.answered += 1
                self.failed += event.error_code != 0
                if self.running:
                    self._call()
        self._flush()

    def _flush(self) -> None:
        assert self.transport is not None
        # In pieces, as the engine's buffer grows slowly.
        while data := self.engine.data_to_send(64 * 1024):
            self.transport.write(data)

    def _call(self) -> None:
        stream_id = self.engine.send_request(_HEADERS)
        self.engine.send_data(stream_id, self.body, end_stream=True)


async def _load(port: int, pid: int, options: argparse.Namespace) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    body = b"\0" + options.payload.to_bytes(4, "big") + bytes(options.payload)
    clients = [
        (await loop.create_connection(lambda: _Client(body, options.streams), "127.0.0.1", port))[1]
        for _ in range(options.connections)
    ]
    await asyncio.sleep(options.seconds / 4)
    answered, cpu, start = sum(c.answered for c in clients), _cpu_s(pid), time.perf_counter()
    await asyncio.sleep(options.seconds)
    answered = sum(c.answered for c in clients) - answered
    cpu, wall = _cpu_s(pid) - cpu, time.perf_counter() - start
    failed = sum(c.failed for c in clients)
    if failed or not answered:
        raise SystemExit(f"{failed} of {answered} calls failed")
    for client in clients:
        client.running = False
        assert client.transport is not None
        client.transport.close()
    return {"us": cpu / answered * 1e6, "rps": answered / wall}


def _cpu_s(pid: int) -> float:
    process = psutil.Process(pid)
    return sum(sum(each.cpu_times()[:2]) for each in (process, *process.children(recursive=True)))


def _measure(kind: str, options: argparse.Namespace) -> dict[str, float]:
    server = subprocess.Popen(
        [sys.executable, os.path.abspath(__file__), "--serve", kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    try:
        return uvloop.run(_load(int(server.stdout.readline()), server.pid, options))
    finally:
        server.kill()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", choices=["ngh2", "grpcio", "grpc.aio"])
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--payload", type=int, default=64)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--only", choices=["ngh2", "grpcio", "grpc.aio"])
    options = parser.parse_args()
    if options.serve:
        uvloop.run(_serve(options.serve))
        return
    kinds = [options.only] if options.only else ["ngh2", "grpcio", "grpc.aio"]
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for _ in range(options.reps):
        for kind in kinds:
            runs[kind].append(_measure(kind, options))
    us = {kind: statistics.median(run["us"] for run in each) for kind, each in runs.items()}
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    print(
        json.dumps(
            {
                "bench": "wire_echo",
                "commit": commit.stdout.strip(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
                "versions": {name: version(name) for name in ("ngh2", "grpcio", "uvloop")},
                "load": {
                    name: getattr(options, name)
                    for name in ("payload", "connections", "streams", "reps", "seconds")
                },
                "cpu_us_per_request": {kind: round(value, 1) for kind, value in us.items()},
                "rps": {
                    kind: round(statistics.median(run["rps"] for run in each)) for kind, each in runs.items()
                },
                "ratio": round(us["grpc.aio"] / us["ngh2"], 1) if not options.only else None,
            }
        )
    )


if __name__ == "__main__":
    main()
