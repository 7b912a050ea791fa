"""Spans of a sampled share of requests, and of every decision, to an OpenTelemetry collector over OTLP/HTTP.

This is the only module that knows OpenTelemetry, which is imported when traces are on and not before. Spans are made of
what is known at a request's end anyway; they leave on a thread of their own, and are dropped when the collector is slow.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from anabranch.bandit.decision import Decision
from anabranch.router.settings import InvalidSettings, Settings
from anabranch.wire.seam import Metadata, Status

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer
    from opentelemetry.util.types import AttributeValue

TRACEPARENT: Final = "traceparent"
MOST_A_SECOND: Final = 200
"""Spans of one worker: clients ask for a trace by a header, and must not decide what a server has to do."""
_PATTERN: Final = re.compile(r"^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$")
_SAMPLED: Final = 1
_CLOSE_S: Final = 3.0
_INVALID: Final = ("0" * 32, "0" * 16)


class RequestSpan:
    """The span of one request, which ends once.

    Args:
        span: OpenTelemetry's.
        ended: Called with its end.
    """

    __slots__ = ("_is_over", "_span", "traceparent")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._is_over = False
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"

    def note(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Say something about the request."""
        self._span.set_attributes(attributes)

    def end(self, status: Status, message: str = "") -> None:
        """The client has its answer; what comes later is ignored."""
        from opentelemetry.trace import StatusCode

        if self._is_over:
            return
        self._is_over = True
        self._span.set_attribute("rpc.grpc.status_code", int(status))
        if status is not Status.OK:
            self._span.set_status(StatusCode.ERROR, f"{status.name}: {message}" if message else status.name)
        self._span.end()


class Traces:
    """Where the spans of one process go.

    Args:
        settings: Share of the requests, and the collector's address.
        role: What the process is.
        draw: A number in [0, 1) for each request without a trace of its own.
        clock: Seconds, for the limit.

    Raises:
        InvalidSettings: OpenTelemetry is not installed.
    """

    def __init__(
        self,
        settings: Settings,
        role: str,
        *,
        draw: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share = settings.trace_share
        self._draw = draw
        self._clock = clock
        self._second = 0
        self._left = MOST_A_SECOND
        self._provider = _provider(settings, role)
        self._tracer: Tracer = self._provider.get_tracer("anabranch", version("anabranch"))

    def begin(self, metadata: Metadata, method: str) -> RequestSpan | None:
        """The span of a request, if it gets one.

        A request that comes with a `traceparent` belongs to that trace, if the trace is sampled; the others are drawn.

        Args:
            metadata: What the client sent along.
            method: The full method name.
        """
        parent = next((value for name, value in metadata if name == TRACEPARENT), None)
        found = _PATTERN.match(parent) if isinstance(parent, str) else None
        if found is not None and (found[1] == "ff" or found[2] == _INVALID[0] or found[3] == _INVALID[1]):
            found = None
        if found is None:
            if self._draw() >= self._share:
                return None
        elif not int(found[4], 16) & _SAMPLED:
            return None
        if not self._may():
            return None
        return self._start(found, method)

    def decided(self, experiment: str, model: str, decision: Decision) -> None:
        """The span of a decision, with an event for every thing that it does."""
        at_ns = int(decision.at_s * 1e9)
        span = self._tracer.start_span(
            "decision",
            start_time=at_ns,
            attributes={
                "anabranch.experiment": experiment,
                "anabranch.model": model,
                "anabranch.decision": decision.number,
                "anabranch.phase": str(decision.phase),
                "anabranch.step": decision.step,
                "anabranch.epoch": decision.epoch,
                **{f"anabranch.weight.{arm}": share for arm, share in decision.weights.items()},
            },
        )
        for action in decision.actions:
            span.add_event(
                str(action.change),
                {"anabranch.variant": action.variant, "anabranch.reason": action.reason},
                timestamp=at_ns,
            )
        span.end()

    def close(self) -> None:
        """Send what is left, within a few seconds."""
        # On a thread that does not keep the process: a collector that hangs must not hold up a drain.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_S)

    def _may(self) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._left = second, MOST_A_SECOND
        self._left -= 1
        return self._left >= 0

    def _start(self, parent: re.Match[str] | None, method: str) -> RequestSpan:
        from opentelemetry import trace

        context = None
        if parent is not None:
            remote = trace.SpanContext(
                int(parent[2], 16), int(parent[3], 16), is_remote=True, trace_flags=trace.TraceFlags(_SAMPLED)
            )
            context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
        service, _, name = method.removeprefix("/").rpartition("/")
        return RequestSpan(
            self._tracer.start_span(
                f"{service}/{name}",
                context=context,
                kind=trace.SpanKind.SERVER,
                attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
            )
        )


def with_traceparent(
    metadata: Iterable[tuple[str, str | bytes]], traceparent: str
) -> list[tuple[str, str | bytes]]:
    """The metadata as they are sent on: what runs the request hangs below our span."""
    kept: list[tuple[str, str | bytes]] = [pair for pair in metadata if pair[0] != TRACEPARENT]
    return [*kept, (TRACEPARENT, traceparent)]


def require_traces(settings: Settings) -> None:
    """See that traces can be sent, before a worker has to.

    Raises:
        InvalidSettings: OpenTelemetry is not installed.
    """
    if settings.trace_share > 0:
        try:
            import opentelemetry.exporter.otlp.proto.http
            import opentelemetry.sdk.trace  # noqa: F401
        except ImportError as error:
            raise InvalidSettings(
                f"trace_share is {settings.trace_share:g}, but OpenTelemetry is not installed: "
                "pip install 'anabranch[otel]', or leave --trace-share out"
            ) from error


def _provider(settings: Settings, role: str) -> TracerProvider:
    require_traces(settings)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over these, as everywhere.
    resource = Resource.create({"service.name": "anabranch", "anabranch.role": role}).merge(Resource.create())
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
    endpoint = f"{settings.otlp_endpoint.rstrip('/')}/v1/traces" if settings.otlp_endpoint else None
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return provider
