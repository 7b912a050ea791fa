"""Reads and rewrites the head of an inference message without decoding its tensors.

ModelInferRequest and ModelInferResponse share the numbers of their first four fields: model_name 1, model_version 2, id 3,
parameters 4. A router needs no more of a message to forward it, and protobuf would copy every tensor twice.

Source: https://protobuf.dev/programming-guides/encoding/
"""

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

ParameterValue = bool | int | float | str | None
"""An InferParameter; None where none of its choices is set."""

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_GROUP: Final = 3
_GROUP_END: Final = 4
_FIXED32: Final = 5
_MAX_DEPTH: Final = 100
_RAW_REQUEST: Final = 7
_RAW_RESPONSE: Final = 6
_SMALL: Final = [bytes([value]) for value in range(0x80)]
_NUMBER_0: Final = "a field has the number 0: 1 to 536870911 are allowed"


class ScanError(ValueError):
    """The bytes are no protobuf message."""


class Head(NamedTuple):
    """What a router reads of an inference message; a tuple, as one is made for every request.

    Args:
        model_name: Field 1.
        model_version: Field 2; empty leaves the choice to the server.
        id: Field 3, the client's own.
        parameters: Field 4.
    """

    model_name: str
    model_version: str
    id: str
    parameters: Mapping[str, ParameterValue]


def scan(message: bytes) -> Head:
    """Read the head of a ModelInferRequest or ModelInferResponse.

    Args:
        message: The serialized message.

    Raises:
        ScanError: It is cut short or no protobuf, or its text is no UTF-8.
    """
    name = version = request_id = ""
    parameters: dict[str, ParameterValue] = {}
    position, end = 0, len(message)
    try:
        while position < end:
            tag = message[position]
            position += 1
            if tag >= 0x80:
                tag, position = read_tag(message, position - 1)
            if tag < 8:
                raise ScanError(_NUMBER_0)
            if tag & 7 == _BYTES:
                size = message[position]
                position += 1
                if size >= 0x80:
                    size, position = read_varint(message, position - 1)
                start, position = position, position + size
                if position > end:
                    raise ScanError(cut_short(size, end - start))
                if tag == 0x0A:
                    name = message[start:position].decode()
                elif tag == 0x12:
                    version = message[start:position].decode()
                elif tag == 0x1A:
                    request_id = message[start:position].decode()
                elif tag == 0x22:
                    key, value = _map_entry(message[start:position])
                    parameters[key] = value
            else:
                position = skip_field(message, position, tag)
    except IndexError:
        raise ScanError(f"the message ends within a field, after {end} bytes") from None
    except UnicodeDecodeError as error:
        raise ScanError(f"a text field is no UTF-8: {error.reason}") from None
    return Head(name, version, request_id, parameters)


def rewrite(
    message: bytes,
    *,
    model_name: str | None = None,
    model_version: str | None = None,
    parameters: Mapping[str, ParameterValue] | None = None,
) -> bytes:
    """Change the head of a ModelInferRequest or ModelInferResponse; its tensors are copied once, as they are.

    Args:
        message: The serialized message.
        model_name: The new name; None keeps it.
        model_version: The new version; None keeps it.
        parameters: Set in addition to those there.

    Raises:
        ScanError: An integer parameter beyond 64 bits.
    """
    return message + override(model_name=model_name, model_version=model_version, parameters=parameters)


def override(
    *,
    model_name: str | None = None,
    model_version: str | None = None,
    request_id: str | None = None,
    parameters: Mapping[str, ParameterValue] | None = None,
) -> bytes:
    """Return bytes that change the head of the message they follow, as `rewrite` does, without a copy of it.

    Of a field that is given twice, protobuf takes the last.

    Args:
        model_name: The new name; None keeps it.
        model_version: The new version; None keeps it.
        request_id: The new id; None keeps it.
        parameters: Set in addition to those there; None as a value leaves a parameter without any.

    Raises:
        ScanError: An integer parameter beyond 64 bits.
    """
    parts: list[bytes] = []
    if model_name is not None:
        parts.append(text_field(1, model_name))
    if model_version is not None:
        parts.append(text_field(2, model_version))
    if request_id is not None:
        parts.append(text_field(3, request_id))
    if parameters:
        parts += [encode_parameter(4, key, value) for key, value in parameters.items()]
    return b"".join(parts)


def raw_contents(message: bytes, *, response: bool = False) -> list[memoryview]:
    """Return the raw tensors of a message as views of its bytes.

    Args:
        message: The serialized message.
        response: It is a ModelInferResponse.

    Raises:
        ScanError: It is cut short or no protobuf.
    """
    wanted = _RAW_RESPONSE if response else _RAW_REQUEST
    view = memoryview(message)
    return [view[start:end] for number, _, start, end in fields(message) if number == wanted]


def encode_parameter(number: int, key: str, value: ParameterValue) -> bytes:
    """Serialize one entry of a map from text to InferParameter.

    Args:
        number: The map's field number.
        key: The parameter's name.
        value: Stored as the choice of its type.

    Raises:
        ScanError: An integer beyond 64 bits.
    """
    if value is None:
        choice = b""
    elif isinstance(value, bool):
        choice = b"\x08\x01" if value else b"\x08\x00"
    elif isinstance(value, int):
        if -(1 << 63) <= value < 1 << 63:
            choice = b"\x10" + varint(value & (1 << 64) - 1)
        elif 0 <= value < 1 << 64:
            choice = b"\x28" + varint(value)
        else:
            raise ScanError(f"parameter {key!r} is {value}: it must fit in 64 bits")
    elif isinstance(value, str):
        choice = text_field(3, value)
    else:
        choice = b"\x21" + struct.pack("<d", value)
    entry = text_field(1, key) + b"\x12" + varint(len(choice)) + choice
    return varint(number << 3 | _BYTES) + varint(len(entry)) + entry


def varint(value: int) -> bytes:
    """Serialize a number of 0 to 2**64 - 1."""
    if value < 0x80:
        return _SMALL[value]
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def text_field(number: int, text: str) -> bytes:
    """Serialize one field of text."""
    return bytes_field(number, text.encode())


def bytes_field(number: int, data: bytes) -> bytes:
    """Serialize one field of bytes, or of a message."""
    if number < 16 and len(data) < 0x80:
        return _SMALL[number << 3 | _BYTES] + _SMALL[len(data)] + data
    return varint(number << 3 | _BYTES) + varint(len(data)) + data


def varint_field(number: int, value: int) -> bytes:
    """Serialize one field of a whole number of 0 or more, or of an enum."""
    return varint(number << 3 | _VARINT) + varint(value)


def fields(message: bytes) -> list[tuple[int, int, int, int]]:
    """Return each field's number with the offsets of its tag, its value, and its end.

    A field that is not length-delimited gets the number 0, as none of those is read here.

    Raises:
        ScanError: The message is cut short or no protobuf.
    """
    found: list[tuple[int, int, int, int]] = []
    position, end = 0, len(message)
    try:
        while position < end:
            begin = position
            tag, position = read_tag(message, position)
            if tag & 7 == _BYTES:
                size, start = read_varint(message, position)
                position = start + size
                if position > end:
                    raise ScanError(cut_short(size, end - start))
                found.append((tag >> 3, begin, start, position))
            else:
                position = skip_field(message, position, tag)
                found.append((0, begin, position, position))
    except IndexError:
        raise ScanError(f"the message ends within a field, after {end} bytes") from None
    return found


def _map_entry(entry: bytes) -> tuple[str, ParameterValue]:
    size = len(entry)
    if size > 4 and entry[0] == 0x0A and entry[1] < 0x80:
        # As every encoder writes it: the key, then the value, each shorter than 128 bytes.
        value_at = 4 + entry[1]
        if value_at <= size and entry[value_at - 2] == 0x12 and entry[value_at - 1] == size - value_at < 0x80:
            return entry[2 : value_at - 2].decode(), _choice(entry[value_at:], None)
    key = ""
    value: ParameterValue = None
    for number, _, start, end in fields(entry):
        if number == 1:
            key = entry[start:end].decode()
        elif number == 2:
            # A message given twice is merged: the later choice wins, and none leaves the earlier.
            value = _choice(entry[start:end], value)
    return key, value


def _choice(data: bytes, value: ParameterValue) -> ParameterValue:
    position, end = 0, len(data)
    while position < end:
        tag, position = read_tag(data, position)
        kind = tag & 7
        if kind == _VARINT:
            number, position = read_varint(data, position)
            if tag == 0x08:
                value = number != 0
            elif tag == 0x10:
                value = number - (1 << 64) if number >> 63 else number
            elif tag == 0x28:
                value = number
        elif kind == _BYTES:
            size, start = read_varint(data, position)
            position = start + size
            if position > end:
                raise ScanError(cut_short(size, end - start))
            if tag == 0x1A:
                value = data[start:position].decode()
        else:
            start, position = position, skip_field(data, position, tag)
            if tag == 0x21:
                value = float(struct.unpack_from("<d", data, start)[0])
    return value


def read_tag(data: bytes, position: int) -> tuple[int, int]:
    """Return a field's tag and the offset after it.

    Raises:
        ScanError: No field has such a tag.
        IndexError: The data ends within it.
    """
    tag, position = read_varint(data, position)
    if tag < 8:
        raise ScanError(_NUMBER_0)
    if tag >> 32:
        raise ScanError(f"a field has the number {tag >> 3}: 1 to {(1 << 29) - 1} are allowed")
    return tag, position


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return a number and the offset after it.

    Raises:
        ScanError: It is longer than a number can be.
        IndexError: The data ends within it.
    """
    value = data[position]
    position += 1
    if value < 0x80:
        return value, position
    value &= 0x7F
    for shift in range(7, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, position
    raise ScanError("a number is longer than 10 bytes")


def skip_field(data: bytes, position: int, tag: int, depth: int = 0) -> int:
    """Return the offset after a field, from the offset after its tag.

    Raises:
        ScanError: It is no field.
        IndexError: The data ends within it.
    """
    kind = tag & 7
    if kind == _VARINT:
        return read_varint(data, position)[1]
    if kind == _BYTES:
        size, position = read_varint(data, position)
        position += size
    elif kind == _FIXED64:
        position += 8
    elif kind == _FIXED32:
        position += 4
    elif kind == _GROUP:
        if depth >= _MAX_DEPTH:
            raise ScanError(f"groups are nested deeper than {_MAX_DEPTH}")
        while True:
            inner, position = read_tag(data, position)
            if inner & 7 == _GROUP_END:
                if inner >> 3 != tag >> 3:
                    raise ScanError(f"group {tag >> 3} is closed as {inner >> 3}")
                return position
            position = skip_field(data, position, inner, depth + 1)
    else:
        raise ScanError(f"a field has the wire type {kind}")
    if position > len(data):
        raise ScanError(f"the message ends within a field, after {len(data)} bytes")
    return position


def cut_short(size: int, left: int) -> str:
    """Say that a field announces more bytes than there are."""
    return f"a field announces {size} bytes, {left} are left"
