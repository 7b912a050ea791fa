"""What the domain's errors are called in gRPC: the one table of the control port."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Final

from google.protobuf.message import DecodeError

from anabranch.bandit.lifecycle import IllegalTransition
from anabranch.proto.strict import UnknownField
from anabranch.router.access.guard import NotAllowed
from anabranch.store.document import InvalidDocument
from anabranch.store.port import Conflict, NotFound
from anabranch.wire.seam import Status

_log = logging.getLogger(__name__)


class BadRequest(ValueError):
    """A message asks for something that there is not; the text says what there is."""


class Refused(Exception):
    """What is asked makes sense, but is not possible now; the text says what to do."""


class Busy(Exception):
    """More is asked of the server than it takes on."""


STATUSES: Final[Mapping[type[Exception], Status]] = {
    InvalidDocument: Status.INVALID_ARGUMENT,
    BadRequest: Status.INVALID_ARGUMENT,
    DecodeError: Status.INVALID_ARGUMENT,
    UnknownField: Status.INVALID_ARGUMENT,
    NotFound: Status.NOT_FOUND,
    Conflict: Status.ABORTED,
    Refused: Status.FAILED_PRECONDITION,
    IllegalTransition: Status.FAILED_PRECONDITION,
    NotAllowed: Status.PERMISSION_DENIED,
    Busy: Status.RESOURCE_EXHAUSTED,
}


def told(error: Exception, method: str) -> tuple[Status, str]:
    """The status of an error, and what the client is told.

    What nobody expected is logged under an id, and the client is told the id alone.
    """
    for kind in type(error).__mro__:
        status = STATUSES.get(kind)
        if status is not None:
            return status, str(error.args[0]) if error.args else str(error)
    number = secrets.token_hex(6)
    _log.error("internal error %s in %s", number, method, exc_info=error)
    return Status.INTERNAL, f"internal error {number}: the server's log has the details under this number"
