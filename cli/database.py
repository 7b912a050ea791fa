"""Look at the tables of a store, and upgrade them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.table import Table
from sqlalchemy import Engine
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from anabranch.cli.connection import existing_store, sqlite_path
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.store.engine import new_engine
from anabranch.store.migrate import differences, found_version, require_current, upgrade
from anabranch.store.sizes import TableSize, table_sizes
from anabranch.store.upkeep_port import CHUNK, Compacted
from anabranch.store.versions import known_versions


@dataclass(frozen=True, slots=True, kw_only=True)
class TablesView:
    """What is in a database.

    Attributes:
        found: The version of its tables; None where there are none.
        needed: The version that this release needs.
    """

    found: str | None
    needed: str
    tables: tuple[TableSize, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeView:
    """What an upgrade did.

    Attributes:
        found: The version that was found; None where there were no tables.
        now: The version that it is now.
    """

    found: str | None
    now: str


def upgrade_tables(url: str) -> UpgradeView:
    """Make the tables or bring them on.

    Raises:
        CommandFailed: If the URL is none of a store's.
        SchemaMismatch: If a newer release has upgraded the database.
    """
    with _engine(url, must_exist=False) as engine:
        found, now = upgrade(engine)
    return UpgradeView(found=found, now=now)


def look_at(url: str) -> TablesView:
    """The version and the sizes of the tables.

    Raises:
        CommandFailed: If there is no such database.
    """
    with _engine(url, must_exist=True) as engine:
        found = found_version(engine)
        sizes = table_sizes(engine) if found is not None else ()
    return TablesView(found=found, needed=known_versions()[-1], tables=sizes)


def check_tables(url: str) -> TablesView:
    """See that the tables are this release's.

    Raises:
        SchemaMismatch: If their version is another one.
        CommandFailed: If somebody has changed them by hand.
    """
    with _engine(url, must_exist=True) as engine:
        require_current(engine)
        if found := differences(engine):
            raise CommandFailed(
                ExitCode.CONFLICT,
                "the tables are not what the migrations made them:\n"
                + "\n".join(f"  {each}" for each in found),
                "somebody has changed them by hand: take that back, or restore a backup",
            )
    return look_at(url)


def compact_tables(url: str, *, ended_before_s: float, is_dry: bool) -> Compacted:
    """Remove what is not needed any more, in parts, so that servers go on meanwhile; answers how much it was.

    Args:
        url: The store's.
        ended_before_s: Of experiments that were over by then, single requests are forgotten.
        is_dry: Remove nothing, and answer how much it would be.

    Raises:
        CommandFailed: If there is no such database.
    """
    with existing_store(url) as store:
        if is_dry:
            return store.upkeep.removable(ended_before_s)
        parts = [store.upkeep.compact(ended_before_s)]
        while parts[-1].rows == CHUNK:
            parts.append(store.upkeep.compact(ended_before_s))
    return Compacted(
        deltas=sum(part.deltas for part in parts),
        units=sum(part.units for part in parts),
        pairs=sum(part.pairs for part in parts),
        feedback=sum(part.feedback for part in parts),
        waiting=sum(part.waiting for part in parts),
    )


def size_table(view: TablesView) -> Table:
    """The sizes as a table, the largest first."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("TABLE")
    drawn.add_column("ROWS", justify="right")
    drawn.add_column("KIB", justify="right")
    for size in view.tables:
        drawn.add_row(size.table, f"{size.rows:,}", f"{size.size_bytes / 1024:,.0f}")
    return drawn


@contextmanager
def _engine(url: str, *, must_exist: bool) -> Iterator[Engine]:
    path = sqlite_path(url)
    if must_exist and path is not None and not path.is_file():
        raise CommandFailed(
            ExitCode.NOT_FOUND, f"no database at {path}", "make one with `anabranch db upgrade`"
        )
    try:
        engine = new_engine(url)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise CommandFailed(ExitCode.BAD_INPUT, f"the store cannot be used: {error}") from error
    try:
        yield engine
    finally:
        engine.dispose()
