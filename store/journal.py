"""The journal: append-only segments per lane, group-committed, readable up to the last whole record.

A lane is one life of one worker. Its segments are `<lane>-<index>.journal`; each begins with a header and
holds frames of (CRC-32, length, kind, payload). `commit` hands the bytes to the kernel with one write: they
survive the death of the process, by any signal; the death of the machine may cost the last unsynced second.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from anabranch.store.records import Record, pack, unpack

SEGMENT_BYTES = 64 << 20
_MAGIC = b"ANBRJ001"
_HEADER = struct.Struct("<8sI")
_FRAME = struct.Struct("<IHB")
_NAME = re.compile(r"^(\d{8})-(\d{6})\.journal$")


class CorruptSegment(Exception):
    """A segment holds bytes that were never written by a journal."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class SegmentName:
    """Which segment: the lane and its index in the lane."""

    lane: int
    index: int

    def path(self, directory: Path) -> Path:
        """Where the segment lies."""
        return directory / f"{self.lane:08d}-{self.index:06d}.journal"


def segments(directory: Path) -> list[SegmentName]:
    """The segments in a directory, by lane and index."""
    found = [_NAME.match(entry.name) for entry in directory.iterdir()]
    return sorted(SegmentName(lane=int(match[1]), index=int(match[2])) for match in found if match)


class JournalWriter:
    """Appends records to the segments of one lane; used by one thread.

    Attributes:
        written_bytes: Bytes of records written, over all segments.
    """

    def __init__(self, directory: Path, lane: int, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._directory = directory
        self._lane = lane
        self._segment_bytes = segment_bytes
        self._index = 0
        self._pending: list[bytes] = []
        self._written = 0
        self.written_bytes = 0
        self._descriptor = self._open()

    def append(self, record: Record) -> None:
        """Queue a record for the next commit."""
        kind, payload = pack(record)
        self.append_body(_FRAME.pack(0, len(payload), kind)[4:] + payload)

    def append_body(self, body: bytes) -> None:
        """Queue a record that is framed but for its checksum: `routed_body`."""
        self._pending.append(crc32(body).to_bytes(4, "little") + body)

    def commit(self) -> None:
        """Write what is queued.

        Raises:
            OSError: If the disk refuses; the queued records stay for the next attempt, and a part that
                was written is cut off again, so that the segment ends with a whole record.
        """
        if not self._pending:
            return
        block = b"".join(self._pending)
        done = 0
        try:
            while done < len(block):
                done += os.write(self._descriptor, block[done:] if done else block)
        except OSError:
            if done:
                os.ftruncate(self._descriptor, self._written)
                os.lseek(self._descriptor, self._written, os.SEEK_SET)
            raise
        self._pending.clear()
        self._written += done
        self.written_bytes += done
        if self._written >= self._segment_bytes:
            self._rotate()

    def close(self) -> None:
        """Commit, sync and close."""
        self.commit()
        os.fsync(self._descriptor)
        os.close(self._descriptor)

    def _rotate(self) -> None:
        full = self._descriptor
        self._index += 1
        self._descriptor = self._open()
        os.close(full)

    def _open(self) -> int:
        path = SegmentName(lane=self._lane, index=self._index).path(self._directory)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._written = os.write(descriptor, _HEADER.pack(_MAGIC, self._lane))
        return descriptor


def read_records(path: Path, offset: int, *, limit: int = 50_000) -> Iterator[tuple[Record, int]]:
    """Read whole records from an offset, each with the offset after it.

    Stops at the first frame that is not complete: the writer is in the middle of it, or died there.

    Args:
        path: The segment.
        offset: Where to start; 0 is the beginning.
        limit: At most this many records.

    Raises:
        CorruptSegment: If the header is wrong, or a whole frame fails its checksum.
    """
    with path.open("rb") as file:
        if offset == 0:
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return
            if header[: len(_MAGIC)] != _MAGIC:
                raise CorruptSegment(f"{path.name} begins with {header[:8]!r}, must begin with {_MAGIC!r}")
            offset = _HEADER.size
        else:
            file.seek(offset)
        for _ in range(limit):
            head = file.read(_FRAME.size)
            if len(head) < _FRAME.size:
                return
            checksum, length, kind = _FRAME.unpack(head)
            payload = file.read(length)
            if len(payload) < length:
                return
            if crc32(head[4:] + payload) != checksum:
                raise CorruptSegment(f"{path.name}: the record at byte {offset} fails its checksum")
            offset += _FRAME.size + length
            yield unpack(kind, payload), offset
