"""Listening sockets and TLS contexts."""

import asyncio
import socket
import ssl
from collections.abc import Iterable
from typing import Final

from anabranch.wire.seam import Tls

BACKLOG: Final = 1024
"""Connections that may wait for their acceptance."""


async def bind(
    loop: asyncio.AbstractEventLoop, host: str, port: int, reuse_port: bool
) -> list[socket.socket]:
    """Take one port on every address of a host, without listening yet.

    Raises:
        OSError: An address cannot be taken.
    """
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    try:
        for family, kind, proto, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, proto)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # The first address chooses a free port, the others take the same.
            listener.bind((address[0], port or listeners[0].getsockname()[1], *address[2:]))
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def listen(bound: Iterable[socket.socket]) -> None:
    """Let clients connect."""
    for listener in bound:
        listener.listen(BACKLOG)
        listener.setblocking(False)


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Return a context that speaks HTTP/2 by ALPN.

    Raises:
        OSError: A file cannot be read, or holds no certificate or key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate_file, tls.key_file)
    context.set_alpn_protocols(["h2"])
    if tls.client_ca_file is not None:
        context.load_verify_locations(tls.client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
        # A resumed session would bring the client's old certificate past a renewed list of authorities.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
    return context
