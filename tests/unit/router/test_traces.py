"""Spans of requests and decisions, read from the bytes that a collector receives."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from anabranch.bandit.decision import Action, Change, Decision
from anabranch.bandit.lifecycle import Phase
from anabranch.router import traces as module
from anabranch.router.backends import RemoteBackend
from anabranch.router.settings import InvalidSettings, Settings
from anabranch.router.traced import TracedInference
from anabranch.router.traces import MOST_A_SECOND, Traces
from anabranch.variants.batching import FailureKind
from anabranch.wire.deadlines import DeadlineWheel
from anabranch.wire.seam import Metadata, Status

Bench = Any
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


class Collector:
    """An OTLP collector on loopback."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def new_traces(collector: Collector, tmp_path: Path) -> Callable[..., Traces]:
    def make(
        share: float = 1.0, draws: tuple[float, ...] = (), now: Callable[[], float] = lambda: 0.0
    ) -> Traces:
        left = list(draws)
        settings = Settings(models=tmp_path, trace_share=share, otlp_endpoint=collector.address)
        return Traces(settings, "worker", draw=lambda: left.pop(0) if left else 0.0, clock=now)

    return make


@pytest.fixture
def traced(bench: Bench, new_traces: Callable[..., Traces]) -> Callable[..., Traces]:
    """Give the bench a request path with traces."""

    def make(**options: Any) -> Traces:
        traces = new_traces(**options)
        bench.inference = TracedInference(
            traces,
            models=bench.models,
            routes=bench.routes,
            backends=bench.backends,
            recorder=bench.recorder,
            mirror=bench.mirror,
            ids=bench.ids,
            hedge=bench.hedge,
            wheel=DeadlineWheel(cast(Any, bench.timers)),
            loop_time=lambda: bench.now,
            wall_clock=lambda: bench.wall,
            stopwatch=lambda: bench.now,
            draw=lambda: bench.draws.pop(0),
        )
        return traces

    return make


def said(span: Span) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "") for each in span.attributes}


def test_a_sampled_request_hangs_below_its_parent_and_says_how_it_was_assigned(
    bench: Bench, traced: Callable[..., Traces], collector: Collector
) -> None:
    traces = traced()
    bench.publish(bench.route(0.5, 0.0))
    bench.draws = [0.1]
    bench.infer(metadata=SAMPLED)
    bench.dispatcher.last.answer()
    traces.close()
    (span,) = collector.spans
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.name == "inference.GRPCInferenceService/ModelInfer"
    assert span.kind == Span.SPAN_KIND_SERVER
    assert span.end_time_unix_nano >= span.start_time_unix_nano
    found = said(span)
    assert {
        name: found[f"anabranch.{name}"] for name in ("model", "variant", "experiment", "epoch", "arm")
    } == {
        "model": "m",
        "variant": "a",
        "experiment": "exp",
        "epoch": 9,
        "arm": 1,
    }
    assert found["anabranch.invoked_variant"] == "a"
    assert found["anabranch.propensity"] == 0.5
    assert (found["anabranch.batch_rows"], found["anabranch.is_masked"]) == (4, False)
    assert (found["anabranch.queue_ms"], found["anabranch.compute_ms"]) == pytest.approx((1.0, 2.0))
    assert found["rpc.grpc.status_code"] == 0
    assert not any("assignment" in name for name in found), "an assignment id lets its bearer report outcomes"


def test_a_masked_failure_is_told_though_the_client_sees_none(
    bench: Bench, traced: Callable[..., Traces], collector: Collector
) -> None:
    traces = traced()
    bench.publish(bench.route(0.5, 0.0))
    bench.draws = [0.1]
    bench.infer(metadata=SAMPLED)
    bench.dispatcher.last.fail(FailureKind.ERROR)
    bench.dispatcher.last.answer()
    traces.close()
    (span,) = collector.spans
    found = said(span)
    assert (found["anabranch.variant"], found["anabranch.variant_status"]) == ("a", "INTERNAL")
    assert (found["anabranch.invoked_variant"], found["anabranch.is_masked"]) == ("base", True)
    assert found["rpc.grpc.status_code"] == 0


@pytest.mark.parametrize("how", ["refused", "failed", "cancelled"])
def test_a_request_without_an_answer_ends_its_span_as_an_error(
    bench: Bench, traced: Callable[..., Traces], collector: Collector, how: str
) -> None:
    traces = traced()
    if how == "refused":
        bench.infer(bench.request(model_name="stranger"), metadata=SAMPLED)
    else:
        call = bench.infer(metadata=SAMPLED)
        if how == "failed":
            bench.dispatcher.last.fail(FailureKind.ERROR)
        else:
            call.cancel()
    traces.close()
    (span,) = collector.spans
    status = {"refused": Status.NOT_FOUND, "failed": Status.INTERNAL, "cancelled": Status.CANCELLED}[how]
    assert said(span)["rpc.grpc.status_code"] == status
    assert span.status.code == 2
    assert span.status.message.startswith(status.name)


def test_the_parent_decides_and_without_one_the_share_does(
    new_traces: Callable[..., Traces], collector: Collector
) -> None:
    traces = new_traces(share=0.25, draws=(0.2, 0.3, 0.2, 0.2))
    method = "/s/M"
    assert traces.begin([("traceparent", f"00-{TRACE}-{PARENT}-00")], method) is None, "it is not sampled"
    assert traces.begin([], method) is not None
    assert traces.begin([], method) is None
    for broken in ("", "00-zz", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01"):
        before = new_traces(share=0.25, draws=(0.9,))
        assert before.begin([("traceparent", broken)], method) is None, f"{broken!r} is no parent"
        before.close()
    traces.close()


def test_clients_cannot_make_a_worker_send_more_than_so_many_spans_a_second(
    new_traces: Callable[..., Traces],
) -> None:
    now = [5.0]
    traces = new_traces(now=lambda: now[0])
    asked = [traces.begin(list(SAMPLED.items()), "/s/M") for _ in range(MOST_A_SECOND + 10)]
    assert [span is None for span in asked] == [False] * MOST_A_SECOND + [True] * 10
    now[0] = 6.0
    assert traces.begin(list(SAMPLED.items()), "/s/M") is not None
    traces.close()


def test_a_remote_variant_is_given_our_span_as_its_parent(
    bench: Bench, traced: Callable[..., Traces], collector: Collector
) -> None:
    sent: list[Metadata] = []

    class Remote:
        def unfit(self) -> None:
            return None

        def submit(self, message: bytes, rows: int, metadata: Metadata, **options: Any) -> Any:
            sent.append(metadata)
            return type("Sent", (), {"cancel": lambda self: None})()

    traces = traced()
    bench.backends["m", "base"] = RemoteBackend(cast(Any, Remote()))
    call = bench.infer(metadata={**SAMPLED, "x-tenant": "t"})
    call.cancel()
    traces.close()
    (span,) = collector.spans
    assert dict(sent[0]) == {"x-tenant": "t", "traceparent": f"00-{TRACE}-{span.span_id.hex()}-01"}


def test_a_decision_is_a_span_with_an_event_for_everything_it_does(
    new_traces: Callable[..., Traces], collector: Collector
) -> None:
    traces = new_traces()
    decision = Decision(
        number=4,
        at_s=1_700_000_000.0,
        phase=Phase.PROGRESSING,
        step=1,
        epoch=2,
        weights={"base": 0.9, "a": 0.1},
        actions=(Action(change=Change.REMOVED, variant="b", reason="b fails errors"),),
        verdicts=(),
        evidence_last=7,
    )
    traces.decided("exp", "m", decision)
    traces.close()
    (span,) = collector.spans
    assert span.name == "decision"
    assert span.start_time_unix_nano == 1_700_000_000_000_000_000
    assert said(span)["anabranch.weight.a"] == 0.1
    (event,) = span.events
    assert event.name == "removed"
    assert {each.key: each.value.string_value for each in event.attributes} == {
        "anabranch.variant": "b",
        "anabranch.reason": "b fails errors",
    }


def test_a_collector_that_is_away_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CLOSE_S", 0.1)
    settings = Settings(models=tmp_path, trace_share=1.0, otlp_endpoint="http://127.0.0.1:9")
    traces = Traces(settings, "worker", draw=lambda: 0.0)
    span = traces.begin([], "/s/M")
    assert span is not None
    span.end(Status.OK)
    begun = time.monotonic()
    traces.close()
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("trace_share", 1.5, "trace_share is 1.5, must be from 0 to 1"),
        ("otlp_endpoint", "collector:4318", "must begin with http:// or https://"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, field: str, value: Any, problem: str) -> None:
    with pytest.raises(InvalidSettings, match=problem):
        Settings(models=tmp_path, **{field: value})


def test_without_traces_a_worker_loads_neither_opentelemetry_nor_prometheus() -> None:
    program = (
        "import sys, anabranch.router.worker\n"
        "print([name for name in ('opentelemetry', 'prometheus_client') if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert ran.stdout.strip() == "[]"
