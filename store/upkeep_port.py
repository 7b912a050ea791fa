"""The port by which a store is kept small; every store has one.

What decisions rest on is never removed: evidence, decisions, spec versions, epochs and the audit log stay, so that every
decision can be verified for ever. What goes has done its work: outcomes that a tick has folded in, of which the
evidence keeps the sum; and what was remembered of single requests, once their experiment is long over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from anabranch.store.lease import Lease

KEEP_DAYS: Final = 30.0
"""How long single requests of an ended experiment are remembered: as long as a label may come late, or be sent twice."""
CHUNK: Final = 10_000
"""Rows a transaction: nobody waits long for its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """How many rows were removed, of every kind; or how many could be."""

    deltas: int = 0
    units: int = 0
    pairs: int = 0
    feedback: int = 0
    waiting: int = 0

    @property
    def rows(self) -> int:
        """All of them."""
        return self.deltas + self.units + self.pairs + self.feedback + self.waiting


class UpkeepStore(Protocol):
    """Where what is no longer needed is removed."""

    def removable(self, ended_before_s: float) -> Compacted:
        """What a compaction would remove.

        Args:
            ended_before_s: Of experiments that were over by then, single requests are forgotten.
        """
        ...

    def compact(self, ended_before_s: float, *, limit: int = CHUNK, lease: Lease | None = None) -> Compacted:
        """Remove what is no longer needed, in one transaction.

        Args:
            ended_before_s: See `removable`.
            limit: At most this many rows; fewer were removed when nothing is left.
            lease: By which the controller leads that does it; None for a person.

        Raises:
            LeaseLost: If another controller leads by now; nothing is removed.
        """
        ...
