"""How a channel gets connections: TLS contexts, and the pauses between attempts that fail."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

from anabranch.wire.client import ClientTls

_GROWTH: Final = 2.0
# A fifth to either side, so that the clients of a server that comes back do not all come at once.
_JITTER: Final = 0.2


class Backoff:
    """The time before which no further attempt is made.

    Args:
        first_s: Seconds after the first failure.
        longest_s: Seconds at most, jitter aside.
        draw: Gives uniform numbers in [0, 1).
    """

    __slots__ = ("_draw", "_failures", "_first_s", "_longest_s", "retry_at")

    def __init__(self, first_s: float, longest_s: float, draw: Callable[[], float]) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._draw = draw
        self._failures = 0
        self.retry_at = 0.0
        """On the loop's clock."""

    def failed(self, now: float) -> None:
        """Wait twice as long as after the last failure."""
        # The exponent is bounded, as a float's is.
        pause_s = min(self._longest_s, self._first_s * _GROWTH ** min(self._failures, 64))
        self._failures += 1
        self.retry_at = now + pause_s * (1 - _JITTER + 2 * _JITTER * self._draw())

    def succeeded(self) -> None:
        """Begin again with the shortest pause."""
        self._failures = 0
        self.retry_at = 0.0


def client_context(tls: ClientTls) -> ssl.SSLContext:
    """Return a context that speaks HTTP/2 by ALPN, and checks the server's certificate and name.

    Raises:
        OSError: A file cannot be read, or holds no certificate or key.
        ValueError: A key was given without its certificate.
    """
    context = ssl.create_default_context(cafile=tls.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    if tls.certificate_file is not None:
        context.load_cert_chain(tls.certificate_file, tls.key_file)
    elif tls.key_file is not None:
        raise ValueError(f"the key {tls.key_file} was given without its certificate: give both")
    return context


def reason_of(error: Exception, timeout_s: float) -> str:
    """Say in a few words why an attempt failed."""
    if isinstance(error, TimeoutError):
        return f"no greeting within {timeout_s:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


async def connect(
    loop: asyncio.AbstractEventLoop,
    protocol: asyncio.BaseProtocol,
    host: str,
    port: int,
    context: ssl.SSLContext | None,
    server_name: str,
) -> None:
    """Connect a protocol.

    Raises:
        OSError: It cannot be reached, or TLS fails.
    """
    if context is None:
        await loop.create_connection(lambda: protocol, host, port)
    else:
        await loop.create_connection(lambda: protocol, host, port, ssl=context, server_hostname=server_name)
