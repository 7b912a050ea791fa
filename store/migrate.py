"""Bring a database to the current tables, by Alembic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text

from anabranch.store.engine import READS
from anabranch.store.locks import Lock, hold
from anabranch.store.tables import METADATA
from anabranch.store.versions import MIGRATIONS, known_versions

# Alembic takes a third of the time of a command that only looks: it is imported where tables change.
if TYPE_CHECKING:
    from alembic.config import Config


class SchemaMismatch(Exception):
    """The database's tables are not those of this release; the message says what to do."""


def migration_config() -> Config:
    """Alembic's configuration for our migrations, without a file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def found_version(engine: Engine) -> str | None:
    """The version of the database's tables; None where there are none."""
    with engine.connect().execution_options(**{READS: True}) as connection:
        return _version(connection)


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Apply every migration that the database lacks, in one transaction; answers the versions before and after.

    Of several that upgrade one database at once, one does it, and the others find it done.

    Raises:
        SchemaMismatch: If a newer release has upgraded the database.
    """
    needed = known_versions()[-1]
    found = found_version(engine)
    if found == needed:
        return found, needed
    refuse_newer(found)
    from alembic import command

    config = migration_config()
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            # A migration of large tables may take longer than anybody else may wait for a lock.
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text("SET LOCAL statement_timeout = 0"))
        hold(connection, Lock.SCHEMA)
        found = _version(connection)
        refuse_newer(found)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return found, needed


def require_current(engine: Engine) -> None:
    """See that the database has the tables of this release.

    Raises:
        SchemaMismatch: If it has not.
    """
    found, needed = found_version(engine), known_versions()[-1]
    refuse_newer(found)
    if found != needed:
        raise SchemaMismatch(
            f"the database {'has no tables yet' if found is None else f'is at version {found}'}, this release needs {needed}: "
            "run `anabranch db upgrade`, or start a server of this release, which does it too"
        )


def differences(engine: Engine) -> list[str]:
    """What sets the database's tables apart from this release's; empty when nothing does."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return [str(each) for each in compare_metadata(context, METADATA)]


def refuse_newer(found: str | None) -> None:
    """See that no newer release than this one has upgraded the database.

    Raises:
        SchemaMismatch: If one has.
    """
    if found is not None and found not in known_versions():
        raise SchemaMismatch(
            f"the database is at version {found}, this release knows up to {known_versions()[-1]}: "
            "a newer release has upgraded it, use that one"
        )


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)
