"""Removes journal segments that nobody needs any more: read to their end, written by nobody, and old or too many."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from anabranch.store.journal import SegmentName, read_block, segments
from anabranch.store.port import Store

KEEP_DAYS: Final = 30.0
"""How long raw outcomes stay, for export and replay: decisions do not need them."""
KEEP_BYTES: Final = 10 << 30
"""How many bytes of them stay: at 10,000 requests a second a day is 55 GiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was removed."""

    segments: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    name: SegmentName
    size: int
    changed_s: float


def prune(store: Store, directory: Path, *, changed_before_s: float, keep_bytes: int) -> Pruned:
    """Remove what may go: first what is too old, then the oldest beyond the size.

    A segment that a worker has open stays, as does one that is not read to its end: nothing that was answered is lost.

    Args:
        store: Knows how far every segment was read.
        directory: The journal.
        changed_before_s: Segments that were last written before this go.
        keep_bytes: Of the others, the oldest go until so many bytes are left.
    """
    found = _found(directory)
    left = sum(each.size for each in found)
    with store.ingestion() as transaction:
        offsets = transaction.offsets({each.name.lane for each in found})
    removed: list[SegmentName] = []
    freed = 0
    for each in sorted(found, key=lambda kept: (kept.changed_s, kept.name)):
        if each.changed_s >= changed_before_s and left <= keep_bytes:
            break
        if _remove(directory, each, offsets):
            removed.append(each.name)
            freed, left = freed + each.size, left - each.size
    if removed:
        # Only now: a segment that is there and was forgotten would be read again.
        with store.ingestion() as transaction:
            transaction.forget(removed)
    return Pruned(segments=len(removed), size_bytes=freed)


def _found(directory: Path) -> list[_Kept]:
    found = []
    for name in segments(directory):
        status = name.path(directory).stat()
        found.append(_Kept(name=name, size=status.st_size, changed_s=status.st_mtime))
    return found


def _remove(directory: Path, kept: _Kept, offsets: Mapping[SegmentName, int]) -> bool:
    """Remove a segment if it may go; a writer holds a lock on the one that it writes."""
    path = kept.name.path(directory)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        # What a killed writer left unfinished at the end was acknowledged to nobody.
        rest = read_block(path, offsets.get(kept.name, 0), limit=1)
        if rest.records or rest.damage:
            return False
        path.unlink()
        return True
    finally:
        os.close(descriptor)
