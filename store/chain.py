"""The hash chain over decisions: a changed or missing one breaks every hash after it."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

GENESIS = "0" * 64


def link(previous_hash: str, body: str) -> str:
    """The hash of a decision.

    Args:
        previous_hash: Hash of the decision before it, `GENESIS` for the first.
        body: The decision's JSON text.
    """
    return sha256(f"{previous_hash}\n{body}".encode()).hexdigest()


def first_broken(rows: Iterable[tuple[str, str, str]]) -> int | None:
    """Index of the first row that does not follow from the one before it, or None.

    Args:
        rows: In order, (previous hash, body, hash).
    """
    expected = GENESIS
    for index, (previous_hash, body, digest) in enumerate(rows):
        if previous_hash != expected or digest != link(previous_hash, body):
            return index
        expected = digest
    return None
