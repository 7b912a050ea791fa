"""Whether a controller leads: alone with its store, one of several that hold a lease in turn, or never."""

from __future__ import annotations

import logging
import os
import socket
from typing import Protocol, assert_never

from anabranch.router.settings import ControllerPlace, Settings, place_of
from anabranch.store.lease import Lease, holder_name
from anabranch.store.replica_port import ReplicaStore

_log = logging.getLogger(__name__)


class Leadership(Protocol):
    """What a controller asks before every round."""

    @property
    def lease(self) -> Lease | None:
        """What its saves are fenced by; None where nobody else can save."""
        ...

    def hold(self) -> bool:
        """Whether it leads in this round."""
        ...

    def step_down(self) -> None:
        """Let another lead from now on."""
        ...


class Alone:
    """There is no other controller, and never will be: a simulation, a test."""

    lease: Lease | None = None

    def hold(self) -> bool:
        """Always."""
        return True

    def step_down(self) -> None:
        """Nobody waits for it."""


class Following:
    """Another process moves the experiments on; this one routes by what that one saves."""

    lease: Lease | None = None

    def hold(self) -> bool:
        """Never."""
        return False

    def step_down(self) -> None:
        """It has nothing to give."""


class Candidate:
    """One of several controllers, of which the one with the lease leads.

    Args:
        replicas: Where they meet.
        holder: Its name; see `lease.holder_name`.
        duration_s: How long after its last round another may take over.
    """

    def __init__(self, replicas: ReplicaStore, holder: str, duration_s: float) -> None:
        self._replicas = replicas
        self._holder = holder
        self._duration_s = duration_s
        self.lease: Lease | None = None

    def hold(self) -> bool:
        """Take the lease or renew it."""
        before, self.lease = self.lease, self._replicas.lead(self._holder, self._duration_s)
        if self.lease is not None and self.lease != before:
            _log.info("%s leads from now on, with token %d", self._holder, self.lease.token)
        elif self.lease is None and before is not None:
            _log.warning("%s leads no longer: another has taken over", self._holder)
        return self.lease is not None

    def step_down(self) -> None:
        """Give the lease back, so that nobody has to wait for its end."""
        if self.lease is not None:
            self._replicas.step_down(self.lease)
            self.lease = None


def leadership_of(settings: Settings, replicas: ReplicaStore) -> Leadership:
    """Whether a server's controller may lead.

    Its state folder is this server's alone, so the next life need not wait for the end of the last one's lease.
    """
    match settings.controller:
        case ControllerPlace.INSIDE:
            return Candidate(replicas, holder_name(place_of(settings), _life()), settings.lease_s)
        case ControllerPlace.ELSEWHERE:
            return Following()
        case other:
            assert_never(other)


def process_leadership(replicas: ReplicaStore, duration_s: float) -> Candidate:
    """The leadership of a controller that is a process of its own; nothing tells it from others at its place."""
    return Candidate(replicas, holder_name(f"{socket.gethostname()}-{_life()}", "1"), duration_s)


def _life() -> str:
    # In a container every process may be number 1.
    return f"{os.getpid()}-{os.urandom(4).hex()}"
