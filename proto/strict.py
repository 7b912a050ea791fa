"""Messages of our own services, refused where they say more than this release knows.

protobuf skips fields that it does not know. A newer client's `dry_run` that an older server skips would be a change that
nobody wanted: what cannot be honoured is refused, with the number of its field.
"""

from __future__ import annotations

from typing import Protocol, Self, TypeVar

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet


class _Parsed(Protocol):
    @classmethod
    def FromString(cls, data: bytes) -> Self: ...  # noqa: N802  # protobuf's name


Parsed = TypeVar("Parsed", bound=_Parsed)


class UnknownField(ValueError):
    """The message has a field that this release does not know."""


def read_strictly(kind: type[Parsed], data: bytes) -> Parsed:
    """Read a message of which every field counts.

    Raises:
        DecodeError: It is no such message.
        UnknownField: It, or a message within it, has fields that are not in our protos.
    """
    parsed = kind.FromString(data)
    assert isinstance(parsed, Message)
    size = parsed.ByteSize()
    unknown = UnknownFieldSet(parsed)
    numbers = sorted({unknown[index].field_number for index in range(len(unknown))})
    parsed.DiscardUnknownFields()
    if parsed.ByteSize() != size:
        which = f"field {', '.join(map(str, numbers))}" if numbers else "a field within one of its messages"
        raise UnknownField(
            f"{kind.__name__} has {which}, which this server does not know: it would be ignored, so nothing was done; "
            "leave it out, or ask a newer server"
        )
    return parsed
