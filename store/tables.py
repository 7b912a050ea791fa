"""The tables. Rows stop at this layer; everything above sees the values of the port."""

from __future__ import annotations

from typing import cast

from sqlalchemy import BigInteger, Index, Integer, Table
from sqlmodel import Field, SQLModel

# SQLite numbers rows by itself only in a column declared INTEGER.
_SERIAL = BigInteger().with_variant(Integer, "sqlite")


class ModelRow(SQLModel, table=True):
    """A model and the variant that serves it without an experiment."""

    __tablename__ = "model"
    name: str = Field(primary_key=True)
    baseline: str
    changed_s: float


class ExperimentRow(SQLModel, table=True):
    """An experiment: its current document and state."""

    __tablename__ = "experiment"
    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True, index=True)
    model: str = Field(index=True)
    document: str
    spec_version: int
    salt: str
    applied_s: float
    first_delta: int = Field(sa_type=BigInteger)
    first_epoch: int
    state_version: int
    state: str


class SpecVersionRow(SQLModel, table=True):
    """A document that was applied."""

    __tablename__ = "spec_version"
    experiment_id: int = Field(primary_key=True, foreign_key="experiment.id")
    version: int = Field(primary_key=True)
    document: str
    applied_s: float
    actor: str


class EpochRow(SQLModel, table=True):
    """The weights of a stretch of constant weights."""

    __tablename__ = "epoch"
    experiment_id: int = Field(primary_key=True, foreign_key="experiment.id")
    number: int = Field(primary_key=True)
    weights: str


class DeltaRow(SQLModel, table=True):
    """Outcomes of one ingestion."""

    __tablename__ = "delta"
    sequence: int | None = Field(default=None, primary_key=True, sa_type=_SERIAL)
    experiment_id: int = Field(index=True, foreign_key="experiment.id")
    cells: str
    pairs: str


class EvidenceRow(SQLModel, table=True):
    """What one tick folded in; read it by `packing.unpack`."""

    __tablename__ = "evidence"
    experiment_id: int = Field(primary_key=True, foreign_key="experiment.id")
    spec_version: int = Field(primary_key=True)
    last: int = Field(primary_key=True, sa_type=BigInteger)
    body: str
    packed: bytes | None = None


class DecisionRow(SQLModel, table=True):
    """A decision, chained to the one before it."""

    __tablename__ = "decision"
    experiment_id: int = Field(primary_key=True, foreign_key="experiment.id")
    spec_version: int = Field(primary_key=True)
    number: int = Field(primary_key=True)
    at_s: float
    body: str
    previous_hash: str
    hash: str
    seal: str = ""


class UnitRecord(SQLModel, table=True):
    """A unit whose first request was counted, and which request that was."""

    __tablename__ = "unit"
    __table_args__ = (Index("ix_unit_assignment", "experiment_id", "lane", "sequence"),)
    experiment_id: int = Field(primary_key=True, foreign_key="experiment.id")
    unit: str = Field(primary_key=True)
    lane: int = Field(sa_type=BigInteger)
    sequence: int = Field(sa_type=BigInteger)


class WaitingRecord(SQLModel, table=True):
    """Requests that wait for their labels."""

    __tablename__ = "waiting"
    __table_args__ = (
        Index("ix_waiting_closes", "experiment_id", "closes_s"),
        Index("ix_waiting_lane", "experiment_id", "lane", "first_sequence"),
    )
    id: int | None = Field(default=None, primary_key=True, sa_type=_SERIAL)
    experiment_id: int = Field(foreign_key="experiment.id")
    lane: int = Field(sa_type=BigInteger)
    first_sequence: int = Field(sa_type=BigInteger)
    last_sequence: int = Field(sa_type=BigInteger)
    window_s: float
    closes_s: float
    body: bytes


class PairRecord(SQLModel, table=True):
    """A compared reply that waits for its label."""

    __tablename__ = "pair"
    experiment_id: int = Field(primary_key=True, foreign_key="experiment.id")
    lane: int = Field(primary_key=True, sa_type=BigInteger)
    sequence: int = Field(primary_key=True, sa_type=BigInteger)
    arm: int = Field(primary_key=True)
    epoch: int
    baseline_top1: int
    top1: int


class FeedbackRecord(SQLModel, table=True):
    """A feedback, unique by assignment and metric."""

    __tablename__ = "feedback"
    experiment_id: int = Field(primary_key=True, foreign_key="experiment.id")
    lane: int = Field(primary_key=True, sa_type=BigInteger)
    sequence: int = Field(primary_key=True, sa_type=BigInteger)
    metric: str = Field(primary_key=True)
    epoch: int
    arm: int
    sampled: bool
    top1: int
    is_label: bool
    value: float
    at_s: float


class CursorRow(SQLModel, table=True):
    """How far a journal segment has been read."""

    __tablename__ = "cursor"
    lane: int = Field(primary_key=True, sa_type=BigInteger)
    segment: int = Field(primary_key=True)
    offset: int = Field(sa_type=BigInteger)


class EventRow(SQLModel, table=True):
    """The audit log; a request to an experiment waits here until a decision answers it."""

    __tablename__ = "event"
    id: int | None = Field(default=None, primary_key=True, sa_type=_SERIAL)
    at_s: float
    actor: str
    experiment_id: int | None = Field(default=None, index=True)
    experiment: str
    verb: str
    detail: str
    pending: bool = Field(index=True)


class TokenRow(SQLModel, table=True):
    """An API token, without its secret."""

    __tablename__ = "token"
    id: str = Field(primary_key=True)
    name: str = Field(index=True)
    role: str
    models: str
    digest: str
    created_s: float
    created_by: str
    expires_s: float | None = None
    revoked_s: float | None = None
    last_used_s: float | None = None


class CounterRow(SQLModel, table=True):
    """A number that only grows."""

    __tablename__ = "counter"
    name: str = Field(primary_key=True)
    value: int = Field(sa_type=BigInteger)


class LeaseRow(SQLModel, table=True):
    """Which controller leads."""

    __tablename__ = "lease"
    name: str = Field(primary_key=True)
    holder: str
    token: int = Field(sa_type=BigInteger)
    renewed_s: float
    duration_s: float


class PinRow(SQLModel, table=True):
    """A value that all replicas must have alike; the first one stands."""

    __tablename__ = "pin"
    name: str = Field(primary_key=True)
    value: str


class TenureRow(SQLModel, table=True):
    """Since when a variant is its model's baseline, and why."""

    __tablename__ = "tenure"
    id: int | None = Field(default=None, primary_key=True, sa_type=_SERIAL)
    model: str = Field(index=True)
    since_s: float
    variant: str
    experiment: str
    decision: int
    reason: str


class OutboxRow(SQLModel, table=True):
    """What is to be told to somebody outside."""

    __tablename__ = "outbox"
    id: int | None = Field(default=None, primary_key=True, sa_type=_SERIAL)
    experiment: str = Field(index=True)
    key: str = Field(unique=True)
    target: str
    webhook: str
    body: str
    fate: str = Field(index=True)
    attempts: int
    due_s: float
    error: str


class CatalogRow(SQLModel, table=True):
    """What is served; one row."""

    __tablename__ = "catalog"
    name: str = Field(primary_key=True)
    body: str


class VolumeRow(SQLModel, table=True):
    """How many requests came in one stretch of time."""

    __tablename__ = "volume"
    # What is read and removed is a stretch of time: it comes first in the key.
    slot_s: int = Field(primary_key=True, sa_type=BigInteger)
    model: str = Field(primary_key=True)
    level: str = Field(primary_key=True)
    requests: int = Field(sa_type=BigInteger)
    within: int = Field(sa_type=BigInteger)


def _table(row: type[SQLModel]) -> Table:
    return cast(Table, row.__table__)  # type: ignore[attr-defined]  # added by the metaclass


METADATA = SQLModel.metadata
MODEL = _table(ModelRow)
EXPERIMENT = _table(ExperimentRow)
SPEC_VERSION = _table(SpecVersionRow)
EPOCH = _table(EpochRow)
DELTA = _table(DeltaRow)
EVIDENCE = _table(EvidenceRow)
DECISION = _table(DecisionRow)
UNIT = _table(UnitRecord)
PAIR = _table(PairRecord)
FEEDBACK = _table(FeedbackRecord)
WAITING = _table(WaitingRecord)
CURSOR = _table(CursorRow)
EVENT = _table(EventRow)
TOKEN = _table(TokenRow)
COUNTER = _table(CounterRow)
LEASE = _table(LeaseRow)
PIN = _table(PinRow)
TENURE = _table(TenureRow)
OUTBOX = _table(OutboxRow)
CATALOG = _table(CatalogRow)
VOLUME = _table(VolumeRow)
