"""Envoy's access log, entry by entry, as records of the journal.

The script leaves with every assigned request what its record needs; Envoy adds how it ended and how long it took. Entries
are numbered below a prefix of the worker thread that wrote them: what never arrived shows as gaps.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError

from anabranch.mesh.resources import LOG_NAME, STATUS
from anabranch.proto import envoy_pb2 as pb
from anabranch.router.complaints import Complaints
from anabranch.router.recorder import Recorder
from anabranch.store.records import Flag, Routed
from anabranch.wire.seam import Handlers, StreamCall
from anabranch.wire.seam import Status as Grpc

STREAM: Final = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
_MOST_THREADS: Final = 1024


class UnreadableEntry(ValueError):
    """An entry's record is not one that the script writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """What the script says of an assigned request.

    Attributes:
        thread: Prefix of the worker thread of Envoy.
        number: Counts that thread's assignments from 1.
        unit: Digest of the unit.
    """

    experiment: int
    epoch: int
    arm: int
    flags: Flag
    lane: int
    thread: int
    number: int
    propensity: float
    unit: bytes

    @property
    def sequence(self) -> int:
        """Number of the assignment in its lane."""
        return self.thread << 32 | self.number


def read_assigned(text: str) -> Assigned:
    """What the script wrote.

    Raises:
        UnreadableEntry: It did not write this.
    """
    try:
        experiment, epoch, arm, flags, lane, thread, number, propensity, unit = text.split(" ")
        return Assigned(
            experiment=int(experiment),
            epoch=int(epoch),
            arm=int(arm),
            flags=Flag(int(flags)),
            lane=int(lane),
            thread=int(thread),
            number=int(number),
            propensity=float(propensity),
            unit=bytes.fromhex(unit),
        )
    except ValueError as error:
        raise UnreadableEntry(f"the entry's record is {text[:120]!r}: {error}") from error


class AccessLog:
    """Takes the log of every connected Envoy.

    Args:
        recorder: Of this control plane's lane.
        on_outcome: Called with model, variant, status and seconds of every request that reached its variant.
        complaints: Takes what the script could not do, and entries that are none.

    Attributes:
        counts: Entries by what became of them.
    """

    def __init__(
        self,
        recorder: Recorder,
        *,
        on_outcome: Callable[[str, str, Grpc, float], None],
        complaints: Complaints,
    ) -> None:
        self._recorder = recorder
        self._complaints = complaints
        self._on_outcome = on_outcome
        self._threads: dict[int, _Thread] = {}
        self.counts: Counter[str] = Counter()

    @property
    def missing(self) -> int:
        """Assigned requests whose entries have not arrived: in flight, late, or lost."""
        return sum(thread.missing for thread in self._threads.values())

    def handlers(self) -> Handlers:
        """What a wire serves."""
        return Handlers(stream={STREAM: self._open})

    def _open(self, call: StreamCall) -> None:
        named = False

        def on_message(message: bytes) -> None:
            nonlocal named
            try:
                batch = pb.StreamAccessLogsMessage.FromString(message)
            except DecodeError as error:
                call.finish(Grpc.INVALID_ARGUMENT, f"the message is no StreamAccessLogsMessage: {error}")
                return
            if batch.HasField("identifier"):
                named = batch.identifier.log_name == LOG_NAME
            if not named:
                call.finish(Grpc.INVALID_ARGUMENT, f"only the log {LOG_NAME!r} is taken here")
                return
            for entry in batch.http_logs.log_entry:
                self._take(entry)
            self._recorder.commit()

        call.on_half_close(call.finish)
        call.on_message(on_message)

    def _take(self, entry: pb.HTTPAccessLogEntry) -> None:
        common = entry.common_properties
        said = common.metadata.filter_metadata.get(LOG_NAME)
        if said is None or "variant" not in said.fields:
            self.counts["no inference"] += 1
            return
        status = status_of(entry)
        seconds = _seconds(common.time_to_last_downstream_tx_byte) or _seconds(common.duration)
        variant = said.fields["variant"].string_value
        model = common.upstream_cluster.partition("/")[0]
        if model and status is not Grpc.CANCELLED:
            self._on_outcome(model, variant, status, seconds)
        if "trouble" in said.fields:
            self.counts["not assigned: baseline"] += 1
            self._complaints.say("the script", said.fields["trouble"].string_value)
            return
        if "record" not in said.fields:
            self.counts["outside the experiment"] += 1
            return
        try:
            assigned = read_assigned(said.fields["record"].string_value)
        except UnreadableEntry as error:
            self.counts["unreadable"] += 1
            self._complaints.say("the access log", str(error))
            return
        self._count(assigned)
        self._recorder.record(_record(assigned, entry, status, seconds))
        self.counts["recorded"] += 1

    def _count(self, assigned: Assigned) -> None:
        thread = self._threads.get(assigned.thread)
        if thread is None:
            if len(self._threads) >= _MOST_THREADS:
                # Of Envoys that are long gone.
                del self._threads[next(iter(self._threads))]
            thread = self._threads[assigned.thread] = _Thread(first=assigned.number)
        thread.heard(assigned.number)


class _Thread:
    """Which numbers of one thread have arrived; entries come in the order in which requests ended."""

    __slots__ = ("_first", "_highest", "_seen")

    def __init__(self, first: int) -> None:
        self._first = first
        self._highest = first - 1
        self._seen = 0

    def heard(self, number: int) -> None:
        self._first = min(self._first, number)
        self._highest = max(self._highest, number)
        self._seen += 1

    @property
    def missing(self) -> int:
        return max(0, self._highest - self._first + 1 - self._seen)


def _record(assigned: Assigned, entry: pb.HTTPAccessLogEntry, status: Grpc, seconds: float) -> Routed:
    start = entry.common_properties.start_time
    return Routed(
        at_s=start.seconds + start.nanos * 1e-9 + seconds,
        experiment=assigned.experiment,
        epoch=assigned.epoch,
        arm=assigned.arm,
        flags=assigned.flags,
        # The baseline answered for a candidate that is left alone: the failure is the candidate's.
        status=Grpc.UNAVAILABLE if Flag.MASKED in assigned.flags else status,
        latency_ms=1000.0 * seconds if status is Grpc.OK else math.inf,
        queue_ms=0.0,
        compute_ms=1000.0 * _served_s(entry.common_properties),
        batch_rows=0,
        propensity=assigned.propensity,
        sequence=assigned.sequence,
        unit=assigned.unit,
    )


def status_of(entry: pb.HTTPAccessLogEntry) -> Grpc:
    """How a request ended: the server's own status, else what Envoy's flags say of it."""
    response = entry.response
    told = response.response_trailers.get(STATUS) or response.response_headers.get(STATUS)
    if told is not None and told.isdecimal() and int(told) <= max(Grpc):
        return Grpc(int(told))
    flags = entry.common_properties.response_flags
    if flags.downstream_connection_termination or flags.downstream_remote_reset:
        return Grpc.CANCELLED
    if flags.upstream_request_timeout or flags.duration_timeout or flags.stream_idle_timeout:
        return Grpc.DEADLINE_EXCEEDED
    return Grpc.UNAVAILABLE


def _served_s(common: pb.AccessLogCommon) -> float:
    """What the variant's server took, as far as Envoy sees it."""
    first, last = common.time_to_first_upstream_tx_byte, common.time_to_last_upstream_rx_byte
    return max(0.0, _seconds(last) - _seconds(first))


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos * 1e-9
