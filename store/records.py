"""The records of the journal, and their fixed binary form."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag


class Kind(IntEnum):
    """What a record is; the number is on disk."""

    ROUTED = 1
    PAIR = 2
    FEEDBACK = 3
    GENERATED = 4


class Flag(IntFlag):
    """Facts about a routed request; the bits are on disk and in assignment ids."""

    NONE = 0
    EVIDENCE = 1  # drawn by the experiment's coin: counts for the split
    SAMPLED = 2  # chosen for mirroring: label feedback goes to its pairs instead of to the split
    MASKED = 4  # the assigned variant failed and the baseline answered
    PINNED = 8  # the caller chose the variant
    STICKY = 16  # only the first request of the unit is evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """One answered (or failed) request.

    One whose answer was generated token by token is a kind of its own on disk, with two numbers more.

    Attributes:
        at_s: Wall clock time of the answer, seconds since 1970.
        arm: Number of the assigned arm.
        status: gRPC status of the assigned variant's own answer; 0 is OK.
        latency_ms: From the request's arrival to its answer; infinite when nothing was answered.
        queue_ms: Part of it spent waiting for a batch.
        compute_ms: Part of it spent running the batch.
        batch_rows: Rows in that batch.
        sequence: Number of the assignment in its lane.
        unit: Digest of the unit, 16 bytes of zero when every request is its own unit.
        first_token_ms: From the request's submission to the answer's first token; None where no token was generated.
        token_ms: Mean time of every further token; None where there was at most one.
    """

    at_s: float
    experiment: int
    epoch: int
    arm: int
    flags: Flag
    status: int
    latency_ms: float
    queue_ms: float
    compute_ms: float
    batch_rows: int
    propensity: float
    sequence: int
    unit: bytes
    first_token_ms: float | None = None
    token_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A candidate's reply compared with the baseline's to the same input.

    Attributes:
        arm: Number of the arm that got the copy; 0 is the baseline again, for the noise floor.
        status: gRPC status of the copy; 0 is OK.
        agrees: Whether every row's top class is the baseline's.
        baseline_top1: The baseline's class in the first row, -1 when there is none.
        top1: The candidate's class in the first row, -1 when there is none.
        max_abs: Largest absolute difference of the compared output.
        cosine: Smallest cosine similarity of a row of the compared output.
        kl: Divergence from the baseline's classes, or of a text's next tokens, in nats; None where the replies do not say it.
    """

    at_s: float
    experiment: int
    epoch: int
    arm: int
    status: int
    agrees: bool
    baseline_top1: int
    top1: int
    max_abs: float
    cosine: float
    sequence: int
    kl: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What a client reported about an assignment.

    Attributes:
        lane: Lane of the assignment.
        sequence: Number of the assignment in that lane.
        top1: Class the reply had, -1 when unknown.
        is_label: Whether `value` is the true class; otherwise it is the metric's value.
        metric: Name after `feedback.`.
    """

    at_s: float
    experiment: int
    epoch: int
    arm: int
    flags: Flag
    lane: int
    sequence: int
    top1: int
    is_label: bool
    value: float
    metric: str


Record = Routed | Pair | Feedback

# Widest fields first, to a round 64 bytes: a journal's requests are read as one array (`record_arrays.ROUTED`).
_ROUTED = struct.Struct("<dQ16sIIffffHBBB3x")
ROUTED_BYTES = _ROUTED.size
# Time to the first token, and of every further one (NaN where there was none).
_TOKENS = struct.Struct("<ff")
GENERATED_BYTES = ROUTED_BYTES + _TOKENS.size
_PAIR = struct.Struct("<dQIIiiffBBBxf")
PAIR_BYTES = _PAIR.size
_FEEDBACK = struct.Struct("<dIIBBIQi?d")
_FLAGS = {value: Flag(value) for value in range(32)}


def routed_body(
    at_s: float,
    experiment: int,
    epoch: int,
    arm: int,
    flags: int,
    status: int,
    latency_ms: float,
    queue_ms: float,
    compute_ms: float,
    batch_rows: int,
    propensity: float,
    sequence: int,
    unit: bytes,
) -> bytes:
    """A `Routed` in its binary form from its fields: a request has no time for a record."""
    return _ROUTED.pack(
        at_s,
        sequence,
        unit,
        experiment,
        epoch,
        latency_ms,
        queue_ms,
        compute_ms,
        propensity,
        batch_rows if batch_rows < 65536 else 65535,
        arm,
        flags,
        status,
    )


class UnreadableRecord(ValueError):
    """The bytes are no record of a known kind."""


def pack(record: Record) -> tuple[Kind, bytes]:
    """The kind and the payload of a record."""
    if isinstance(record, Routed):
        routed = routed_body(
            record.at_s,
            record.experiment,
            record.epoch,
            record.arm,
            record.flags,
            record.status,
            record.latency_ms,
            record.queue_ms,
            record.compute_ms,
            record.batch_rows,
            record.propensity,
            record.sequence,
            record.unit,
        )
        if record.first_token_ms is None:
            return Kind.ROUTED, routed
        token_ms = math.nan if record.token_ms is None else record.token_ms
        return Kind.GENERATED, routed + _TOKENS.pack(record.first_token_ms, token_ms)
    if isinstance(record, Pair):
        return Kind.PAIR, _PAIR.pack(
            record.at_s,
            record.sequence,
            record.experiment,
            record.epoch,
            record.baseline_top1,
            record.top1,
            record.max_abs,
            record.cosine,
            record.arm,
            record.status,
            record.agrees,
            math.nan if record.kl is None else record.kl,
        )
    return Kind.FEEDBACK, _FEEDBACK.pack(
        record.at_s,
        record.experiment,
        record.epoch,
        record.arm,
        record.flags,
        record.lane,
        record.sequence,
        record.top1,
        record.is_label,
        record.value,
    ) + record.metric.encode()


def unpack(kind: int, payload: bytes) -> Record:
    """The record in a payload.

    Raises:
        UnreadableRecord: If the kind is unknown or the payload has the wrong size.
    """
    try:
        if kind == Kind.ROUTED:
            return _unpack_routed(payload)
        if kind == Kind.GENERATED:
            return _unpack_generated(payload)
        if kind == Kind.PAIR:
            return _unpack_pair(payload)
        if kind == Kind.FEEDBACK:
            return _unpack_feedback(payload)
    except (struct.error, UnicodeDecodeError, KeyError) as error:
        raise UnreadableRecord(f"record of kind {kind} with {len(payload)} bytes: {error}") from error
    raise UnreadableRecord(f"record of unknown kind {kind}; known are {', '.join(str(int(k)) for k in Kind)}")


def _unpack_routed(payload: bytes) -> Routed:
    at_s, sequence, unit, experiment, epoch, latency, queue, compute, propensity, rows, arm, flags, status = (
        _ROUTED.unpack(payload)
    )
    return Routed(
        at_s=at_s,
        experiment=experiment,
        epoch=epoch,
        arm=arm,
        flags=_FLAGS[flags],
        status=status,
        latency_ms=latency,
        queue_ms=queue,
        compute_ms=compute,
        batch_rows=rows,
        propensity=propensity,
        sequence=sequence,
        unit=unit,
    )


def _unpack_generated(payload: bytes) -> Routed:
    first_token, token = _TOKENS.unpack(payload[_ROUTED.size :])
    routed = _unpack_routed(payload[: _ROUTED.size])
    return replace(routed, first_token_ms=first_token, token_ms=None if math.isnan(token) else token)


def _unpack_pair(payload: bytes) -> Pair:
    at_s, sequence, experiment, epoch, baseline_top1, top1, max_abs, cosine, arm, status, agrees, kl = (
        _PAIR.unpack(payload)
    )
    return Pair(
        at_s=at_s,
        experiment=experiment,
        epoch=epoch,
        arm=arm,
        status=status,
        agrees=bool(agrees),
        baseline_top1=baseline_top1,
        top1=top1,
        max_abs=max_abs,
        cosine=cosine,
        sequence=sequence,
        kl=None if math.isnan(kl) else kl,
    )


def _unpack_feedback(payload: bytes) -> Feedback:
    head, name = payload[: _FEEDBACK.size], payload[_FEEDBACK.size :]
    at_s, experiment, epoch, arm, flags, lane, sequence, top1, is_label, value = _FEEDBACK.unpack(head)
    return Feedback(
        at_s=at_s,
        experiment=experiment,
        epoch=epoch,
        arm=arm,
        flags=_FLAGS[flags],
        lane=lane,
        sequence=sequence,
        top1=top1,
        is_label=is_label,
        value=value,
        metric=name.decode(),
    )
