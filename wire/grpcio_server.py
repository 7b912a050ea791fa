"""The fallback wire: the same handlers on grpcio's own server, an order of magnitude slower and widely trusted.

grpcio has no counterpart for `max_connections`, `max_connections_per_peer`, `max_buffered_bytes`, `handshake_timeout_s` and `write_stall_s`, and sizes
its windows itself; a start logs those that were set and will not be honoured.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from typing import Any, Final

import grpc
import grpc.aio

from anabranch.wire.deadlines import DeadlineWheel
from anabranch.wire.flush import Flusher
from anabranch.wire.grpcio_calls import Context, GrpcioCall, GrpcioStreamCall
from anabranch.wire.listen import tls_context
from anabranch.wire.seam import Handlers, Limits, Status, StreamHandler, Tls, UnaryHandler, WireStats
from anabranch.wire.tls_files import FileTimes

logger = logging.getLogger(__name__)

_NOT_HONOURED: Final = (
    "max_connections",
    "max_connections_per_peer",
    "max_buffered_bytes",
    "handshake_timeout_s",
    "write_stall_s",
    "stream_window_bytes",
    "connection_window_bytes",
)


class GrpcioWire:
    """A gRPC server; see `anabranch.wire.seam.Wire`."""

    def __init__(self) -> None:
        self.stats = WireStats()
        self.stream_limit_bytes = 0
        self._server: grpc.aio.Server | None = None
        self._calls: set[GrpcioCall] = set()

    async def start(
        self,
        *,
        host: str,
        port: int,
        handlers: Handlers,
        limits: Limits,
        tls: Tls | None = None,
        before_flush: Callable[[], None] | None = None,
        reuse_port: bool = False,
        listeners: Sequence[socket.socket] | None = None,  # noqa: ARG002  # grpcio listens by itself
    ) -> int:
        """Serve."""
        ignored = [
            field.name
            for field in fields(Limits)
            if field.name in _NOT_HONOURED and getattr(limits, field.name) != field.default
        ]
        if ignored:
            logger.warning("grpcio has no %s: use the ngh2 wire where they matter", ", ".join(ignored))
        loop = asyncio.get_running_loop()
        self.stream_limit_bytes = limits.write_buffer_bytes // 4
        self.flusher = Flusher(loop, before_flush, self.stats)
        self._loop = loop
        self._wheel = DeadlineWheel(loop)
        server = grpc.aio.server(options=_options(limits, reuse_port))
        server.add_generic_rpc_handlers((_Generic(self, handlers),))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if tls is None:
                bound = server.add_insecure_port(address)
            else:
                bound = server.add_secure_port(address, _credentials(tls))
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from error
        await server.start()
        self._server = server
        return bound

    async def drain(self, grace_s: float) -> None:
        """Take no further calls, let those in flight end, then close."""
        if self._server is None:
            return
        # grpcio's own grace ends after ours, so that what remains gets our status.
        stopping = self._loop.create_task(_stop(self._server, grace_s + 1.0))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(stopping), grace_s)
        for call in list(self._calls):
            call.fail_now(Status.UNAVAILABLE, "the server is shutting down")
        await stopping
        await self.close()

    async def close(self) -> None:
        """Close every connection now."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)
            self._wheel.close()

    def unary(self, method: str, handler: UnaryHandler) -> Callable[[bytes, Context], Awaitable[bytes]]:
        """Return what grpc.aio runs for a unary method."""

        async def serve(request: bytes, context: Context) -> bytes:
            call = GrpcioCall(self, method, context)
            self._open(call, context)
            try:
                return await call.run(handler, request)
            finally:
                self._forget(call)

        return serve

    def stream(self, method: str, handler: StreamHandler) -> Callable[[object, Context], Awaitable[None]]:
        """Return what grpc.aio runs for a streaming method."""

        async def serve(_messages: object, context: Context) -> None:
            call = GrpcioStreamCall(self, method, context)
            self._open(call, context)
            try:
                await call.run_stream(handler)
            finally:
                self._forget(call)

        return serve

    def _open(self, call: GrpcioCall, context: Context) -> None:
        self.stats.calls += 1
        self._calls.add(call)
        left_s = context.time_remaining()
        if left_s is not None:
            call.deadline = self._loop.time() + left_s
            call.tick = self._wheel.add(call, call.deadline)

    def _forget(self, call: GrpcioCall) -> None:
        self._calls.discard(call)
        if call.deadline is not None:
            self._wheel.discard(call, call.tick)


class _Generic(grpc.GenericRpcHandler):
    """Finds a method's handler, with bytes for messages."""

    def __init__(self, wire: GrpcioWire, handlers: Handlers) -> None:
        self._methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for method, unary in handlers.unary.items():
            self._methods[method] = grpc.unary_unary_rpc_method_handler(wire.unary(method, unary))
        for method, stream in handlers.stream.items():
            self._methods[method] = grpc.stream_stream_rpc_method_handler(wire.stream(method, stream))

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return the method's handler."""
        return self._methods.get(handler_call_details.method)


async def _stop(server: grpc.aio.Server, grace_s: float) -> None:
    await server.stop(grace_s)


def _options(limits: Limits, reuse_port: bool) -> list[tuple[str, int]]:
    options = [
        # On by default: a second server on a busy port would silently succeed.
        ("grpc.so_reuseport", int(reuse_port)),
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", limits.max_header_bytes),
        ("grpc.absolute_max_metadata_size", 2 * limits.max_header_bytes),
        ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
        ("grpc.keepalive_time_ms", int(limits.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(limits.keepalive_timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        # By default a client that asks for a sign of life more often than every five minutes is cut off.
        ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ]
    if limits.idle_s is not None:
        options.append(("grpc.max_connection_idle_ms", int(limits.idle_s * 1000)))
    return options


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Credentials that follow the files: grpcio asks at every handshake."""
    times = FileTimes(tls)

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        if not times.have_changed():
            return None
        try:
            # As for the other wire: a pair that does not belong together is found before grpcio takes it.
            tls_context(tls)
            return _certificates(tls)
        except OSError as error:
            logger.error("the TLS files have changed and make no server, the former stay in use: %s", error)
            return None

    return grpc.dynamic_ssl_server_credentials(
        _certificates(tls),
        renewed,  # type: ignore[arg-type]  # None keeps what there is, which the stubs leave out
        require_client_authentication=tls.client_ca_file is not None,
    )


def _certificates(tls: Tls) -> grpc.ServerCertificateConfiguration:
    authorities = None if tls.client_ca_file is None else tls.client_ca_file.read_bytes()
    return grpc.ssl_server_certificate_configuration(
        [(tls.key_file.read_bytes(), tls.certificate_file.read_bytes())], root_certificates=authorities
    )
