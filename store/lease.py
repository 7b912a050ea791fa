"""The lease by which one controller leads, and the token that fences off one that does not know it no longer does.

A controller holds the lease for a time and renews it with every round and every save. One that stops to do so is
followed by another as soon as that time is over. Each change of hands makes a larger token, and a save names the token
it was begun with: of a controller that was paused in the middle of a round, and wakes up, nothing is written.

All times are of one clock, the database's, so that the clocks of the machines do not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


class LeaseLost(Exception):
    """Another controller leads by now: what this one was about to save is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What a leading controller holds.

    Attributes:
        holder: Whose it is, as `holder_name` makes it.
        token: Grows with every change of hands.
    """

    holder: str
    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """The lease as kept.

    Attributes:
        renewed_s: When it was renewed last, by the store's clock.
        duration_s: How long it lasts from then.
    """

    holder: str
    token: int
    renewed_s: float
    duration_s: float

    @property
    def lease(self) -> Lease:
        """What its holder has in hand."""
        return Lease(holder=self.holder, token=self.token)

    def is_held(self, now: float) -> bool:
        """Whether its holder still leads.

        A clock that was set back by more than the lease lasts does not prolong it: then it counts as over.

        Args:
            now: The store's time.
        """
        return -self.duration_s < now - self.renewed_s < self.duration_s


def holder_name(place: str, life: str) -> str:
    """The name of one life of a controller.

    Args:
        place: Where it lives, if it is the only one there at any time, so that its next life need not wait for the end of
            a lease that nobody can hold any more. Any unique text where nothing sees to that.
        life: Tells the lives at that place apart.
    """
    return f"{place}#{life}"


def taken(record: LeaseRecord | None, holder: str, duration_s: float, now: float) -> LeaseRecord | None:
    """The lease once somebody has asked for it; None when another holds it.

    Args:
        record: As kept; None before the first.
        holder: Who asks. The present holder renews it, also late, and keeps its token; its next life gets a larger one.
        duration_s: How long it shall last from now.
        now: The store's time.
    """
    if record is not None and record.holder == holder:
        return replace(record, renewed_s=now, duration_s=duration_s)
    if record is not None and record.is_held(now) and _place(record.holder) != _place(holder):
        return None
    token = record.token + 1 if record is not None else 1
    return LeaseRecord(holder=holder, token=token, renewed_s=now, duration_s=duration_s)


def _place(holder: str) -> str:
    return holder.partition("#")[0]
