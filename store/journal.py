"""The journal: append-only segments per lane, group-committed, readable up to the last whole commit.

A lane is one life of one worker. Its segments are `<lane>-<index>.journal`; each begins with a header and holds one
group for every commit: a head (CRC-32 of the rest, number of requests, number and bytes of other records), then the
requests, all of one size, so that they are read as an array, then the other records, each after its length and kind.
`commit` hands a group to the kernel with one write: it survives the death of the process, by any signal; the death of
the machine may cost the last unsynced second. A group that is not whole was never acknowledged to anybody.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

from anabranch.store.records import (
    GENERATED_BYTES,
    PAIR_BYTES,
    ROUTED_BYTES,
    Feedback,
    Kind,
    Record,
    UnreadableRecord,
    pack,
    unpack,
)

SEGMENT_BYTES = 64 << 20
_MAGIC = b"ANBRJ002"
_HEADER = struct.Struct("<8sI4x")
_COUNTS = struct.Struct("<III")
_HEAD = struct.Struct("<IIII")
_OTHER = struct.Struct("<HB")
# A writer that could not write for long has some ten MiB in one group; a length beyond this is no length.
_MOST_GROUP_BYTES = 256 << 20
_READ_BYTES = 4 << 20
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
        self._requests: list[bytes] = []
        self._others: list[bytes] = []
        self._written = 0
        self.written_bytes = 0
        self._descriptor = self._open()

    def append(self, record: Record) -> None:
        """Queue a record for the next commit."""
        kind, payload = pack(record)
        if kind is Kind.ROUTED:
            self._requests.append(payload)
        else:
            self._others.append(_OTHER.pack(len(payload), kind) + payload)

    def append_body(self, body: bytes) -> None:
        """Queue a request that is in its binary form: `routed_body`."""
        self._requests.append(body)

    def append_bodies(self, bodies: Iterable[bytes]) -> None:
        """Queue several."""
        self._requests += bodies

    def commit(self) -> None:
        """Write what is queued.

        Raises:
            OSError: If the disk refuses; the queued records stay for the next attempt, and a part that
                was written is cut off again, so that the segment ends with a whole group.
        """
        requests, others = self._requests, self._others
        if not (requests or others):
            return
        rest = b"".join(others)
        body = b"".join((_COUNTS.pack(len(requests), len(others), len(rest)), *requests, rest))
        block = crc32(body).to_bytes(4, "little") + body
        done = 0
        try:
            while done < len(block):
                done += os.write(self._descriptor, block[done:] if done else block)
        except OSError:
            if done:
                os.ftruncate(self._descriptor, self._written)
                os.lseek(self._descriptor, self._written, os.SEEK_SET)
            raise
        requests.clear()
        others.clear()
        self._written += done
        self.written_bytes += done
        if self._written >= self._segment_bytes:
            # Everything is written: a disk with no room for the next segment is the next commit's trouble.
            with contextlib.suppress(OSError):
                self._rotate()

    def close(self) -> None:
        """Commit, sync and close."""
        self.commit()
        os.fsync(self._descriptor)
        os.close(self._descriptor)

    def _rotate(self) -> None:
        full = self._descriptor
        self._index += 1
        try:
            self._descriptor = self._open()
        except OSError:
            self._index -= 1
            raise
        os.close(full)

    def _open(self) -> int:
        path = SegmentName(lane=self._lane, index=self._index).path(self._directory)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        # Held until this is closed or its process has died: nobody removes what may still be written.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            if os.write(descriptor, _HEADER.pack(_MAGIC, self._lane)) < _HEADER.size:
                raise OSError(errno.ENOSPC, f"no room for the header of {path.name}")
        except OSError:
            os.close(descriptor)
            path.unlink()
            raise
        self._written = _HEADER.size
        return descriptor


@dataclass(slots=True, kw_only=True)
class Block:
    """What was read of a segment, apart by kind, in the order of writing within each.

    Attributes:
        requests: Binary forms of `Routed` without times of tokens, one after the other.
        generated: The same with times of tokens.
        pairs: Binary forms of `Pair`.
        feedback: Few, and of different lengths.
        records: How many records all of that is.
        end: Offset after the last whole group that was read.
        damage: Why reading cannot go on beyond `end`; empty where it can.
    """

    requests: bytes = b""
    generated: bytes = b""
    pairs: bytes = b""
    feedback: list[Feedback] = field(default_factory=list)
    records: int = 0
    end: int
    damage: str = ""


def read_block(path: Path, offset: int, *, limit: int) -> Block:
    """Read whole groups from an offset, until the limit, damage, or the end of what is whole.

    Args:
        path: The segment.
        offset: Where to start: 0, or an end of an earlier block.
        limit: Reading stops once it has so many records; the last group is read whole.
    """
    requests: list[memoryview] = []
    others: dict[int, list[bytes]] = {Kind.GENERATED: [], Kind.PAIR: []}
    block = Block(end=offset)
    try:
        for count, other_count, view, after in _groups(path, offset):
            if other_count:
                split = count * ROUTED_BYTES
                # All of a group or nothing of it: what cannot be read must leave no part behind.
                found = list(_others(view[split:].tobytes(), other_count))
                block.feedback += [_feedback(payload) for kind, payload in found if kind == Kind.FEEDBACK]
                for kind, payload in found:
                    if kind != Kind.FEEDBACK:
                        others[kind].append(payload)
                view = view[:split]
            requests.append(view)
            block.records += count + other_count
            block.end = after
            if block.records >= limit:
                break
    except (CorruptSegment, UnreadableRecord) as error:
        block.damage = str(error)
    block.requests = b"".join(requests)
    block.generated = b"".join(others[Kind.GENERATED])
    block.pairs = b"".join(others[Kind.PAIR])
    return block


def read_records(path: Path, offset: int, *, limit: int = 50_000) -> Iterator[tuple[Record, int]]:
    """Read the records of whole groups one by one, each with the offset after its group.

    Stops at the first group that is not complete: the writer is in the middle of it, or died there.

    Args:
        path: The segment.
        offset: Where to start; 0 is the beginning.
        limit: Reading stops once it has so many records; the last group is read whole.

    Raises:
        CorruptSegment: If the header is wrong, or a whole group fails its checksum.
        UnreadableRecord: If a record is of no known kind.
    """
    for count, other_count, view, after in _groups(path, offset):
        requests = (
            (Kind.ROUTED, view[start : start + ROUTED_BYTES].tobytes())
            for start in range(0, count * ROUTED_BYTES, ROUTED_BYTES)
        )
        for kind, payload in (*requests, *_others(view[count * ROUTED_BYTES :].tobytes(), other_count)):
            yield unpack(kind, payload), after
        limit -= count + other_count
        if limit <= 0:
            return


def _groups(path: Path, offset: int) -> Iterator[tuple[int, int, memoryview, int]]:
    """Whole groups: number of requests, number of other records, both one after the other, and the offset after it."""
    with path.open("rb", buffering=0) as file:
        if offset == 0:
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return
            _check_header(path, header)
            offset = _HEADER.size
        else:
            file.seek(offset)
        held, start = b"", offset
        while more := file.read(_READ_BYTES):
            held = held[offset - start :] + more
            start = offset
            view = memoryview(held)
            while (at := offset - start) + _HEAD.size <= len(held):
                checksum, count, other_count, other_bytes = _HEAD.unpack_from(held, at)
                body = at + _HEAD.size
                end = body + count * ROUTED_BYTES + other_bytes
                if end - at > _MOST_GROUP_BYTES:
                    raise CorruptSegment(
                        f"{path.name}: the group at byte {offset} says it has {end - at} bytes, "
                        f"at most {_MOST_GROUP_BYTES} are written: what stands there was damaged"
                    )
                if end > len(held):
                    break
                if crc32(view[at + 4 : end]) != checksum:
                    raise CorruptSegment(f"{path.name}: the group at byte {offset} fails its checksum")
                offset = start + end
                yield count, other_count, view[body:end], offset


def _check_header(path: Path, header: bytes) -> None:
    magic = header[: len(_MAGIC)]
    if magic == _MAGIC:
        return
    if magic[:5] == _MAGIC[:5]:
        raise CorruptSegment(
            f"{path.name} is in journal format {magic[5:].decode('ascii', 'replace')}, this version reads "
            f"{_MAGIC[5:].decode()}: have the version that wrote it read it to its end, then move it away"
        )
    raise CorruptSegment(f"{path.name} begins with {magic!r}, must begin with {_MAGIC!r}")


def _others(rest: bytes, count: int) -> Iterator[tuple[int, bytes]]:
    """Kind and payload of the records of a group that are not plain requests.

    Raises:
        UnreadableRecord: If one is of no known kind, or of the wrong size.
    """
    at = 0
    for _ in range(count):
        length, kind = _OTHER.unpack_from(rest, at)
        at += _OTHER.size
        payload = rest[at : at + length]
        at += length
        if kind != Kind.FEEDBACK and length != _SIZES.get(kind):
            raise UnreadableRecord(f"record of kind {kind} with {length} bytes: known are {_SIZES}")
        yield kind, payload


def _feedback(payload: bytes) -> Feedback:
    record = unpack(Kind.FEEDBACK, payload)
    assert isinstance(record, Feedback)
    return record


_SIZES = {Kind.GENERATED.value: GENERATED_BYTES, Kind.PAIR.value: PAIR_BYTES}
