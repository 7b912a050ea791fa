"""Entries of Envoy's access log, and the records that they become."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from anabranch.mesh.access_log import STREAM, AccessLog, UnreadableEntry, read_assigned, status_of
from anabranch.mesh.resources import LOG_NAME
from anabranch.proto import envoy_pb2 as pb
from anabranch.router.complaints import Complaints
from anabranch.router.recorder import Recorder
from anabranch.store.records import Flag, Record, Routed
from anabranch.wire.seam import Status, StreamCall

UNIT = bytes(range(16))


@dataclass
class Log:
    """An access log with a journal in memory."""

    written: list[Record] = field(default_factory=list)
    committed: int = 0
    outcomes: list[tuple[str, str, Status, float]] = field(default_factory=list)
    messages: Any = None
    ended: Status | None = None
    named: bool = False

    def __post_init__(self) -> None:
        self.log = AccessLog(
            Recorder(self, 9),
            on_outcome=lambda *outcome: self.outcomes.append(outcome),
            complaints=Complaints(lambda: 0.0),
        )
        self.log.handlers().stream[STREAM](cast(StreamCall, self))

    # The journal.

    def append(self, record: Record) -> None:
        self.written.append(record)

    def append_body(self, body: bytes) -> None:
        raise AssertionError("not used here")

    def append_bodies(self, bodies: Iterable[bytes]) -> None:
        raise AssertionError("not used here")

    def commit(self) -> None:
        self.committed = len(self.written)

    # The stream.

    def on_message(self, callback: Any) -> None:
        self.messages = callback

    def on_half_close(self, callback: Any) -> None:
        pass

    def finish(self, status: Status = Status.OK, message: str = "") -> None:
        self.ended = status

    def take(self, *entries: pb.HTTPAccessLogEntry, log_name: str = LOG_NAME) -> None:
        batch = pb.StreamAccessLogsMessage()
        if not self.named:
            batch.identifier.log_name = log_name
            self.named = True
        batch.http_logs.log_entry.extend(entries)
        self.messages(batch.SerializeToString())

    @property
    def routed(self) -> list[Routed]:
        return [cast(Routed, record) for record in self.written]


@pytest.fixture
def log() -> Log:
    return Log()


def entry(
    number: int = 1, *, arm: int = 1, flags: int = 1, status: str | None = "0", **said: str
) -> pb.HTTPAccessLogEntry:
    made = pb.HTTPAccessLogEntry()
    common = made.common_properties
    common.upstream_cluster = "m/b"
    common.start_time.FromSeconds(1000)
    common.time_to_first_upstream_tx_byte.FromMilliseconds(2)
    common.time_to_last_upstream_rx_byte.FromMilliseconds(9)
    common.time_to_last_downstream_tx_byte.FromMilliseconds(10)
    record = f"7 3 {arm} {flags} 9 5 {number} 0.25 {UNIT.hex()}"
    common.metadata.filter_metadata[LOG_NAME].update({"variant": "b", "record": record, **said})
    if status is not None:
        made.response.response_trailers["grpc-status"] = status
    return made


def test_an_entry_becomes_the_record_of_its_request(log: Log) -> None:
    log.take(entry())
    [record] = log.routed
    assert log.committed == 1, "what was heard is durable"
    assert record == Routed(
        at_s=record.at_s,
        experiment=7,
        epoch=3,
        arm=1,
        flags=Flag.EVIDENCE,
        status=0,
        latency_ms=record.latency_ms,
        queue_ms=0.0,
        compute_ms=record.compute_ms,
        batch_rows=0,
        propensity=0.25,
        sequence=5 << 32 | 1,
        unit=UNIT,
    )
    times = (record.at_s, record.latency_ms, record.compute_ms)
    assert times == pytest.approx((1000.01, 10.0, 7.0))
    [(model, variant, status, seconds)] = log.outcomes
    assert (model, variant, status) == ("m", "b", Status.OK)
    assert seconds == pytest.approx(0.01)


def test_a_failed_request_was_infinitely_slow(log: Log) -> None:
    log.take(entry(status="14"))
    assert (log.routed[0].status, log.routed[0].latency_ms) == (14, math.inf)


def test_an_answer_of_the_baseline_for_an_ejected_candidate_is_charged_to_the_candidate(log: Log) -> None:
    log.take(entry(flags=int(Flag.EVIDENCE | Flag.MASKED)))
    [record] = log.routed
    assert (record.arm, record.status) == (1, Status.UNAVAILABLE)
    assert record.latency_ms == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("flag", "status"),
    [
        ("downstream_connection_termination", Status.CANCELLED),
        ("downstream_remote_reset", Status.CANCELLED),
        ("duration_timeout", Status.DEADLINE_EXCEEDED),
        ("upstream_request_timeout", Status.DEADLINE_EXCEEDED),
        (None, Status.UNAVAILABLE),
    ],
)
def test_without_a_status_envoys_flags_say_how_it_ended(flag: str | None, status: Status) -> None:
    ended = entry(status=None)
    if flag:
        setattr(ended.common_properties.response_flags, flag, True)
    assert status_of(ended) is status


def test_an_error_without_a_body_has_its_status_in_the_headers() -> None:
    ended = entry(status=None)
    ended.response.response_headers["grpc-status"] = "8"
    assert status_of(ended) is Status.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("told", ["99", "x", ""])
def test_a_status_that_is_none_counts_as_no_answer(told: str) -> None:
    assert status_of(entry(status=told)) is Status.UNAVAILABLE


def test_a_client_that_left_says_nothing_about_the_server(log: Log) -> None:
    gone = entry(status=None)
    gone.common_properties.response_flags.downstream_remote_reset = True
    log.take(gone)
    assert log.outcomes == []
    assert log.routed[0].status == Status.CANCELLED


def test_entries_that_never_came_show_as_gaps(log: Log) -> None:
    log.take(entry(3), entry(5))
    assert log.log.missing == 1
    log.take(entry(4))
    assert log.log.missing == 0
    log.take(entry(9))
    assert log.log.missing == 3


def test_what_is_not_assigned_is_counted_and_not_recorded(log: Log) -> None:
    outside = entry()
    del outside.common_properties.metadata.filter_metadata[LOG_NAME].fields["record"]
    other = pb.HTTPAccessLogEntry()
    log.take(outside, other, entry(trouble="assign.lua:1: no"))
    assert log.written == []
    assert log.log.counts == {"outside the experiment": 1, "no inference": 1, "not assigned: baseline": 1}


def test_an_entry_that_the_script_did_not_write_is_not_counted(log: Log) -> None:
    log.take(entry(record="7 3 1"), entry(2))
    assert log.log.counts == {"unreadable": 1, "recorded": 1}
    with pytest.raises(UnreadableEntry, match="7 3 1"):
        read_assigned("7 3 1")


def test_other_logs_and_noise_are_refused(log: Log) -> None:
    log.take(entry(), log_name="theirs")
    assert (log.ended, log.written) == (Status.INVALID_ARGUMENT, [])
    noisy = Log()
    noisy.messages(b"\xff\xff")
    assert noisy.ended is Status.INVALID_ARGUMENT
