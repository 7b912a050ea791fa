"""`anabranch bench load` against a server on the wire, in a thread of its own."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
import yaml

from anabranch.cli.exit_codes import ExitCode
from anabranch.proto import open_inference_pb2 as pb
from anabranch.wire.ngh2_server import Ngh2Wire
from anabranch.wire.seam import Call, Handlers, Limits, Status

Shell = Any

_SERVICE = "/inference.GRPCInferenceService/"


class Served:
    """A server of two models: `echo` answers, `full` refuses every third request."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[pb.ModelInferRequest] = []
        self.fields: list[dict[str, str | bytes]] = []
        self.described_with: dict[str, str | bytes] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve()))

    def __enter__(self) -> "Served":
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        wire = Ngh2Wire()
        unary = {f"{_SERVICE}ModelInfer": self._infer, f"{_SERVICE}ModelMetadata": self._describe}
        self.port = await wire.start(
            host="127.0.0.1", port=0, handlers=Handlers(unary=unary), limits=Limits()
        )
        self._started.set()
        await self._stop.wait()
        await wire.close()

    def _infer(self, call: Call, message: bytes) -> None:
        request = pb.ModelInferRequest.FromString(message)
        self.requests.append(request)
        self.fields.append(dict(call.metadata))
        if request.model_name == "full" and len(self.requests) % 3 == 0:
            call.fail(Status.RESOURCE_EXHAUSTED, "the queue is full")
            return
        variant = "onnx-int8" if len(self.requests) % 4 == 0 else "onnx-fp32"
        call.reply(b"", metadata=[("x-invoked-variant", variant)])

    def _describe(self, call: Call, message: bytes) -> None:
        name = pb.ModelMetadataRequest.FromString(message).name
        self.described_with = dict(call.metadata)
        if name not in ("echo", "full"):
            call.fail(Status.NOT_FOUND, f"no model {name!r}")
            return
        response = pb.ModelMetadataResponse(name=name)
        response.inputs.add(name="x", datatype="FP32", shape=[-1, 8])
        call.reply(response.SerializeToString())


@pytest.fixture
def served() -> Iterator[Served]:
    with Served() as running:
        yield running


def test_a_run_reports_what_the_server_answered(shell: Shell, served: Served) -> None:
    ran = shell(
        "bench", "load", served.address, "--model", "echo", "--rate", "400", "--duration", "0.5",
        "--warm-up", "0.1", "--connections", "2", "--metadata", "x-own=1", "--unit-metadata", "x-user-id",
        "--units", "5", "--output", "json",
    )  # fmt: skip
    assert ran.code == ExitCode.OK, ran.err
    report = json.loads(ran.out)
    assert report["sent"] == report["ok"] == report["by_status"]["OK"] == sum(report["variants"].values())
    assert 100 < report["sent"] < 320
    assert set(report["variants"]) == {"onnx-fp32", "onnx-int8"}
    latency = report["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99_9"] <= latency["max"]
    assert report["cpu_us_per_request"] > 0
    # Warm-up included, which the report does not count.
    assert len(served.requests) > report["sent"]
    assert {request.model_name for request in served.requests} == {"echo"}
    assert list(served.requests[0].inputs[0].shape) == [1, 8]
    assert {fields["x-own"] for fields in served.fields} == {"1"}
    assert served.described_with["x-own"] == "1", "a token is needed there too"
    assert {fields["x-user-id"] for fields in served.fields} == {f"unit-{number}" for number in range(5)}


def test_a_closed_loop_is_drawn_as_a_table(shell: Shell, served: Served) -> None:
    ran = shell(
        "bench", "load", served.address, "--model", "echo", "--concurrency", "3", "--duration", "0.2",
        "--warm-up", "0",
    )  # fmt: skip
    assert ran.code == ExitCode.OK, ran.err
    assert "3 always in flight, 0.2 s, 4 connections" in ran.out
    assert "onnx-fp32" in ran.out
    assert "p99.9" in ran.out


def test_any_failure_is_counted_named_and_the_exit_status(shell: Shell, served: Served) -> None:
    ran = shell(
        "bench", "load", served.address, "--model", "full", "--rate", "200", "--duration", "0.3",
        "--warm-up", "0", "-o", "yaml",
    )  # fmt: skip
    assert ran.code == ExitCode.FAILURE
    report = yaml.safe_load(ran.out)
    refused = report["by_status"]["RESOURCE_EXHAUSTED"]
    assert report["ok"] + refused == report["sent"]
    assert refused == pytest.approx(report["sent"] / 3, abs=1)
    assert "RESOURCE_EXHAUSTED: the queue is full" in ran.err


def test_a_serialized_request_is_sent_as_it_is(shell: Shell, served: Served, tmp_path: Any) -> None:
    file = tmp_path / "request.bin"
    file.write_bytes(pb.ModelInferRequest(model_name="own", id="17").SerializeToString())
    ran = shell(
        "bench", "load", served.address, "--request-file", str(file), "--duration", "0.1", "--warm-up", "0"
    )
    assert ran.code == ExitCode.OK, ran.err
    assert {(request.model_name, request.id) for request in served.requests} == {("own", "17")}


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--model", "none"], ExitCode.NOT_FOUND, "does not describe model 'none': NOT_FOUND no model 'none'"),
        ([], ExitCode.BAD_INPUT, "--model is missing"),
        (["--model", "echo", "--text", "a", "--tensor-bytes", "9"], ExitCode.BAD_INPUT, "give one of"),
        (["--model", "echo", "--metadata", "Upper=1"], ExitCode.BAD_INPUT, "metadata name 'Upper'"),
        (["--model", "echo", "--unit-metadata", "grpc-x"], ExitCode.BAD_INPUT, "metadata name 'grpc-x'"),
        (["--request-file", "/no/such"], ExitCode.NOT_FOUND, "cannot read /no/such"),
        (["--model", "echo", "--tls-ca", "/no/such"], ExitCode.BAD_INPUT, "TLS files cannot be used"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused(
    shell: Shell, served: Served, options: list[str], code: ExitCode, says: str
) -> None:
    ran = shell("bench", "load", served.address, "--duration", "0.1", *options)
    assert ran.code == code, ran.err
    assert says in ran.err
    assert served.requests == []


def test_a_token_of_the_environment_goes_along(
    shell: Shell, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("secret\n")
    monkeypatch.setenv("ANABRANCH_TOKEN_FILE", str(tmp_path / "token"))
    ran = shell("bench", "load", served.address, "--model", "echo", "--duration", "0.1", "--concurrency", "1")
    assert ran.code == ExitCode.OK, ran.err
    assert {fields["authorization"] for fields in served.fields} == {"Bearer secret"}
    assert served.described_with["authorization"] == "Bearer secret"


def test_a_token_does_not_leave_the_machine_in_plain_text(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANABRANCH_TOKEN", "secret")
    ran = shell("bench", "load", "192.0.2.1:8001", "--model", "echo", "--duration", "0.1")
    assert ran.code == ExitCode.BAD_INPUT
    assert "in plain text" in ran.err


def test_a_target_that_is_none_is_refused(shell: Shell) -> None:
    ran = shell("bench", "load", "localhost", "--model", "echo")
    assert (ran.code, "give HOST:PORT" in ran.err) == (ExitCode.BAD_INPUT, True)


def test_a_server_that_is_not_there_is_named_with_the_reason(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anabranch.cli.bench.run._CONNECT_S", 2.0)
    ran = shell("bench", "load", "127.0.0.1:9", "--model", "echo")
    assert ran.code == ExitCode.FAILURE
    assert "0 of 4 connections to 127.0.0.1:9 are open after 2 s: Connection refused" in ran.err
    assert "where it speaks TLS, give --tls-ca" in ran.err


def test_the_help_says_what_latency_is_and_when_the_exit_status_is_not_zero(shell: Shell) -> None:
    text = " ".join(shell("bench", "load", "--help").out.split())
    assert "Latency counts from the moment at which a request was meant to leave" in text
    assert "Exits with 1 when a request was not answered with OK" in text
