"""The agreement of replicas over SQL. Time is the database's: the clocks of replicas need not agree."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Engine, select, text, update

from anabranch.store.engine import READS
from anabranch.store.lease import Lease, LeaseLost, LeaseRecord, taken
from anabranch.store.memory_replicas import lost
from anabranch.store.sql_ingestion import upsert
from anabranch.store.tables import LEASE, PIN

_NAME = "controller"
_ROW = select(LEASE).where(LEASE.c.name == _NAME)
Clock = Callable[[Connection], float]


def database_clock(connection: Connection) -> float:
    """The database's time; a SQLite file is used by processes of one machine, and its time is the machine's."""
    if connection.dialect.name == "postgresql":
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
    return time.time()


class SqlReplicas:
    """`replica_port.ReplicaStore` over a database.

    Args:
        engine: The database.
        clock: Its time, in seconds.
    """

    def __init__(self, engine: Engine, clock: Clock = database_clock) -> None:
        self._engine = engine
        self._reads = engine.execution_options(**{READS: True})
        self._clock = clock

    def lead(self, holder: str, duration_s: float) -> Lease | None:
        """See `replica_port.ReplicaStore.lead`."""
        with self._engine.begin() as connection:
            # The row is held until the end: of two that ask at once, the second sees what the first has got.
            row = connection.execute(_ROW.with_for_update()).first()
            before = _record(row) if row is not None else None
            after = taken(before, holder, duration_s, self._clock(connection))
            if after is None:
                return None
            values = _values(after)
            if before is None:
                new = upsert(connection, LEASE, [{"name": _NAME, **values}])
                return after.lease if new else None
            connection.execute(update(LEASE).where(LEASE.c.name == _NAME).values(**values))
            return after.lease

    def step_down(self, lease: Lease) -> None:
        """See `replica_port.ReplicaStore.step_down`."""
        with self._engine.begin() as connection:
            connection.execute(update(LEASE).where(*_is(lease)).values(duration_s=0.0))

    def leader(self) -> LeaseRecord | None:
        """See `replica_port.ReplicaStore.leader`."""
        with self._reads.begin() as connection:
            row = connection.execute(_ROW).first()
            record = _record(row) if row is not None else None
            return record if record is not None and record.is_held(self._clock(connection)) else None

    def pin(self, name: str, value: str) -> str:
        """See `replica_port.ReplicaStore.pin`."""
        with self._engine.begin() as connection:
            upsert(connection, PIN, [{"name": name, "value": value}])
            return str(connection.execute(select(PIN.c.value).where(PIN.c.name == name)).scalar_one())


def renew(connection: Connection, lease: Lease, clock: Clock) -> None:
    """Prolong the lease of whoever saves, in the transaction of the save.

    Until that ends nobody else can take the lease: either the save is in before the change of hands, or it fails.

    Raises:
        LeaseLost: If another leads by now.
    """
    renewed = connection.execute(update(LEASE).where(*_is(lease)).values(renewed_s=clock(connection)))
    if renewed.rowcount != 1:
        row = connection.execute(_ROW).first()
        raise LeaseLost(lost(lease, _record(row) if row is not None else None))


def _is(lease: Lease) -> tuple[Any, ...]:
    return LEASE.c.name == _NAME, LEASE.c.holder == lease.holder, LEASE.c.token == lease.token


def _record(row: Any) -> LeaseRecord:
    return LeaseRecord(holder=row.holder, token=row.token, renewed_s=row.renewed_s, duration_s=row.duration_s)


def _values(record: LeaseRecord) -> dict[str, Any]:
    return {
        "holder": record.holder,
        "token": record.token,
        "renewed_s": record.renewed_s,
        "duration_s": record.duration_s,
    }
