"""The port by which replicas agree: who leads, and what all of them must have alike; every store has one."""

from __future__ import annotations

from typing import Protocol

from anabranch.store.lease import Lease, LeaseRecord


class ReplicaStore(Protocol):
    """Where replicas meet."""

    def lead(self, holder: str, duration_s: float) -> Lease | None:
        """Take the lease, or renew it; None while another holds it.

        Args:
            holder: Who asks, as `lease.holder_name` makes it.
            duration_s: How long it lasts unless it is renewed.
        """
        ...

    def step_down(self, lease: Lease) -> None:
        """Let another lead from now on; nothing happens when one does already."""
        ...

    def leader(self) -> LeaseRecord | None:
        """Who leads; None while nobody does."""
        ...

    def pin(self, name: str, value: str) -> str:
        """Keep a value under a name where there is none yet; answers what is kept."""
        ...
