"""The request path with traces: the same path, and a span for those requests that are sampled.

It is put together only where traces are on, so that without them a request does not even ask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anabranch.router.flight import Flight
from anabranch.router.infer import Inference
from anabranch.router.replies import INVOKED_VARIANT
from anabranch.router.traces import RequestSpan, Traces, with_traceparent
from anabranch.store.records import Flag
from anabranch.variants.batching import Timing
from anabranch.wire.seam import Call, Metadata, Status


class TracedCall:
    """A call whose answer ends a span, and whose metadata name that span to whoever runs the request.

    Args:
        call: The client's call.
        span: Its span.
    """

    __slots__ = ("_call", "metadata", "span")

    def __init__(self, call: Call, span: RequestSpan) -> None:
        self._call = call
        self.span = span
        self.metadata: Metadata = with_traceparent(call.metadata, span.traceparent)

    @property
    def method(self) -> str:
        """See `Call`."""
        return self._call.method

    @property
    def deadline(self) -> float | None:
        """See `Call`."""
        return self._call.deadline

    @property
    def peer(self) -> str:
        """See `Call`."""
        return self._call.peer

    @property
    def peer_identity(self) -> str | None:
        """See `Call`."""
        return self._call.peer_identity

    @property
    def cancelled(self) -> bool:
        """See `Call`."""
        return self._call.cancelled

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """See `Call`."""
        self._call.on_cancel(callback)

    def reply(
        self, message: bytes, metadata: Metadata = (), trailing: Metadata = (), tail: bytes = b""
    ) -> None:
        """See `Call`."""
        self._call.reply(message, metadata, trailing, tail)
        for name, value in metadata:
            if name == INVOKED_VARIANT and isinstance(value, str):
                self.span.note({"anabranch.invoked_variant": value})
        self.span.end(Status.OK)

    def fail(self, status: Status, message: str, metadata: Metadata = ()) -> None:
        """See `Call`."""
        self._call.fail(status, message, metadata)
        self.span.end(status, message)


class TracedInference(Inference):
    """Answers `ModelInfer` in one worker, and traces some of it.

    Args:
        traces: Where spans go.
        parts: See `Inference`.
    """

    def __init__(self, traces: Traces, **parts: Any) -> None:
        super().__init__(**parts)
        self._traces = traces

    def infer(self, call: Call, message: bytes, parts: Callable[[bytes], None] | None = None) -> None:
        """Handle one call; see `Inference.infer`."""
        span = self._traces.begin(call.metadata, call.method)
        if span is None:
            super().infer(call, message, parts)
            return
        try:
            super().infer(TracedCall(call, span), message, parts)
        except Exception:
            span.end(Status.INTERNAL, "the handler failed")
            raise

    def record(self, flight: Flight, status: Status, latency_ms: float, timing: Timing) -> None:
        """Write a request down, and into its span."""
        super().record(flight, status, latency_ms, timing)
        if not isinstance(flight.call, TracedCall):
            return
        flight.call.span.note(
            {
                "anabranch.model": flight.model,
                "anabranch.variant": flight.variant,
                "anabranch.variant_status": status.name,
                "anabranch.is_masked": Flag.MASKED in flight.flags,
                "anabranch.is_hedged": flight.is_hedged,
                "anabranch.is_pinned": Flag.PINNED in flight.flags,
                "anabranch.rows": flight.query.rows,
                "anabranch.batch_rows": timing.batch_rows,
                "anabranch.queue_ms": 1000.0 * timing.queue_s,
                "anabranch.compute_ms": 1000.0 * timing.compute_s,
            }
        )
        if flight.sequence:
            flight.call.span.note(
                {
                    "anabranch.experiment": flight.route.experiment,
                    "anabranch.epoch": flight.route.epoch,
                    "anabranch.arm": flight.arm,
                    "anabranch.propensity": flight.propensity,
                    "anabranch.is_evidence": Flag.EVIDENCE in flight.flags,
                    "anabranch.is_sampled": Flag.SAMPLED in flight.flags,
                }
            )

    def lost(self, flight: Flight, status: Status) -> None:
        """Count, record and end the span of a request that nobody answered."""
        super().lost(flight, status)
        if isinstance(flight.call, TracedCall):
            flight.call.span.end(status)
