import errno
import math
import os
import signal
import struct
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.store.journal import (
    CorruptSegment,
    JournalWriter,
    SegmentName,
    read_block,
    read_records,
    segments,
)
from anabranch.store.records import (
    PAIR_BYTES,
    Feedback,
    Flag,
    Kind,
    Pair,
    Record,
    Routed,
    UnreadableRecord,
    pack,
    routed_body,
    unpack,
)

floats32 = st.floats(width=32, allow_nan=False)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
flags = st.integers(0, 31).map(Flag)
routed = st.builds(
    Routed,
    at_s=st.floats(allow_nan=False),
    experiment=u32,
    epoch=u32,
    arm=st.integers(0, 255),
    flags=flags,
    status=st.integers(0, 16),
    latency_ms=floats32,
    queue_ms=floats32,
    compute_ms=floats32,
    batch_rows=st.integers(0, 65535),
    propensity=floats32,
    sequence=u64,
    unit=st.binary(min_size=16, max_size=16),
)
generated = st.builds(
    lambda record, first, other: replace(record, first_token_ms=first, token_ms=other),
    routed,
    floats32,
    st.none() | floats32,
)
pairs = st.builds(
    Pair,
    at_s=st.floats(allow_nan=False),
    experiment=u32,
    epoch=u32,
    arm=st.integers(0, 255),
    status=st.integers(0, 16),
    agrees=st.booleans(),
    baseline_top1=st.integers(-1, 10**6),
    top1=st.integers(-1, 10**6),
    max_abs=floats32,
    cosine=floats32,
    sequence=u64,
    kl=st.none() | floats32,
)
feedback = st.builds(
    Feedback,
    at_s=st.floats(allow_nan=False),
    experiment=u32,
    epoch=u32,
    arm=st.integers(0, 255),
    flags=flags,
    lane=u32,
    sequence=u64,
    top1=st.integers(-1, 10**6),
    is_label=st.booleans(),
    value=st.floats(allow_nan=False),
    metric=st.text(max_size=64),
)
records = st.one_of(routed, generated, pairs, feedback)

A_PAIR = Pair(
    at_s=1.0,
    experiment=1,
    epoch=2,
    arm=3,
    status=0,
    agrees=True,
    baseline_top1=0,
    top1=0,
    max_abs=0.5,
    cosine=1.0,
    sequence=7,
)


def everything(path: Path) -> list[Record]:
    return [record for record, _ in read_records(path, 0)]


@given(records)
def test_a_record_survives_its_binary_form(record: Record) -> None:
    kind, payload = pack(record)
    assert unpack(kind, payload) == record


def test_an_infinite_latency_survives() -> None:
    kind, payload = pack(
        Routed(
            at_s=0.0,
            experiment=1,
            epoch=1,
            arm=0,
            flags=Flag.EVIDENCE,
            status=4,
            latency_ms=math.inf,
            queue_ms=0.0,
            compute_ms=0.0,
            batch_rows=0,
            propensity=0.5,
            sequence=1,
            unit=bytes(16),
        )
    )
    record = unpack(kind, payload)
    assert isinstance(record, Routed)
    assert math.isinf(record.latency_ms)


@given(routed)
def test_a_request_written_from_its_fields_is_the_same_record(record: Routed) -> None:
    kind, payload = pack(record)
    written = [item.name for item in fields(Routed) if item.name not in ("first_token_ms", "token_ms")]
    assert kind is Kind.ROUTED
    assert routed_body(*(getattr(record, name) for name in written)) == payload


def test_requests_in_binary_form_are_read_back_before_the_other_records_of_their_commit(
    tmp_path: Path,
) -> None:
    writer = JournalWriter(tmp_path, 4)
    writer.append(A_PAIR)
    writer.append_body(routed_body(1.0, 1, 2, 1, Flag.EVIDENCE, 0, 5.0, 0.0, 4.0, 70_000, 0.5, 9, bytes(16)))
    writer.close()
    request, pair = everything(SegmentName(lane=4, index=0).path(tmp_path))
    assert pair == A_PAIR
    assert isinstance(request, Routed)
    assert (request.sequence, request.batch_rows) == (9, 65_535)


@pytest.mark.parametrize(("kind", "payload"), [(9, b""), (1, b"short"), (2, b"x" * 200)])
def test_unknown_or_missized_payloads_are_refused(kind: int, payload: bytes) -> None:
    with pytest.raises(UnreadableRecord, match=f"kind {kind}"):
        unpack(kind, payload)


def test_only_committed_records_are_on_disk_and_in_order(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, 4)
    path = SegmentName(lane=4, index=0).path(tmp_path)
    writer.append(A_PAIR)
    assert everything(path) == []
    writer.commit()
    writer.append(A_PAIR)
    writer.close()
    assert everything(path) == [A_PAIR, A_PAIR]


def test_reading_goes_on_from_an_offset(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, 1)
    for _ in range(3):
        writer.append(A_PAIR)
        writer.commit()
    path = SegmentName(lane=1, index=0).path(tmp_path)
    offsets = [offset for _, offset in read_records(path, 0)]
    assert len(list(read_records(path, offsets[0]))) == 2
    assert list(read_records(path, offsets[2])) == []


def test_every_cut_of_a_segment_reads_as_its_whole_commits(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, 1)
    for _ in range(3):
        writer.append(A_PAIR)
        writer.commit()
    path = SegmentName(lane=1, index=0).path(tmp_path)
    whole = path.read_bytes()
    ends = [offset for _, offset in read_records(path, 0)]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        assert len(everything(path)) == sum(end <= length for end in ends)


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, 1)
    writer.append(A_PAIR)
    writer.commit()
    path = SegmentName(lane=1, index=0).path(tmp_path)
    spoiled = bytearray(path.read_bytes())
    spoiled[-1] ^= 1
    path.write_bytes(spoiled)
    with pytest.raises(CorruptSegment, match="byte 16 fails its checksum"):
        everything(path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "00000001-000000.journal"
    path.write_bytes(b"something else entirely")
    with pytest.raises(CorruptSegment, match="must begin with"):
        everything(path)


def test_a_journal_of_an_earlier_format_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "00000001-000000.journal"
    path.write_bytes(b"ANBRJ001" + bytes(80))
    with pytest.raises(CorruptSegment, match="is in journal format 001, this version reads 002"):
        everything(path)
    assert "format 001" in read_block(path, 0, limit=10).damage


@given(st.lists(st.lists(records, max_size=4), max_size=6))
@settings(max_examples=30, deadline=None)
def test_a_block_holds_what_the_records_one_by_one_are(
    tmp_path_factory: pytest.TempPathFactory, commits: list[list[Record]]
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    writer = JournalWriter(folder, 1)
    for commit in commits:
        for record in commit:
            writer.append(record)
        writer.commit()
    writer.close()
    path = SegmentName(lane=1, index=0).path(folder)
    block = read_block(path, 0, limit=100)
    assert block.records == sum(map(len, commits))
    assert block.end == (path.stat().st_size if block.records else 0)
    assert block.damage == ""
    found = everything(path)
    binary = {Kind.ROUTED: block.requests, Kind.GENERATED: block.generated, Kind.PAIR: block.pairs}
    for kind, data in binary.items():
        assert data == b"".join(payload for own, payload in map(pack, found) if own is kind)
    assert block.feedback == [record for record in found if isinstance(record, Feedback)]


def test_a_block_stops_after_the_commit_that_reaches_the_limit(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, 1)
    for _ in range(3):
        writer.append(A_PAIR)
        writer.append(A_PAIR)
        writer.commit()
    path = SegmentName(lane=1, index=0).path(tmp_path)
    first = read_block(path, 0, limit=3)
    assert first.records == 4
    assert read_block(path, first.end, limit=3).records == 2


def test_a_length_that_no_writer_writes_is_damage_and_no_reason_to_wait(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, 1)
    writer.append(A_PAIR)
    writer.commit()
    path = SegmentName(lane=1, index=0).path(tmp_path)
    spoiled = bytearray(path.read_bytes())
    spoiled[23] ^= 0x7F  # the highest byte of the number of requests
    path.write_bytes(spoiled)
    assert "what stands there was damaged" in read_block(path, 0, limit=10).damage


def test_nothing_is_taken_of_a_group_with_an_unknown_record(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, 1)
    writer.append(A_PAIR)
    writer.commit()
    whole = SegmentName(lane=1, index=0).path(tmp_path).stat().st_size
    writer.append(A_PAIR)
    writer._others.append(struct.pack("<HB", 2, 9) + b"??")
    writer.commit()
    block = read_block(SegmentName(lane=1, index=0).path(tmp_path), 0, limit=10)
    assert (block.records, block.end, len(block.pairs)) == (1, whole, PAIR_BYTES)
    assert "kind 9" in block.damage


def test_segments_rotate_and_lose_nothing(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, 2, segment_bytes=200)
    for _ in range(20):
        writer.append(A_PAIR)
        writer.commit()
    writer.close()
    names = segments(tmp_path)
    assert len(names) > 3
    assert sum(len(everything(name.path(tmp_path))) for name in names) == 20


def test_a_full_disk_keeps_the_records_for_the_next_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path, 1)
    path = SegmentName(lane=1, index=0).path(tmp_path)
    real = os.write
    calls = 0

    def half_then_full(descriptor: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            return real(descriptor, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    writer.append(A_PAIR)
    monkeypatch.setattr(os, "write", half_then_full)
    with pytest.raises(OSError, match="No space"):
        writer.commit()
    monkeypatch.undo()
    assert everything(path) == []
    writer.append(A_PAIR)
    writer.commit()
    assert everything(path) == [A_PAIR, A_PAIR]


def test_a_disk_without_room_for_the_next_segment_fails_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path, 1, segment_bytes=10)
    real = os.open

    def refuse(*arguments: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", refuse)
    for _ in range(2):
        writer.append(A_PAIR)
        writer.commit()
    monkeypatch.setattr(os, "open", real)
    assert len(segments(tmp_path)) == 1
    writer.append(A_PAIR)
    writer.commit()
    first, second = segments(tmp_path)
    assert (first.index, second.index) == (0, 1)
    assert everything(first.path(tmp_path)) == [A_PAIR] * 3


def test_what_was_committed_survives_kill_9(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from anabranch.store.journal import JournalWriter\n"
        "from anabranch.store.records import Pair\n"
        "writer = JournalWriter(Path(sys.argv[1]), 1)\n"
        "for n in range(1, 10**9):\n"
        "    writer.append(Pair(at_s=0., experiment=1, epoch=1, arm=1, status=0, agrees=True,\n"
        "                       baseline_top1=0, top1=0, max_abs=0., cosine=1., sequence=n))\n"
        "    writer.commit(); sys.stdout.buffer.write(b'%d\\n' % n); sys.stdout.flush()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(500)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout.read().split(b"\n")[:-1] if line]
    kept = [
        r.sequence for r in everything(SegmentName(lane=1, index=0).path(tmp_path)) if isinstance(r, Pair)
    ]
    assert kept[: len(acknowledged)] == acknowledged
