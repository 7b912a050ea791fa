"""Where a store can be: an engine for a SQLite file or a PostgreSQL database, with the habits that we rely on."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

READS: Final = "anabranch_reads"
"""Execution option of transactions that only read: on SQLite they wait for no writer, and hold none up."""

_PATIENCE_MS: Final = 10_000
_POSTGRES: Final = {
    # A store that is down is found out quickly, also where its machine has vanished.
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "anabranch",
    # A process that is stopped within a transaction loses it, and its locks with it: nobody waits for it for ever.
    "options": f"-c idle_in_transaction_session_timeout={_PATIENCE_MS} -c lock_timeout={_PATIENCE_MS} -c statement_timeout=60000",
}


class MissingDriver(ModuleNotFoundError):
    """PostgreSQL needs a driver that is an extra: pip install 'anabranch[postgres]'."""

    def __init__(self) -> None:
        super().__init__(" ".join((self.__doc__ or "").split()))


def new_engine(url: str) -> Engine:
    """An engine for a store's URL; nothing is opened yet, but a SQLite file is there.

    Args:
        url: `sqlite:///path/to/file.db` or `postgresql://user@host/name`, as SQLAlchemy reads it.

    Raises:
        ArgumentError: If the URL is neither.
        MissingDriver: If it is PostgreSQL's, and the driver is not installed.
    """
    parsed = make_url(url)
    match parsed.get_backend_name():
        case "sqlite":
            return _sqlite(parsed)
        case "postgresql":
            return _postgres(parsed)
        case other:
            raise ArgumentError(f"a store is in sqlite or postgresql, not in {other}")


def _sqlite(url: URL) -> Engine:
    if url.database and url.database != ":memory:":
        path = Path(url.database)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not url.database.startswith("file:"):
            _reserve(path)
    engine = create_engine(url)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _reserve(path: Path) -> None:
    """Make the file before SQLite does, for this user only: salts, URLs of webhooks and the audit log are in it.

    What SQLite puts beside it gets the same permissions. A file that is there keeps its own.
    """
    # Where it cannot be made, SQLite says so in its own words. One that is there is not opened: closing it again would
    # end the locks that SQLite holds on it in this process.
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # We begin transactions ourselves, see _begin_sqlite.
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
        f"busy_timeout={_PATIENCE_MS}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # Taking the write lock at the start lets a second writer wait instead of failing half-way.
    reads = connection.get_execution_options().get(READS, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _postgres(url: URL) -> Engine:
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    given = {name: value for name, value in _POSTGRES.items() if name not in url.query}
    try:
        return create_engine(
            url,
            connect_args=given,
            # The locks of `store.locks` are right where every statement sees what was committed before it.
            isolation_level="READ COMMITTED",
            # After an outage the first use of an old connection does not fail.
            pool_pre_ping=True,
        )
    except ModuleNotFoundError as error:
        raise MissingDriver from error
