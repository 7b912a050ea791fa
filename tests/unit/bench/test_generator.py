"""The bench's load generator: it counts what a server does wrong, and an open loop waits for nobody."""

import asyncio
import base64
import os
from collections.abc import Callable
from typing import Any

import uvloop

from anabranch.wire.ngh2_server import Ngh2Wire
from anabranch.wire.seam import Call, Handlers, Limits, Status
from bench.dataplane.generate import Generator
from bench.dataplane.load_plan import Dialect, LoadPlan, LoadResult

_METHOD = "/bench.Test/Ask"
_STALL_S = 0.05


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _measured(answer: Callable[[Call, bytes], None], **fields: Any) -> LoadResult:
    """Load a server of our own for a quarter of a second."""

    async def run() -> LoadResult:
        wire = Ngh2Wire()
        port = await wire.start(
            host="127.0.0.1",
            port=0,
            handlers=Handlers(unary={_METHOD: answer}),
            limits=Limits(),
            before_flush=lambda: None,
        )
        options: dict[str, Any] = {"body": _text(b"hello"), "connections": 2, "streams": 4, "seconds": 0.25}
        plan = LoadPlan(
            port=port, path=_METHOD, server_pid=os.getpid(), warm_up_s=0.05, **{**options, **fields}
        )
        try:
            return await Generator(plan).run()
        finally:
            await wire.drain(0.0)

    return uvloop.run(run())


def _echo(call: Call, message: bytes) -> None:
    call.reply(message)


def test_it_counts_answers_and_the_cpu_of_the_process() -> None:
    result = _measured(_echo, needle=_text(b"hello"))
    assert result.failed == 0
    assert result.answered > 0
    assert 0 < result.cpu_us < 1e6
    assert result.cpu_us == sum(result.cpu_parts.values())
    assert 0 < result.p50_ms <= result.p90_ms <= result.p99_ms


def test_an_error_of_grpc_is_a_failure_though_http_says_200() -> None:
    asked = 0

    def every_second(call: Call, message: bytes) -> None:
        nonlocal asked
        asked += 1
        if asked % 2:
            call.reply(message)
        else:
            call.fail(Status.RESOURCE_EXHAUSTED, "busy")

    result = _measured(every_second)
    assert abs(result.failed - result.answered / 2) <= 8
    assert result.statuses == {"grpc-status 8": result.failed}


def test_an_empty_answer_is_a_failure() -> None:
    result = _measured(lambda call, _message: call.reply(b""))
    assert result.failed == result.answered > 0
    assert set(result.statuses) == {"empty answer"}


def test_other_bytes_than_asked_for_are_found_among_the_samples() -> None:
    result = _measured(lambda call, _message: call.reply(b"jello"), needle=_text(b"hello"))
    assert set(result.statuses) == {"other bytes than expected"}


def test_an_open_loop_sends_at_its_rate_and_charges_the_wait() -> None:
    def late(call: Call, message: bytes) -> None:
        asyncio.get_running_loop().call_later(_STALL_S, lambda: call.reply(message))

    result = _measured(late, rate=400.0, seconds=0.5, seed=3, keeps_timeline=True)
    assert result.sent == result.answered
    # Poisson with mean 200: five standard deviations.
    assert 130 <= result.sent <= 270
    assert result.p50_ms >= 1e3 * _STALL_S - 2.0
    assert len(result.timeline) == result.answered


def test_answers_slower_than_the_limit_are_not_good() -> None:
    def late(call: Call, message: bytes) -> None:
        asyncio.get_running_loop().call_later(_STALL_S, lambda: call.reply(message))

    result = _measured(late, rate=200.0, slo_ms=1e3 * _STALL_S / 2)
    assert result.rps > 0
    assert result.good_per_s == 0


def test_the_unit_is_sent_and_the_variant_counted() -> None:
    def by_unit(call: Call, message: bytes) -> None:
        unit = dict(call.metadata)["x-unit"]
        call.reply(
            message, [("x-invoked-variant", "odd" if int(str(unit).removeprefix("user-")) % 2 else "even")]
        )

    result = _measured(by_unit, unit_header="x-unit", units=10)
    assert set(result.variants) == {"odd", "even"}
    assert sum(result.variants.values()) == result.answered


def test_json_over_http_is_checked_by_its_status() -> None:
    statuses = iter([200, 503] * 100_000)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            assert await reader.readexactly(size) == b"[1]"
            writer.write(f"HTTP/1.1 {next(statuses)} X\r\nContent-Length: 2\r\n\r\n[]".encode())

    async def run() -> LoadResult:
        def quiet(*connection: Any) -> Any:
            return _until_hung_up(serve(*connection))

        server = await asyncio.start_server(quiet, "127.0.0.1", 0)
        plan = LoadPlan(
            port=server.sockets[0].getsockname()[1],
            path="/infer",
            body=_text(b"[1]"),
            server_pid=os.getpid(),
            dialect=Dialect.JSON,
            connections=2,
            streams=1,
            seconds=0.2,
            warm_up_s=0.05,
        )
        try:
            return await Generator(plan).run()
        finally:
            server.close()

    result = uvloop.run(run())
    assert abs(result.failed - result.answered / 2) <= 3
    assert set(result.statuses) == {"http 503"}


async def _until_hung_up(serving: Any) -> None:
    try:
        await serving
    except asyncio.IncompleteReadError:
        return
