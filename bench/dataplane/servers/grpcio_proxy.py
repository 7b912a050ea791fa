"""A proxy as a user of grpcio writes it: bytes through, a sticky 95/5 split by a hash of x-unit, uvloop.

grpcio_proxy.py PORT PORT_A PORT_B
"""

import asyncio
import hashlib
import sys
from typing import Any

import grpc
import grpc.aio
import uvloop

_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_HEADER = "x-unit"
_SHARE_OF_B = 0.05


class Proxy(grpc.GenericRpcHandler):
    """Forwards every unary call."""

    def __init__(self, channels: list[Any]) -> None:
        self._channels = channels

    def service(self, handler_call_details: Any) -> Any:
        forwards = [channel.unary_unary(handler_call_details.method) for channel in self._channels]

        async def forward(request: bytes, context: Any) -> Any:
            metadata = [(key, value) for key, value in context.invocation_metadata() if key != "user-agent"]
            unit = next((value for key, value in metadata if key == _HEADER), "")
            digest = hashlib.blake2b(unit.encode(), digest_size=8).digest()
            chosen = int.from_bytes(digest, "big") / 2**64 < _SHARE_OF_B
            call = forwards[chosen](request, metadata=metadata, timeout=context.time_remaining())
            try:
                reply = await call
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "")
            await context.send_initial_metadata(await call.initial_metadata())
            return reply

        return grpc.unary_unary_rpc_method_handler(forward)


async def main() -> None:
    """Serve until killed."""
    port, *backends = map(int, sys.argv[1:])
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{each}", options=_UNLIMITED) for each in backends]
    server = grpc.aio.server(options=_UNLIMITED)
    server.add_generic_rpc_handlers((Proxy(channels),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(main())
