"""Takes an inference message apart without decoding it: what describes its tensors, its id, and where the raw ones lie.

Requests for one model mostly differ in nothing but their id and their tensors' bytes. What is left of them, the outline,
is a message of its own: whoever has read it once knows the next request that has the same.
"""

from collections.abc import Callable
from typing import Final

from anabranch.proto.native import native
from anabranch.proto.scan import (
    ScanError,
    bytes_field,
    cut_short,
    read_tag,
    read_varint,
    skip_field,
    text_field,
    varint,
)

REQUEST_RAW: Final = 0x3A
"""The tag of a request's raw contents: field 7."""
RESPONSE_RAW: Final = 0x32
"""The tag of a response's raw contents: field 6."""

_ID: Final = 0x1A
_native = native()


Outline = tuple[bytes, bytes, list[tuple[int, int]]]
"""A message in parts: without its id and its raw contents; the client's own id, UTF-8; begin and end of each raw tensor.

A plain tuple, as one is made for every request."""

_compiled: Callable[[bytes, int], Outline | None] | None = None if _native is None else _native.split


def split(message: bytes, raw_tag: int = REQUEST_RAW) -> Outline:
    """Take a ModelInferRequest or ModelInferResponse apart.

    Args:
        message: The serialized message.
        raw_tag: `REQUEST_RAW` or `RESPONSE_RAW`.

    Raises:
        ScanError: It is cut short or no protobuf, or its id is no UTF-8.
    """
    description = request_id = b""
    raw: list[tuple[int, int]] = []
    kept = position = 0
    end = len(message)
    if _compiled is not None:
        parts = _compiled(message, raw_tag)
        if parts is not None:
            return parts
    try:
        while position < end:
            begin = position
            tag = message[position]
            if tag & 0x87 != 2 or tag < 8:
                tag, position = read_tag(message, position)
                position = skip_field(message, position, tag)
                continue
            size = message[position + 1]
            position += 2
            if size >= 0x80:
                size, position = read_varint(message, position - 1)
            start = position
            position += size
            if position > end:
                raise ScanError(cut_short(size, end - start))
            if tag == raw_tag:
                raw.append((start, position))
            elif tag == _ID:
                request_id = message[start:position]
                request_id.decode()
            else:
                continue
            if kept != begin:
                description += message[kept:begin]
            kept = position
    except IndexError:
        raise ScanError(f"the message ends within a field, after {end} bytes") from None
    except UnicodeDecodeError as error:
        raise ScanError(f"the id is no UTF-8: {error.reason}") from None
    if kept != end:
        description += message[kept:]
    return description, request_id, raw


def output_field(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    """Serialize the description of one output of a ModelInferResponse: field 5.

    Args:
        name: The output's name.
        datatype: The protocol's name of its type.
        shape: Its dimensions, each 0 or more.
    """
    inner = text_field(1, name) + text_field(2, datatype)
    if shape:
        inner += bytes_field(3, b"".join(varint(size) for size in shape))
    return bytes_field(5, inner)


def raw_output_prefix(size: int) -> bytes:
    """Return what precedes a raw tensor of a ModelInferResponse: the tag of field 6 and the tensor's bytes."""
    return b"\x32" + varint(size)
