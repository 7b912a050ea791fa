"""Open the store a command names, and find what it asks for; reading never creates a database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed, did_you_mean
from anabranch.cli.places import DEFAULT_STORE, SQLITE

if TYPE_CHECKING:
    from anabranch.store.control_plane import ControlPlane, ReadPlane
    from anabranch.store.port import Store, StoredExperiment

_POSTGRES = ("postgresql://", "postgresql+")


@contextmanager
def control_plane(url: str) -> Iterator[ControlPlane]:
    """What reads experiments and asks of them: a server where one is named, else the store, if it is there.

    Raises:
        CommandFailed: If there is no such database, or it cannot be opened.
    """
    from anabranch.cli.servers import connect, is_server

    if not is_server(url):
        with existing_store(url) as store:
            yield store
        return
    # Imported when a server is asked: it brings gRPC.
    from anabranch.cli.remote_store import RemoteStore

    remote = RemoteStore(connect(url))
    try:
        yield remote
    finally:
        remote.close()


@contextmanager
def read_plane(url: str) -> Iterator[ReadPlane]:
    """What only reads experiments: a database file is read without SQLAlchemy, which takes a second to load.

    Raises:
        CommandFailed: If there is no such database, or it cannot be opened.
    """
    from anabranch.cli.servers import is_server

    path = None if is_server(url) else sqlite_path(url)
    if path is not None and path.is_file():
        from anabranch.store.sqlite_reader import NotReadable, SqliteReader

        try:
            reader = SqliteReader(path)
        except NotReadable:
            pass  # The store itself says what is wrong with the file.
        else:
            try:
                yield reader
            finally:
                reader.close()
            return
    with control_plane(url) as opened:
        yield opened


def needs_store(url: str, what: str = "tokens") -> None:
    """See that a store was named, and no server.

    Args:
        url: What was named.
        what: What is asked of it, in the plural.

    Raises:
        CommandFailed: If it was a server: what is asked is done where the store is.
    """
    from anabranch.cli.servers import is_server

    if is_server(url):
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            f"{what} are kept in the store, and {url} is a server: no network reaches them",
            "run this where the store is, with --store",
        )


@contextmanager
def existing_store(url: str) -> Iterator[Store]:
    """The store, if it is there.

    Raises:
        CommandFailed: If there is no such database, or it cannot be opened.
    """
    path = sqlite_path(url)
    if path is not None and not path.is_file():
        raise CommandFailed(
            ExitCode.NOT_FOUND,
            f"no database at {path}",
            "start one with `anabranch serve`, create one with `anabranch apply -f FILE`, or pass --store",
        )
    with _opened(url, may_change_tables=False) as store:
        yield store


@contextmanager
def created_store(url: str) -> Iterator[Store]:
    """The store, made when it is not there.

    Raises:
        CommandFailed: If it cannot be opened.
    """
    sqlite_path(url)
    with _opened(url, may_change_tables=True) as store:
        yield store


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite URL, None for a database server.

    Raises:
        CommandFailed: If the text is no store URL.
    """
    if url.startswith(SQLITE) and len(url) > len(SQLITE):
        return Path(url.removeprefix(SQLITE))
    if url.startswith(_POSTGRES):
        return None
    meant = f", did you mean {SQLITE}{url}?" if "://" not in url and url else ""
    raise CommandFailed(
        ExitCode.BAD_INPUT,
        f"--store {url!r} is not a store URL{meant}",
        "write sqlite:///path/to/file.db, postgresql://user@host/name, or HOST:PORT of a server",
    )


def serve_command(url: str) -> str:
    """How to start a server on a store, to be typed; of a server, its address."""
    from anabranch.cli.servers import is_server

    if is_server(url):
        return f"`anabranch serve --control-port` at {url}"
    return "`anabranch serve`" if url == DEFAULT_STORE else f"`anabranch serve --store {_shown(url)}`"


def find_experiment(store: ReadPlane, name: str) -> StoredExperiment:
    """One experiment.

    Raises:
        CommandFailed: If there is none of that name; says which there are, and which is near.
    """
    with naming_others(store, name):
        return store.experiment(name)


@contextmanager
def naming_others(store: ReadPlane, name: str) -> Iterator[None]:
    """Turn `NotFound` into what a person can go on with.

    Raises:
        CommandFailed: If there is no experiment of that name; says which there are, and which is near.
    """
    from anabranch.store.port import NotFound

    try:
        yield
        return
    except NotFound:
        known = [experiment.name for experiment in store.experiments()]
    if not known:
        raise CommandFailed(
            ExitCode.NOT_FOUND,
            f"no experiment {name!r}; there are none yet",
            "create one with `anabranch apply -f FILE`",
        )
    raise CommandFailed(
        ExitCode.NOT_FOUND,
        f"no experiment {name!r}; there are: {', '.join(known)}{did_you_mean(name, known)}",
    )


@contextmanager
def _opened(url: str, *, may_change_tables: bool) -> Iterator[Store]:
    # Imported when a store is needed: it brings SQLAlchemy and Alembic.
    from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError

    from anabranch.store.migrate import SchemaMismatch
    from anabranch.store.sql import Schema, open_store

    try:
        store = open_store(url, schema=Schema.UPGRADE if may_change_tables else Schema.REQUIRE)
    except SchemaMismatch as error:
        raise CommandFailed(ExitCode.CONFLICT, str(error)) from error
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise CommandFailed(ExitCode.BAD_INPUT, f"the store {_shown(url)} cannot be used: {error}") from error
    except (DatabaseError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise CommandFailed(
            ExitCode.FAILURE,
            f"cannot open the store {_shown(url)}: {reason}",
            "check --store, and that the database is up and is one of anabranch",
        ) from error
    try:
        yield store
    finally:
        store.close()


def _shown(url: str) -> str:
    """The URL without its password."""
    scheme, separator, rest = url.partition("://")
    account, at, place = rest.rpartition("@")
    user = account.partition(":")[0]
    return f"{scheme}{separator}{user}{at}{place}" if separator else url
