"""CPU time of a unary call on the client's side: the wire's own client against grpc.aio, interleaved in one run.

    python bench/wire_client.py [--reps 3] [--seconds 2] [--payload 64] [--connections 4] [--streams 16]

Prints one JSON line. The figure is CPU of the client's process per answered call, each client in a process of its own
against the same server (the project's wire, an echo). Both set a deadline on every call, and check every grpc-status.
"""

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import uvloop

from anabranch.wire.client import ChannelLimits, Reply, Target
from anabranch.wire.client_channel import GrpcChannel

_METHOD = "/bench.Echo/Echo"
_DEADLINE_S = 10.0
_KINDS = ("anabranch", "grpc.aio")


class _Meter:
    """Counts the calls, and the CPU time, between a warm-up and the end."""

    def __init__(self, seconds: float) -> None:
        self.start = time.monotonic() + seconds / 4
        self.end = self.start + seconds
        self.answered = 0
        self.cpu_s = -1.0

    def count(self, now: float) -> bool:
        """Count a call; tell whether to go on."""
        if now >= self.start:
            if self.cpu_s < 0:
                self.cpu_s = _cpu_s()
            self.answered += 1
        return now < self.end

    def result(self) -> dict[str, float]:
        used = _cpu_s() - self.cpu_s
        return {"us": used / self.answered * 1e6, "rps": self.answered / (self.end - self.start)}


async def _call_anabranch(port: int, options: argparse.Namespace) -> dict[str, float]:
    limits = ChannelLimits(min_connections=options.connections, max_connections=options.connections)
    channel = GrpcChannel(Target("127.0.0.1", port), limits=limits)
    await channel.ready(10)
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    body = bytes(options.payload)
    meter = _Meter(options.seconds)
    running = options.connections * options.streams

    def call() -> None:
        channel.unary(_METHOD, body, done=answered, deadline=loop.time() + _DEADLINE_S)

    def answered(reply: Reply) -> None:
        nonlocal running
        if reply.status or reply.body != body:
            over.set_exception(RuntimeError(f"a call failed: {reply}"))
        elif meter.count(time.monotonic()):
            call()
        else:
            running -= 1
            if not running:
                over.set_result(None)

    for _ in range(running):
        call()
    await over
    found = meter.result()
    await channel.close()
    return found


async def _call_aio(port: int, options: argparse.Namespace) -> dict[str, float]:
    import grpc.aio

    channels = [
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(options.connections)
    ]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    body = bytes(options.payload)
    meter = _Meter(options.seconds)

    async def keep_calling(channel: grpc.aio.Channel) -> None:
        echo: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_METHOD)
        # A status other than OK raises.
        while meter.count(time.monotonic()):
            assert await echo(body, timeout=_DEADLINE_S) == body

    await asyncio.gather(*(keep_calling(channel) for channel in channels for _ in range(options.streams)))
    found = meter.result()
    await asyncio.gather(*(channel.close() for channel in channels))
    return found


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _measure(kind: str, port: int, options: argparse.Namespace) -> dict[str, float]:
    given = [
        f"--{name}={getattr(options, name)}" for name in ("seconds", "payload", "connections", "streams")
    ]
    ran = subprocess.run(
        [sys.executable, os.path.abspath(__file__), "--call", kind, "--port", str(port), *given],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(ran.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--call", choices=_KINDS)
    parser.add_argument("--port", type=int)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--payload", type=int, default=64)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--streams", type=int, default=16)
    options = parser.parse_args()
    if options.call:
        run = _call_anabranch if options.call == "anabranch" else _call_aio
        print(json.dumps(uvloop.run(run(options.port, options))))
        return
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("wire_echo.py")), "--serve", "ngh2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in _KINDS}
    try:
        port = int(server.stdout.readline())
        for _ in range(options.reps):
            for kind in _KINDS:
                runs[kind].append(_measure(kind, port, options))
    finally:
        server.kill()
        server.wait()
    us = {kind: [run["us"] for run in each] for kind, each in runs.items()}
    median = {kind: statistics.median(each) for kind, each in us.items()}
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    print(
        json.dumps(
            {
                "bench": "wire_client",
                "commit": commit.stdout.strip(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
                "versions": {name: version(name) for name in ("ngh2", "grpcio", "uvloop")},
                "load": {
                    name: getattr(options, name)
                    for name in ("payload", "connections", "streams", "reps", "seconds")
                },
                "cpu_us_per_call": {kind: round(value, 1) for kind, value in median.items()},
                "spread": {kind: [round(min(each), 1), round(max(each), 1)] for kind, each in us.items()},
                "rps": {
                    kind: round(statistics.median(run["rps"] for run in each)) for kind, each in runs.items()
                },
                "ratio": round(median["grpc.aio"] / median["anabranch"], 1),
            }
        )
    )


if __name__ == "__main__":
    main()
