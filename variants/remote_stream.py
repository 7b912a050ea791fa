"""A request to a server elsewhere whose answer may come in parts: one `ModelStreamInfer` stream a request.

A stream costs no more than another call on the same connection, and gives each request its own deadline, cancellation and
flow control. The server is told at once that no further request comes, so that the end of its stream is the end of the
answer; one part is kept back until the next one, or the end, tells whether it was the last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from anabranch.proto.scan import Head, ScanError, fields, scan
from anabranch.variants.batching import Failure, Timing
from anabranch.variants.remote_answer import RemoteAnswer, remote_failure
from anabranch.variants.remote_check import SERVICE
from anabranch.wire.client import Channel, ClientStreamCall, Reply
from anabranch.wire.express import Upstream
from anabranch.wire.seam import Metadata, Status

METHOD: Final = f"{SERVICE}/ModelStreamInfer"
_FINAL: Final = "triton_final_response"

RemoteDone = Callable[[RemoteAnswer | Failure], None]
RemotePart = Callable[[RemoteAnswer], None]


class Origin(Protocol):
    """What a stream needs of its variant."""

    @property
    def name(self) -> str:
        """The variant's name."""

    upstream: Upstream

    def ended(self, status: Status, since: float) -> float:
        """A request has ended; answers how long it took, in seconds."""


class RemoteStream:
    """One request in flight.

    Args:
        origin: The variant.
        since: When it began, on the event loop's clock.
        rows: The request's rows.
        done: Takes the last part, or the failure.
        part: Takes the parts before it.
    """

    __slots__ = ("_call", "_done", "_kept", "_origin", "_part", "_rows", "_since")

    def __init__(self, origin: Origin, since: float, rows: int, done: RemoteDone, part: RemotePart) -> None:
        self._origin = origin
        self._since = since
        self._rows = rows
        self._done: RemoteDone | None = done
        self._part = part
        self._kept: tuple[bytes, Head] | None = None
        self._call: ClientStreamCall | None = None

    def begin(self, channel: Channel, message: bytes, metadata: Metadata, deadline: float | None) -> None:
        """Send the request."""
        self._call = channel.stream(
            METHOD, on_message=self._on_message, on_end=self._on_end, metadata=metadata, deadline=deadline
        )
        self._call.send(message)
        self._call.half_close()

    def cancel(self) -> None:
        """Forget it, and tell the server."""
        if self._done is not None and self._call is not None:
            self._done = None
            self._origin.upstream.in_flight -= 1
            self._call.cancel()

    def _on_message(self, message: bytes) -> None:
        if self._done is None:
            return
        error, response = "", b""
        try:
            for number, _, start, end in fields(message):
                if number == 1:
                    error = message[start:end].decode("utf-8", "replace")
                elif number == 2:
                    response = message[start:end]
            head = scan(response)
        except ScanError as problem:
            self._fail(Status.INTERNAL, f"its answer is no ModelStreamInferResponse: {problem}")
            return
        if error:
            # An older Triton does not say which status it would have been.
            said = head.parameters.get("status")
            known = isinstance(said, str) and said in Status.__members__
            self._fail(Status[said] if known and isinstance(said, str) else Status.UNKNOWN, error)
            return
        if self._kept is not None:
            self._part(self._answer(*self._kept, 0.0))
        self._kept = response, head
        if head.parameters.get(_FINAL) is True:
            self._finish()

    def _on_end(self, reply: Reply) -> None:
        if self._done is None:
            return
        if reply.status is not Status.OK:
            self._fail(reply.status, reply.text)
        elif self._kept is None:
            self._fail(Status.INTERNAL, "its stream ended without an answer")
        else:
            self._finish()

    def _finish(self) -> None:
        done, self._done = self._done, None
        # A part that was just given out may have led to a cancellation.
        if done is None or self._kept is None:
            return
        took_s = self._origin.ended(Status.OK, self._since)
        done(self._answer(*self._kept, took_s))

    def _fail(self, status: Status, text: str) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        timing = Timing(0.0, self._origin.ended(status, self._since), self._rows)
        if self._call is not None:
            # What may still follow is of no use.
            self._call.cancel()
        done(remote_failure(self._origin.name, status, text, timing))

    def _answer(self, response: bytes, head: Head, took_s: float) -> RemoteAnswer:
        return RemoteAnswer(
            response, Timing(0.0, took_s, self._rows), is_assigned="assignment_id" in head.parameters
        )
