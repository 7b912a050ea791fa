"""The port of the outbox: what is to be told to somebody outside, kept with the decision that it tells of.

A message is saved in the transaction of its decision and leaves the outbox once it was taken, so that it is told at
least once. Whoever gets it twice knows it by its key.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from anabranch.bandit.hooks import Webhook

DEAD_BY: Final = "outbox"
DEAD_VERB: Final = "gave-up"
"""Who and what, in the audit log, when a message was given up."""


class Fate(StrEnum):
    """Where a message is."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"  # given up; it stays for a look


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What is to be told.

    Attributes:
        key: The same for every attempt; in the body too.
        target: Name of the notification or the gate.
        webhook: Where it goes; a secret is a reference only.
        body: JSON.
    """

    key: str
    target: str
    webhook: Webhook
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A message in the outbox.

    Attributes:
        due_s: When it is tried next.
        error: Why it was not taken the last time.
    """

    id: int
    experiment: str
    message: Message
    fate: Fate
    attempts: int
    due_s: float
    error: str = ""


class OutboxStore(Protocol):
    """Where messages wait."""

    def due(self, now: float, limit: int) -> list[Outgoing]:
        """Waiting messages whose time has come, oldest first."""
        ...

    def messages(self, experiment: str) -> list[Outgoing]:
        """All messages of an experiment, oldest first."""
        ...

    def settle(self, outgoing: Outgoing) -> None:
        """Remember what came of an attempt: fate, attempts, time of the next one and error."""
        ...

    def note_dead(self, experiment: str, detail: str, now: float) -> None:
        """Say in the audit log that a message was given up."""
        ...
