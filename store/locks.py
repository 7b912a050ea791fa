"""Locks that a transaction holds to its end, so that PostgreSQL runs one after the other what SQLite always does.

SQLite has one writer at a time. PostgreSQL has many, and checks before writing ("is there another experiment on this
model?", "has the label come before its pair?") need the others to be done or not yet begun.
"""

from __future__ import annotations

from enum import IntEnum

from sqlalchemy import Connection, text

# Advisory locks are numbers that all applications of a database share: the first word of ours says whose they are.
_OURS = 0x414E4252


class Lock(IntEnum):
    """What is done by one transaction at a time."""

    SCHEMA = 1
    EXPERIMENTS = 2
    INGESTION = 3


def hold(connection: Connection, lock: Lock) -> None:
    """Wait for a lock, and keep it until the transaction ends.

    Args:
        connection: An open transaction.
        lock: Which one.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(
            text("SELECT pg_advisory_xact_lock(:ours, :lock)"), {"ours": _OURS, "lock": int(lock)}
        )
