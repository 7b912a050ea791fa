"""What can go wrong with a call, in words; one table from gRPC's statuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import grpc


class CallFailed(Exception):
    """The server did not do what was asked.

    Args:
        message: What it said.
        status: gRPC's name of the status.
    """

    def __init__(self, message: str, status: str = "") -> None:
        super().__init__(message)
        self.status = status


class NotFound(CallFailed):
    """There is no such experiment, among those that may be seen."""


class Invalid(CallFailed):
    """What was sent is wrong; every problem is a line of the message."""


class Conflict(CallFailed):
    """Somebody else's experiment or change is in the way."""


class Refused(CallFailed):
    """It is not possible now."""


class NotKnown(CallFailed):
    """The server does not know who calls: no token, or one that is not valid."""


class NotAllowed(CallFailed):
    """The caller's role does not allow it."""


class Overloaded(CallFailed):
    """The server takes on no more now: try again later."""


class Unavailable(CallFailed):
    """The server cannot be reached, or is ending."""


class TookTooLong(CallFailed):
    """No answer came in time."""


KINDS: Final[Mapping[grpc.StatusCode, type[CallFailed]]] = {
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.INVALID_ARGUMENT: Invalid,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.FAILED_PRECONDITION: Refused,
    grpc.StatusCode.UNAUTHENTICATED: NotKnown,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowed,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: TookTooLong,
}


def failed(code: grpc.StatusCode, details: str | None, address: str) -> CallFailed:
    """The error of a status.

    Args:
        code: The status.
        details: What came with it.
        address: Whom was asked.
    """
    kind = KINDS.get(code, CallFailed)
    said = details or code.name
    if kind is Unavailable:
        said = f"no server answers at {address} ({said}): is `anabranch serve --control-port` running there, and does TLS fit?"
    elif code is grpc.StatusCode.UNIMPLEMENTED:
        said = f"{address} is no control port, or one of an older release ({said}): give that of `anabranch serve --control-port`"
    elif kind is TookTooLong:
        said = f"no answer from {address} in time ({said})"
    return kind(said, code.name)
