"""The engine's calls for one connection's streams, each guarded: the engine raises once its session fails or terminates."""

from abc import ABC, abstractmethod
from typing import Final

import ngh2

from anabranch.wire.grpc_framing import Headers
from anabranch.wire.seam import Limits

NO_ERROR: Final = int(ngh2.ErrorCode.NO_ERROR)
CANCEL: Final = int(ngh2.ErrorCode.CANCEL)

# Below this size, copying a body behind its prefix costs less than queueing the two apart.
_COPIED_BYTES: Final = 16 * 1024


class Http2Streams(ABC):
    """What a receiver may do with the streams of a connection; what it is told comes by `Http2Connection`.

    Args:
        limits: Windows and counts.
    """

    __slots__ = ("_engine", "_marked", "_refused_bodies", "backlog_bytes")

    def __init__(self, limits: Limits) -> None:
        self._engine = ngh2.Connection(
            ngh2.Role.SERVER,
            ngh2.Configuration(
                auto_window_update=False,
                # Beyond twice what is announced, the connection is cut.
                max_inbound_header_list_size=2 * limits.max_header_bytes,
                max_send_header_block_length=65_536,
            ),
        )
        self._marked = False
        self._refused_bodies: set[int] = set()
        self.backlog_bytes = 0
        """Bytes of replies that wait for the client to read."""

    @abstractmethod
    def mark(self) -> None:
        """Write at the end of this turn of the loop."""

    def respond(
        self, stream_id: int, headers: Headers, prefix: bytes, body: bytes, trailers: Headers
    ) -> bool:
        """Queue a whole response.

        Args:
            stream_id: The stream.
            headers: With `:status` first.
            prefix: The body's first bytes; apart, as a large body is not copied.
            body: The rest.
            trailers: At least one.

        Returns:
            False: the stream is gone.
        """
        engine = self._engine
        try:
            engine.send_response(stream_id, headers)
            if len(body) <= _COPIED_BYTES:
                engine.send_data(stream_id, prefix + body)
            else:
                engine.send_data(stream_id, prefix)
                engine.send_data(stream_id, body)
            engine.send_trailers(stream_id, trailers)
        except ngh2.NGH2Error:
            return False
        self.backlog_bytes += len(body)
        if not self._marked:
            self.mark()
        return True

    def respond_headers(
        self, stream_id: int, headers: Headers, *, end_stream: bool, refuse_body: bool = False
    ) -> bool:
        """Queue a response's headers.

        Args:
            stream_id: The stream.
            headers: With `:status` first.
            end_stream: The headers are the whole response.
            refuse_body: The client need not send the rest of its request.
        """
        try:
            self._engine.send_response(stream_id, headers, end_stream=end_stream)
        except ngh2.NGH2Error:
            return False
        if refuse_body:
            self._refused_bodies.add(stream_id)
        self.mark()
        return True

    def send_body(self, stream_id: int, *parts: bytes) -> bool:
        """Queue bytes of a response that has begun."""
        try:
            for part in parts:
                self._engine.send_data(stream_id, part)
                self.backlog_bytes += len(part)
        except ngh2.NGH2Error:
            return False
        self.mark()
        return True

    def send_trailers(self, stream_id: int, trailers: Headers, *, refuse_body: bool = False) -> bool:
        """Queue the end of a response that has begun; see `respond_headers`."""
        try:
            self._engine.send_trailers(stream_id, trailers)
        except ngh2.NGH2Error:
            return False
        if refuse_body:
            self._refused_bodies.add(stream_id)
        self.mark()
        return True

    def reset(self, stream_id: int, error_code: int = CANCEL) -> None:
        """Abandon a stream and what is queued on it."""
        try:
            self._engine.reset_stream(stream_id, error_code)
        except ngh2.NGH2Error:
            return
        self.mark()

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Let the client send `size` bytes more."""
        try:
            self._engine.acknowledge_received_data(size, stream_id)
        except (ngh2.NGH2Error, ValueError):
            # The connection is ending: nobody will send more.
            return

    def stream_backlog_bytes(self, stream_id: int) -> int:
        """Return the bytes of one stream that wait for the client to read."""
        return int(self._engine.queued_body_size(stream_id))
