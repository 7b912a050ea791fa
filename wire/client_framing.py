"""The client's half of gRPC over HTTP/2, as pure functions: request headers, and what a response means.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md and
https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
"""

import binascii
import math
from base64 import b64decode
from typing import Final
from urllib.parse import unquote_to_bytes

from anabranch.wire.grpc_framing import Headers
from anabranch.wire.seam import Status

REFUSED_STREAM: Final = 7
"""HTTP/2's code for a stream that nobody has looked at."""

_OWN_FIELDS: Final = frozenset(
    {b"te", b"content-type", b"connection", b"transfer-encoding", b"content-length"}
)
_STATUS_OF_HTTP: Final = {
    b"400": Status.INTERNAL,
    b"401": Status.UNAUTHENTICATED,
    b"403": Status.PERMISSION_DENIED,
    b"404": Status.UNIMPLEMENTED,
    b"429": Status.UNAVAILABLE,
    b"502": Status.UNAVAILABLE,
    b"503": Status.UNAVAILABLE,
    b"504": Status.UNAVAILABLE,
}
_STATUS_OF_RESET: Final = {
    REFUSED_STREAM: Status.UNAVAILABLE,
    0x08: Status.CANCELLED,
    0x0B: Status.RESOURCE_EXHAUSTED,
    0x0C: Status.PERMISSION_DENIED,
}
_STATUSES: Final = {b"%d" % status: status for status in Status}
# A longer one is some server's mistake; the rest of it helps nobody.
_MAX_TEXT: Final = 8192
_MAX_TIMEOUT_S: Final = 99_999_999.0


def request_headers(method: str, authority: str, scheme: str, user_agent: str) -> list[tuple[bytes, bytes]]:
    """Write the headers that all calls of a method have in common.

    Raises:
        ValueError: The method is no path.
    """
    if not (method.startswith("/") and method.isascii() and method.isprintable()):
        raise ValueError(f"method is {method!r}: give a full name, as /package.Service/Method")
    return [
        (b":method", b"POST"),
        (b":scheme", scheme.encode("ascii")),
        (b":path", method.encode("ascii")),
        (b":authority", authority.encode("idna") if not authority.isascii() else authority.encode("ascii")),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", user_agent.encode("ascii")),
        (b"grpc-accept-encoding", b"identity,deflate,gzip"),
    ]


def format_timeout(left_s: float) -> bytes:
    """Write a `grpc-timeout`, rounded up to about three digits, so that header compression meets few values.

    Args:
        left_s: Seconds, above 0.
    """
    if left_s >= 100.0:
        return b"%dS" % math.ceil(min(left_s, _MAX_TIMEOUT_S))
    if left_s >= 1.0:
        step_ms = 100 if left_s >= 10.0 else 10
        return b"%dm" % (math.ceil(left_s * 1000 / step_ms) * step_ms)
    if left_s >= 0.001:
        return b"%dm" % math.ceil(left_s * 1000)
    return b"%du" % max(1, math.ceil(left_s * 1e6))


def read_metadata(headers: Headers) -> list[tuple[str, str | bytes]]:
    """Read a response's metadata, without the fields of HTTP/2 and gRPC; what is not base64 is left out."""
    metadata: list[tuple[str, str | bytes]] = []
    for raw_name, raw_value in headers:
        if raw_name.startswith((b":", b"grpc-")) or raw_name in _OWN_FIELDS:
            continue
        name = raw_name.decode("latin-1")
        if not name.endswith("-bin"):
            metadata.append((name, raw_value.decode("latin-1")))
            continue
        for part in raw_value.split(b","):
            try:
                metadata.append((name, b64decode(part + b"=" * (-len(part) % 4), validate=True)))
            except binascii.Error:
                continue
    return metadata


def find_text(headers: Headers, name: bytes) -> str | None:
    """Return a field's first value."""
    for field, value in headers:
        if field == name:
            return value.decode("latin-1")
    return None


def decode_text(value: bytes) -> str:
    """Percent-decode a `grpc-message`; what is no UTF-8 is replaced."""
    return unquote_to_bytes(value[:_MAX_TEXT]).decode("utf-8", "replace")


def read_status(trailers: Headers) -> tuple[Status, str]:
    """Read how a call ended.

    Args:
        trailers: The last block of fields, or the only one.

    Returns:
        The status and its text. Without a status, or with one that gRPC does not know, UNKNOWN.
    """
    fields = dict(trailers)
    given = fields.get(b"grpc-status")
    text = fields.get(b"grpc-message", b"")
    if given is None:
        return Status.UNKNOWN, "the server ended the call without a grpc-status"
    status = _STATUSES.get(given)
    if status is None:
        return Status.UNKNOWN, decode_text(
            text
        ) or f"the server's grpc-status is {given[:32].decode('latin-1')}"
    return status, decode_text(text)


def status_of_http(fields: dict[bytes, bytes]) -> tuple[Status, str]:
    """Read a response that is not gRPC, as a proxy gives."""
    code = fields.get(b":status", b"")
    kind = fields.get(b"content-type", b"none")[:64].decode("latin-1")
    status = _STATUS_OF_HTTP.get(code, Status.UNKNOWN)
    return status, f"the answer is no gRPC: HTTP status {code.decode('latin-1')}, content-type {kind}"


def status_of_reset(error_code: int) -> tuple[Status, str]:
    """Read a stream's end by RST_STREAM."""
    status = _STATUS_OF_RESET.get(error_code, Status.INTERNAL)
    return status, f"the server reset the stream with HTTP/2 error code {error_code}"
