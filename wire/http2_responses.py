"""What a server may answer on the streams of a connection."""

from anabranch.wire.engine import EngineError
from anabranch.wire.grpc_framing import Headers
from anabranch.wire.http2_streams import Http2Streams


class Http2Responses(Http2Streams):
    """The queue of responses, beside the streams' own state."""

    __slots__ = ()

    _refused_bodies: set[int]
    """Streams whose request need not be sent to its end."""

    def respond(
        self, stream_id: int, headers: Headers, message: bytes, tail: bytes, trailers: Headers
    ) -> bool:
        """Queue a whole response.

        Args:
            stream_id: The stream.
            headers: With `:status` first.
            message: The message.
            tail: The rest of it; apart, as a large message is not copied.
            trailers: At least one.

        Returns:
            False: the stream is gone.
        """
        try:
            self._engine.respond(stream_id, headers, message, tail, trailers)
        except EngineError:
            return False
        self.backlog_bytes += len(message) + len(tail)
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
            self._engine.send_response(stream_id, headers, end_stream)
        except EngineError:
            return False
        if refuse_body:
            self._refused_bodies.add(stream_id)
        self.mark()
        return True

    def send_trailers(self, stream_id: int, trailers: Headers, *, refuse_body: bool = False) -> bool:
        """Queue the end of a response that has begun; see `respond_headers`."""
        try:
            self._engine.send_trailers(stream_id, trailers)
        except EngineError:
            return False
        if refuse_body:
            self._refused_bodies.add(stream_id)
        self.mark()
        return True
