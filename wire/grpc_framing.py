"""gRPC over HTTP/2 as pure functions: message frames, timeouts, metadata, statuses, compression.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import binascii
import re
import struct
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import quote_from_bytes

from anabranch.proto.native import native
from anabranch.wire.seam import Metadata, Status

Headers = Sequence[tuple[bytes, bytes]]

PREFIX: Final = struct.Struct(">BI")
"""Before each message: whether it is compressed, and its size."""
CONTENT_TYPE: Final = b"application/grpc"
ACCEPT_ENCODING: Final = (b"grpc-accept-encoding", b"identity,deflate,gzip")
RESPONSE_HEADERS: Final[list[tuple[bytes, bytes]]] = [(b":status", b"200"), (b"content-type", CONTENT_TYPE)]
OK_TRAILERS: Final[list[tuple[bytes, bytes]]] = [(b"grpc-status", b"0")]

_TIMEOUT_UNIT_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_NAME = re.compile(r"[0-9a-z_.\-]+")
_RESERVED: Final = frozenset({"te", "content-type", "connection", "transfer-encoding", "content-length"})
# Clients accept 8 KiB of trailers by default: a longer message would lose the whole status.
_MAX_ENCODED_MESSAGE: Final = 4096
# Pieces below this size are gathered, so that a message sent byte by byte does not cost an object a byte.
_SMALL_PIECE: Final = 4096
_WINDOW_BITS: Final = {b"gzip": 31, b"deflate": 15}

Pairs = tuple[tuple[str, str | bytes], ...]

_native = native()
_decode_plain: Callable[[Headers], list[tuple[str, str | bytes]] | None] | None = (
    None if _native is None else _native.decode_metadata
)
_encode_plain: Callable[[Metadata], list[tuple[bytes, bytes]] | None] | None = (
    None if _native is None else _native.encode_metadata
)
# What most calls have in common is converted once: a look-up costs a third of a conversion. Longer values are ids and tokens,
# which do not come again.
_decoded: dict[tuple[bytes, bytes], Pairs] = {}
_encoded: dict[tuple[str, str | bytes], tuple[bytes, bytes]] = {}
_REMEMBERED_BYTES: Final = 40
_MOST_REMEMBERED: Final = 4096


class FramingError(Exception):
    """What a client sent is no valid call.

    Args:
        status: The code to answer with.
        message: The text to answer with.
    """

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def is_grpc(content_type: bytes | None) -> bool:
    """Tell whether a content type is gRPC's: `application/grpc`, alone or with `+proto` or parameters."""
    if content_type is None or not content_type.startswith(CONTENT_TYPE):
        return False
    return content_type[len(CONTENT_TYPE) :][:1] in (b"", b"+", b";")


def parse_timeout(value: bytes) -> float:
    """Read a `grpc-timeout`.

    Args:
        value: At most eight digits and a unit, as `250m`.

    Returns:
        Seconds.

    Raises:
        FramingError: It is something else.
    """
    unit_s = _TIMEOUT_UNIT_S.get(value[-1:])
    digits = value[:-1]
    if unit_s is None or not digits.isdigit() or len(digits) > 8:
        shown = value[:32].decode("ascii", "replace")
        raise FramingError(
            Status.INTERNAL, f"grpc-timeout is {shown!r}: give 1 to 8 digits and a unit of H M S m u n"
        )
    return int(digits) * unit_s


def decode_metadata(headers: Headers) -> list[tuple[str, str | bytes]]:
    """Read a call's metadata from its request headers, without the fields of HTTP/2 and gRPC.

    Raises:
        FramingError: A `-bin` value is not base64.
    """
    if _decode_plain is not None and (plain := _decode_plain(headers)) is not None:
        return plain
    metadata: list[tuple[str, str | bytes]] = []
    for field in headers:
        pairs = _decoded.get(field)
        if pairs is None:
            pairs = _decode_field(field)
        metadata += pairs
    return metadata


def _decode_field(field: tuple[bytes, bytes]) -> Pairs:
    """The metadata of one field: one pair or none, but for binary values that share a field."""
    raw_name, raw_value = field
    name = raw_name.decode("latin-1")
    pairs: Pairs
    if raw_name.startswith((b":", b"grpc-")) or name in _RESERVED:
        pairs = ()
    elif not name.endswith("-bin"):
        pairs = ((name, raw_value.decode("latin-1")),)
    else:
        try:
            # Several values may share a field, and padding may be left out.
            pairs = tuple(
                (name, b64decode(part + b"=" * (-len(part) % 4), validate=True))
                for part in raw_value.split(b",")
            )
        except binascii.Error:
            raise FramingError(Status.INVALID_ARGUMENT, f"metadata {name!r} is not base64") from None
    if len(raw_value) <= _REMEMBERED_BYTES:
        if len(_decoded) >= _MOST_REMEMBERED:
            _decoded.clear()
        _decoded[field] = pairs
    return pairs


_valid_names: set[str] = set()


def encode_metadata(metadata: Metadata) -> list[tuple[bytes, bytes]]:
    """Write metadata as header fields.

    Raises:
        ValueError: A name or value cannot be sent.
    """
    if _encode_plain is not None and (plain := _encode_plain(metadata)) is not None:
        return plain
    headers: list[tuple[bytes, bytes]] = []
    for pair in metadata:
        field = _encoded.get(pair)
        headers.append(_encode_pair(pair) if field is None else field)
    return headers


def _encode_pair(pair: tuple[str, str | bytes]) -> tuple[bytes, bytes]:
    """One pair of metadata as a field.

    Raises:
        ValueError: The name or value cannot be sent.
    """
    name, value = pair
    if name not in _valid_names:
        _check_name(name)
    if isinstance(value, bytes):
        if not name.endswith("-bin"):
            raise ValueError(f"metadata {name!r} is bytes: give text, or a name that ends in -bin")
        return name.encode("ascii"), b64encode(value).rstrip(b"=")
    if name.endswith("-bin"):
        raise ValueError(f"metadata {name!r} is text: a name that ends in -bin takes bytes")
    if not (value.isascii() and value.isprintable()) or value != value.strip(" "):
        raise ValueError(
            f"metadata {name!r} is {value!r}: give printable ASCII without outer spaces, or a name that ends in -bin"
        )
    field = (name.encode("ascii"), value.encode("ascii"))
    if len(value) <= _REMEMBERED_BYTES:
        if len(_encoded) >= _MOST_REMEMBERED:
            _encoded.clear()
        _encoded[pair] = field
    return field


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name in _RESERVED or name.startswith("grpc-"):
        raise ValueError(
            f"metadata name {name!r}: give lower-case letters, digits, '_', '.', '-', and no name of gRPC's own"
        )
    # Names are the program's own words; the bound only keeps a mistake from growing the process.
    if len(_valid_names) < 1024:
        _valid_names.add(name)


def encode_message(text: str) -> bytes:
    """Percent-encode a status message, cut to what every client accepts."""
    if text.isascii() and text.isprintable() and "%" not in text:
        return text[:_MAX_ENCODED_MESSAGE].encode("ascii")
    encoded = _percent_encode(text)
    while len(encoded) > _MAX_ENCODED_MESSAGE:
        text = text[: max(1, len(text) * _MAX_ENCODED_MESSAGE // len(encoded) - 1)]
        encoded = _percent_encode(text)
    return encoded


def _percent_encode(text: str) -> bytes:
    # Everything printable but the percent sign stands for itself.
    printable = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
    return quote_from_bytes(text.encode("utf-8", "replace"), safe=printable).encode("ascii")


def status_trailers(status: Status, message: str, metadata: Metadata = ()) -> list[tuple[bytes, bytes]]:
    """Write the trailers that end a call.

    Raises:
        ValueError: The metadata cannot be sent.
    """
    trailers = [(b"grpc-status", b"%d" % status)]
    if message:
        trailers.append((b"grpc-message", encode_message(message)))
    if metadata:
        trailers += encode_metadata(metadata)
    return trailers


def frame(message: bytes) -> bytes:
    """Put gRPC's five bytes before a message."""
    return PREFIX.pack(0, len(message)) + message


def frame_prefix(message: bytes) -> bytes:
    """Return gRPC's five bytes for a message, for one too large to copy."""
    return PREFIX.pack(0, len(message))


def decompress(message: bytes, encoding: bytes, max_message_bytes: int) -> bytes:
    """Undo a message's compression.

    Args:
        message: The compressed bytes.
        encoding: The call's `grpc-encoding`.
        max_message_bytes: Largest result; nothing larger is ever allocated.

    Raises:
        FramingError: An unknown encoding, damaged data, or a result too large.
    """
    bits = _WINDOW_BITS.get(encoding)
    if bits is None:
        named = encoding.decode("ascii", "replace")[:32] or "identity"
        raise FramingError(
            Status.INTERNAL, f"a message is marked as compressed, but grpc-encoding is {named!r}"
        )
    inflater = zlib.decompressobj(bits)
    try:
        plain = inflater.decompress(message, max_message_bytes + 1)
    except zlib.error:
        plain, complete = b"", False
    else:
        complete = inflater.eof and not inflater.unused_data
    if len(plain) > max_message_bytes:
        raise too_large(f"more than {max_message_bytes}", max_message_bytes, "after decompression ")
    if not complete:
        raise FramingError(Status.INTERNAL, f"a message is no valid {encoding.decode('ascii')} data")
    return plain


def too_large(size: int | str, limit: int, when: str = "") -> FramingError:
    """Return the error for a message over the limit."""
    return FramingError(
        Status.RESOURCE_EXHAUSTED,
        f"the message has {when}{size} bytes, the limit is {limit}: send less, or raise it",
    )


def check_encoding(encoding: bytes | None) -> None:
    """Refuse a compression that is not understood.

    Raises:
        FramingError: With UNIMPLEMENTED.
    """
    if encoding and encoding != b"identity" and encoding not in _WINDOW_BITS:
        named = encoding.decode("ascii", "replace")[:32]
        raise FramingError(Status.UNIMPLEMENTED, f"grpc-encoding is {named!r}: use identity, gzip or deflate")


class MessageReader:
    """Cuts one direction of a call into messages, whatever the sizes in which its bytes arrive.

    Args:
        max_message_bytes: Largest message, after decompression.
        encoding: The call's `grpc-encoding`.
    """

    __slots__ = ("_compressed", "_encoding", "_limit", "_pieces", "_size", "buffered_bytes")

    def __init__(self, max_message_bytes: int, encoding: bytes | None) -> None:
        self._limit = max_message_bytes
        self._encoding = encoding or b"identity"
        self._pieces: list[bytes | bytearray] = []
        self._size = -1
        self._compressed = False
        self.buffered_bytes = 0
        """Bytes held of a message that is not complete."""

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes.

        Returns:
            The messages they complete.

        Raises:
            FramingError: A message is too large or not to be decompressed.
        """
        messages: list[bytes] = []
        position = 0
        while True:
            wanted = 5 if self._size < 0 else self._size
            missing = wanted - self.buffered_bytes
            piece = data[position : position + missing] if position or missing < len(data) else data
            if len(piece) < missing:
                if piece:
                    self._hold(piece)
                return messages
            position += missing
            whole = b"".join((*self._pieces, piece)) if self._pieces else piece
            self._pieces.clear()
            self.buffered_bytes = 0
            if self._size < 0:
                self._open(whole)
            else:
                self._size = -1
                messages.append(decompress(whole, self._encoding, self._limit) if self._compressed else whole)

    def _hold(self, piece: bytes) -> None:
        self.buffered_bytes += len(piece)
        if len(piece) >= _SMALL_PIECE:
            self._pieces.append(piece)
        elif self._pieces and isinstance(self._pieces[-1], bytearray):
            self._pieces[-1] += piece
        else:
            self._pieces.append(bytearray(piece))

    def _open(self, prefix: bytes) -> None:
        flag, size = PREFIX.unpack(prefix)
        if flag > 1:
            raise FramingError(Status.INTERNAL, f"a message's compression flag is {flag}, it must be 0 or 1")
        if size > self._limit:
            raise too_large(size, self._limit)
        self._compressed = flag == 1
        self._size = size
