"""Evidence as it lies in a database: its JSON, compressed. Rows of releases that did not compress are read as they are."""

from __future__ import annotations

import zlib


def pack(text: str) -> bytes:
    """The bytes of a JSON text; a histogram's numbers take a quarter of their letters."""
    return zlib.compress(text.encode())


def unpack(body: str, packed: bytes | None) -> str:
    """The text of a row, letter by letter; where its bytes were damaged, an empty one, which no seal holds.

    Args:
        body: As an older release wrote it; empty beside `packed`.
        packed: As this one writes it.
    """
    if packed is None:
        return body
    try:
        return zlib.decompress(packed).decode()
    except (zlib.error, UnicodeDecodeError):
        return ""
