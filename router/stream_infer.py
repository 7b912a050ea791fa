"""`ModelStreamInfer`: many requests on one stream, each assigned, run and recorded as a unary one is.

Replies leave in the order of the requests, as Triton sends those of models with one reply a request; answers that come in
parts, as generated text does, leave part by part as they are made. A request that fails is answered by an error on the
stream, which goes on. What one stream holds is bounded: beyond that, its further
requests wait with the client.

Source: https://github.com/triton-inference-server/server/blob/main/src/grpc/stream_infer_handler.cc
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from anabranch.proto.scan import ScanError, bytes_field, override, scan, text_field, varint
from anabranch.wire.seam import MIB, Call, Handlers, Metadata, Status, StreamCall

METHOD: Final = "ModelStreamInfer"
FINAL_RESPONSE: Final = "triton_final_response"
"""The reply's parameter that says whether it is the last one for its request."""
TRUE_STATUS: Final = "triton_grpc_error"
"""Metadata of a stream, `true`: the first request that fails ends the stream with its status."""

MOST_WAITING: Final = 64
"""Requests of one stream that are not yet answered, at which no further one is read."""
MOST_HELD_BYTES: Final = 16 * MIB
"""The same, by the bytes of requests that run and of replies that wait for earlier ones."""

_FINAL: Final = override(parameters={FINAL_RESPONSE: True})
_MORE: Final = override(parameters={FINAL_RESPONSE: False})
# Field 2 of ModelStreamInferResponse, a message.
_INFER_RESPONSE: Final = b"\x12"
_SHUTTING_DOWN: Final = "the server is shutting down: send the requests without an answer again"
PartHandler = Callable[[Call, bytes, Callable[[bytes], None]], None]
"""Gets a call, its message, and what takes the parts of the answer but the last."""

_log = logging.getLogger(__name__)


class StreamInference:
    """Answers `ModelStreamInfer` in one worker.

    Args:
        infer: Answers one request, as a unary call, and gives the parts of an answer that comes in parts.
    """

    def __init__(self, infer: PartHandler) -> None:
        self._infer = infer
        self._streams: set[_Stream] = set()

    def handlers(self, service: str) -> Handlers:
        """What a wire serves.

        Args:
            service: The full name of the service that the method is one of.
        """
        return Handlers(stream={f"/{service}/{METHOD}": self.serve})

    def serve(self, call: StreamCall) -> None:
        """Handle one stream."""
        stream = _Stream(call, self._infer, self._streams.discard)
        self._streams.add(stream)
        stream.open()

    def shut_down(self) -> None:
        """Read no further requests, answer those read, then end every stream: a drain would wait for their clients."""
        for stream in list(self._streams):
            stream.shut_down()


class _Stream:
    """One open stream: its requests that wait for an answer, in order."""

    __slots__ = (
        "_call",
        "_forget",
        "_half_closed",
        "_infer",
        "_is_paused",
        "_shutting_down",
        "_speaking",
        "_true_status",
        "_unread_bytes",
        "_waiting",
        "held_bytes",
    )

    def __init__(self, call: StreamCall, infer: PartHandler, forget: Callable[[_Stream], None]) -> None:
        self._call = call
        self._infer = infer
        self._forget = forget
        self._waiting: deque[StreamedRequest] = deque()
        self._speaking: set[StreamedRequest] = set()
        self._half_closed = self._is_paused = self._shutting_down = False
        self._true_status = (TRUE_STATUS, "true") in call.metadata
        self.held_bytes = self._unread_bytes = 0

    def open(self) -> None:
        """Begin to read."""
        call = self._call
        call.on_cancel(self._cancelled)
        call.on_drain(self._steer)
        call.on_half_close(self._on_half_close)
        call.on_message(self._on_message)

    def shut_down(self) -> None:
        """End after the replies to what was read."""
        self._shutting_down = True
        self._steer()
        self._end_if_done()

    def answered(self, request: StreamedRequest) -> None:
        """Send what is in turn."""
        if request.status is not Status.OK and self._true_status:
            self._end(request.status, request.text)
            self._cancelled()
            return
        if request.is_in_parts:
            self._speaking.discard(request)
            assert request.answer is not None, "its last part is there"
            self.held_bytes -= len(request.answer)
            self._call.send(request.answer)
        self._send_what_is_in_turn()
        self._steer()
        self._end_if_done()

    def speaks(self, request: StreamedRequest) -> None:
        """An answer has begun: nobody behind it waits for its end, and it waits for nobody."""
        self._waiting.remove(request)
        self._speaking.add(request)

    def say(self, part: bytes) -> None:
        """Send a part; a client that reads too few of them is given up, as whoever makes them cannot be held back."""
        self._call.send(part)
        # The first part takes its request out of the order: those behind it may be in turn.
        self._send_what_is_in_turn()
        self._unread_bytes = 0 if self._call.writable else self._unread_bytes + len(part)
        self._steer()
        if self._unread_bytes > MOST_HELD_BYTES:
            self._end(
                Status.RESOURCE_EXHAUSTED,
                f"{self._unread_bytes} bytes of answers wait to be read, the limit is {MOST_HELD_BYTES}: read faster",
            )
            self._cancelled()

    def _send_what_is_in_turn(self) -> None:
        waiting = self._waiting
        while waiting and (reply := waiting[0].answer) is not None:
            waiting.popleft()
            self.held_bytes -= len(reply)
            self._call.send(reply)

    def _on_message(self, message: bytes) -> None:
        request = StreamedRequest(self, self._call, message)
        self._waiting.append(request)
        self.held_bytes += len(message)
        self._steer()
        try:
            self._infer(request, message, request.reply_part)
        except Exception:  # noqa: BLE001  # whatever a request meets ends that request alone
            _log.exception("request %r of a stream failed", request.id, extra={"request_id": request.id})
            request.fail(
                Status.INTERNAL, "internal error: the server's log has the details under this request's id"
            )

    def _on_half_close(self) -> None:
        self._half_closed = True
        self._end_if_done()

    def _steer(self) -> None:
        """Read on, or let the client's further requests wait with it."""
        full = (
            self._shutting_down
            or len(self._waiting) + len(self._speaking) >= MOST_WAITING
            or self.held_bytes > MOST_HELD_BYTES
            or not self._call.writable
        )
        if full is self._is_paused:
            return
        self._is_paused = full
        if full:
            self._call.pause()
        else:
            self._call.resume()

    def _end_if_done(self) -> None:
        if self._waiting or self._speaking:
            return
        if self._half_closed:
            self._end(Status.OK, "")
        elif self._shutting_down:
            self._end(Status.UNAVAILABLE, _SHUTTING_DOWN)

    def _end(self, status: Status, text: str) -> None:
        self._forget(self)
        self._call.finish(status, text)

    def _cancelled(self) -> None:
        """The client is gone, or the deadline has passed: what still waits is not wanted."""
        self._forget(self)
        waiting = [*self._waiting, *self._speaking]
        self._waiting.clear()
        self._speaking.clear()
        for request in waiting:
            request.cancel()


class StreamedRequest:
    """One request of a stream, as a call of its own; see `anabranch.wire.seam.Call`.

    Args:
        stream: Sends the answer in its turn.
        call: The stream's call.
        message: The serialized ModelInferRequest.
    """

    __slots__ = (
        "_call",
        "_callbacks",
        "_message",
        "_stream",
        "answer",
        "cancelled",
        "is_in_parts",
        "status",
        "text",
    )

    def __init__(self, stream: _Stream, call: StreamCall, message: bytes) -> None:
        self._stream = stream
        self._call = call
        self._message = message
        self._callbacks: list[Callable[[], None]] = []
        self.cancelled = False
        self.is_in_parts = False
        """Parts of the answer have been sent: it is out of the order of whole answers."""
        self.answer: bytes | None = None
        """The serialized ModelStreamInferResponse, once there is one."""
        self.status = Status.OK
        self.text = ""

    @property
    def method(self) -> str:
        """The stream's method."""
        return self._call.method

    @property
    def metadata(self) -> Metadata:
        """The stream's metadata: they hold for every request on it."""
        return self._call.metadata

    @property
    def deadline(self) -> float | None:
        """The stream's deadline."""
        return self._call.deadline

    @property
    def peer(self) -> str:
        """The client's address."""
        return self._call.peer

    @property
    def peer_identity(self) -> str | None:
        """The client's name by its certificate."""
        return self._call.peer_identity

    @property
    def id(self) -> str:
        """The client's own name of the request; empty where it cannot be read."""
        try:
            return scan(self._message).id
        except ScanError:
            return ""

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call back when the stream is cancelled before this request is answered."""
        if self.cancelled:
            callback()
        elif self.answer is None:
            self._callbacks.append(callback)

    def cancel(self) -> None:
        """Tell those who work on the request that nobody waits for it."""
        if self.answer is not None or self.cancelled:
            return
        self.cancelled = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def reply_part(self, message: bytes) -> None:
        """Send a part of the answer at once: parts of several answers mix, and say by their ids whose they are."""
        if self.cancelled or self.answer is not None:
            return
        if not self.is_in_parts:
            self.is_in_parts = True
            self._stream.speaks(self)
        self._stream.say(b"".join((_INFER_RESPONSE, varint(len(message) + len(_MORE)), message, _MORE)))

    def reply(
        self,
        message: bytes,
        metadata: Metadata = (),  # noqa: ARG002  # a stream has one head for all its replies
        trailing: Metadata = (),  # noqa: ARG002  # and one end
        tail: bytes = b"",
    ) -> None:
        """Answer with a serialized ModelInferResponse; what metadata would say is in its parameters."""
        head = _INFER_RESPONSE + varint(len(message) + len(tail) + len(_FINAL))
        self._answer(b"".join((head, message, tail, _FINAL)))

    def fail(self, status: Status, message: str, metadata: Metadata = ()) -> None:
        """Answer with an error; it carries the request's id, and as parameters its status and what metadata would say."""
        parameters = {
            name.removeprefix("x-").replace("-", "_"): value
            for name, value in metadata
            if isinstance(value, str)
        }
        head = override(parameters={**parameters, "status": status.name, FINAL_RESPONSE: True})
        self.status, self.text = status, message
        # An empty text would read as success.
        self._answer(text_field(1, message or status.name) + bytes_field(2, text_field(3, self.id) + head))

    def _answer(self, answer: bytes) -> None:
        if self.cancelled or self.answer is not None:
            return
        self.answer = answer
        self._callbacks.clear()
        self._stream.held_bytes += len(answer) - len(self._message)
        self._message = b""
        self._stream.answered(self)
