"""The database of a drill, and what is done to it: a SQLite file of one server, or a PostgreSQL server that several share."""

import contextlib
import importlib.util
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import create_engine, text

_SERVER = Path(__file__).parents[2] / "tests" / "data" / "postgres_server.py"


class Database(Protocol):
    """Where a drill's store is."""

    @property
    def store_url(self) -> str:
        """Of a database that several servers share; empty where a server keeps its own file."""
        ...

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Let nobody else write for a while."""
        ...

    def away(self) -> contextlib.AbstractContextManager[None]:
        """End the server at once, with every connection, and start it again afterwards."""
        ...


class SqliteFile:
    """A file.

    Args:
        path: Where it is.
    """

    store_url = ""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """See `Database.locked`."""
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=10.0)
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.rollback()
            connection.close()

    def away(self) -> contextlib.AbstractContextManager[None]:
        """A file cannot go away."""
        raise NotImplementedError("a SQLite file has no server to stop")


class PostgresDatabase:
    """A fresh database of a server.

    Args:
        server: As `start_postgres` gives it.
    """

    def __init__(self, server: Any) -> None:
        self._server = server
        self.store_url: str = server.url(server.new_database())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """See `Database.locked`; nobody reads either."""
        # Not as our own programs connect: PostgreSQL ends their transactions that do nothing for 10 s.
        engine = create_engine(self.store_url)
        with engine.begin() as connection:
            connection.execute(text("LOCK TABLE experiment IN ACCESS EXCLUSIVE MODE"))
            yield
        engine.dispose()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """See `Database.away`."""
        self._server.stop()
        try:
            yield
        finally:
            self._server.start()


def start_postgres() -> Any:
    """A PostgreSQL server of one's own, which keeps what it has confirmed when it is killed."""
    spec = importlib.util.spec_from_file_location("postgres_server", _SERVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    programs = module.find_programs()
    if programs is None:
        sys.exit("PostgreSQL's server is not installed: Debian has it as `postgresql`")
    return module.PostgresServer(programs, {"synchronous_commit": "on"})
