"""The agreement of replicas in memory: controllers of one process, as simulations have them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from anabranch.store.lease import Lease, LeaseLost, LeaseRecord, taken


class MemoryReplicas:
    """`replica_port.ReplicaStore` without a database.

    Args:
        clock: The store's time, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._record: LeaseRecord | None = None
        self._pinned: dict[str, str] = {}

    def lead(self, holder: str, duration_s: float) -> Lease | None:
        """See `replica_port.ReplicaStore.lead`."""
        with self._lock:
            after = taken(self._record, holder, duration_s, self._clock())
            if after is None:
                return None
            self._record = after
            return after.lease

    def step_down(self, lease: Lease) -> None:
        """See `replica_port.ReplicaStore.step_down`."""
        with self._lock:
            if self._record is not None and self._record.lease == lease:
                self._record = replace(self._record, duration_s=0.0)

    def leader(self) -> LeaseRecord | None:
        """See `replica_port.ReplicaStore.leader`."""
        with self._lock:
            return self._record if self._record is not None and self._record.is_held(self._clock()) else None

    def pin(self, name: str, value: str) -> str:
        """See `replica_port.ReplicaStore.pin`."""
        with self._lock:
            return self._pinned.setdefault(name, value)

    def renew(self, lease: Lease) -> None:
        """Prolong the lease of whoever saves.

        Raises:
            LeaseLost: If another leads by now.
        """
        with self._lock:
            if self._record is None or self._record.lease != lease:
                raise LeaseLost(lost(lease, self._record))
            self._record = replace(self._record, renewed_s=self._clock())


def lost(lease: Lease, record: LeaseRecord | None) -> str:
    """What a controller is told that no longer leads."""
    now = f"{record.holder} leads with token {record.token}" if record is not None else "nobody leads"
    return f"{lease.holder} led with token {lease.token}, now {now}: nothing of this round is saved"
