"""The server of the wire's contract suite: run as a program, with its settings as JSON in the first argument."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop

from anabranch.proto import open_inference_pb2
from anabranch.wire.choice import WireKind, new_wire
from anabranch.wire.health import Health, Serving, descriptor
from anabranch.wire.ngh2_server import Ngh2Wire
from anabranch.wire.reflection import Reflection
from anabranch.wire.seam import Call, Handlers, Limits, Status, StreamCall, Tls, Wire


class Server:
    """Handlers that show what a handler sees, and what it can do."""

    def __init__(self, wire: Wire, journal: Path | None) -> None:
        self.wire = wire
        self.cancelled = 0
        self.pending: list[str] = []
        self.journal = None if journal is None else journal.open("a")
        self.raise_at_flush = False
        self.health = Health()

    def before_flush(self) -> None:
        if self.raise_at_flush:
            self.raise_at_flush = False
            raise RuntimeError("the journal's disk is full")
        if self.journal is not None:
            self.journal.write("".join(self.pending))
            self.journal.flush()
        self.pending.clear()

    def echo(self, call: Call, message: bytes) -> None:
        call.reply(message)

    def halves(self, call: Call, message: bytes) -> None:
        half = len(message) // 2
        call.reply(message[:half], tail=message[half:])

    def record(self, call: Call, message: bytes) -> None:
        self.pending.append(message.decode() + "\n")
        call.reply(message)

    def metadata(self, call: Call, message: bytes) -> None:
        seen = [[name, value.hex() if isinstance(value, bytes) else value] for name, value in call.metadata]
        call.reply(
            json.dumps(
                {
                    "metadata": seen,
                    "method": call.method,
                    "peer": call.peer,
                    "peer_identity": call.peer_identity,
                }
            ).encode(),
            metadata=[("x-invoked-variant", "onnx-fp32"), ("x-raw-bin", b"\0\xff\x10")],
            trailing=[("x-assignment-id", "a1"), ("x-tail-bin", b"")],
        )

    def bad_metadata(self, call: Call, message: bytes) -> None:
        call.reply(b"", metadata=[("x-name", "line\nbreak")])

    def remaining(self, call: Call, message: bytes) -> None:
        left = None if call.deadline is None else call.deadline - asyncio.get_running_loop().time()
        call.reply(json.dumps(left).encode())

    def hang(self, call: Call, message: bytes) -> None:
        def cancelled() -> None:
            assert call.cancelled
            self.cancelled += 1
            # Too late: nobody listens, and nothing breaks.
            call.reply(b"late")
            call.fail(Status.ABORTED, "late")

        call.on_cancel(cancelled)

    def fail(self, call: Call, message: bytes) -> None:
        wanted = json.loads(message)
        call.fail(
            Status(wanted["status"]), wanted["message"], [("x-reason", "asked"), ("x-reason-bin", b"\1")]
        )

    def boom(self, call: Call, message: bytes) -> None:
        raise RuntimeError("a secret of the server")

    def twice(self, call: Call, message: bytes) -> None:
        call.reply(b"first")
        call.reply(b"second")
        call.fail(Status.ABORTED, "third")

    def later(self, call: Call, message: bytes) -> None:
        asyncio.get_running_loop().call_later(int(message) / 1000, call.reply, b"late")

    def big(self, call: Call, message: bytes) -> None:
        call.reply(bytes(int(message)))

    def stats(self, call: Call, message: bytes) -> None:
        seen = {**asdict(self.wire.stats), "handler_cancelled": self.cancelled}
        if isinstance(self.wire, Ngh2Wire):
            # Of a wire that leaks nothing, only this call's own connection is left.
            seen |= {"open": len(self.wire._connections), "buffered_bytes": self.wire.buffered_bytes}
        call.reply(json.dumps(seen).encode())

    def break_flush(self, call: Call, message: bytes) -> None:
        self.raise_at_flush = True
        call.reply(b"still here")

    def bidi(self, call: StreamCall) -> None:
        call.on_message(call.send)
        call.on_half_close(lambda: call.finish(trailing=[("x-end", "half-close")]))

    def sink(self, call: StreamCall) -> None:
        sizes: list[int] = []
        call.on_message(lambda message: sizes.append(len(message)))
        call.on_half_close(
            lambda: call.reply(json.dumps(sizes).encode(), [("x-initial", "i")], [("x-end", "e")])
        )

    def flood(self, call: StreamCall) -> None:
        """Send messages of the size asked for, as fast as the client reads."""
        left = 0
        size = 0

        def send() -> None:
            nonlocal left
            while left and call.writable and not call.cancelled:
                left -= 1
                call.send(bytes(size))
            if not left:
                call.finish()

        def on_message(message: bytes) -> None:
            nonlocal left, size
            left, size = json.loads(message)
            call.on_drain(send)
            send()

        call.on_cancel(lambda: setattr(self, "cancelled", self.cancelled + 1))
        call.on_message(on_message)

    def stepwise(self, call: StreamCall) -> None:
        """Take one message in each turn of the loop, pausing in between."""

        def on_message(message: bytes) -> None:
            call.pause()
            call.send(message)
            asyncio.get_running_loop().call_soon(call.resume)

        call.on_message(on_message)
        call.on_half_close(call.finish)

    def stuck(self, call: StreamCall) -> None:
        """Never take a message."""
        call.start([("x-started", "yes")])
        call.on_cancel(lambda: setattr(self, "cancelled", self.cancelled + 1))

    def stream_boom(self, call: StreamCall) -> None:
        def on_message(message: bytes) -> None:
            call.send(message)
            raise RuntimeError("a secret of the server")

        call.on_message(on_message)

    def early(self, call: StreamCall) -> None:
        call.fail(Status.FAILED_PRECONDITION, "not now")

    def handlers(self) -> Handlers:
        unary: dict[str, Callable[[Call, bytes], None]] = {
            "Echo": self.echo,
            "Halves": self.halves,
            "Record": self.record,
            "Metadata": self.metadata,
            "BadMetadata": self.bad_metadata,
            "Remaining": self.remaining,
            "Hang": self.hang,
            "Fail": self.fail,
            "Boom": self.boom,
            "Twice": self.twice,
            "Later": self.later,
            "Big": self.big,
            "Stats": self.stats,
            "BreakFlush": self.break_flush,
            "SetHealth": self.set_health,
        }
        stream: dict[str, Callable[[StreamCall], None]] = {
            "Bidi": self.bidi,
            "Sink": self.sink,
            "Flood": self.flood,
            "Stepwise": self.stepwise,
            "Stuck": self.stuck,
            "StreamBoom": self.stream_boom,
            "Early": self.early,
        }
        own = Handlers(
            unary={f"/test.Wire/{name}": handler for name, handler in unary.items()},
            stream={f"/test.Wire/{name}": handler for name, handler in stream.items()},
        )
        reflection = Reflection([open_inference_pb2.DESCRIPTOR], [descriptor()])
        return own | self.health.handlers() | reflection.handlers()

    def set_health(self, call: Call, message: bytes) -> None:
        service, serving = json.loads(message)
        self.health.set(service, Serving[serving])
        call.reply(b"")


async def serve(settings: dict[str, Any]) -> None:
    wire = new_wire(WireKind(settings["wire"]))
    journal = settings.get("journal")
    server = Server(wire, None if journal is None else Path(journal))
    files = settings.get("tls")
    port = await wire.start(
        host=settings.get("host", "127.0.0.1"),
        port=0,
        handlers=server.handlers(),
        limits=Limits(**settings.get("limits", {})),
        tls=None if files is None else Tls(**{name: Path(path) for name, path in files.items()}),
        before_flush=server.before_flush,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    # The suite's process ends without a word when it is killed: its pipe tells.
    loop.add_reader(sys.stdin.fileno(), stop.set)
    print(port, flush=True)
    await stop.wait()
    loop.remove_reader(sys.stdin.fileno())
    server.health.shut_down()
    await wire.drain(settings.get("grace_s", 5.0))
    print(json.dumps(asdict(wire.stats)), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(json.loads(sys.argv[1])))
    os._exit(0)
