"""The tables by their migrations, on both databases: what a database of each age is met with."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from anabranch.store.engine import MissingDriver, new_engine
from anabranch.store.migrate import (
    SchemaMismatch,
    found_version,
    migration_config,
    upgrade,
)
from anabranch.store.packing import pack
from anabranch.store.sql import Schema, open_store
from anabranch.store.tables import EVIDENCE, METADATA
from anabranch.store.versions import known_versions


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'deep' / 'new.db'}"
    empty: str = request.getfixturevalue("empty_postgres_url")
    return empty


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    made = new_engine(url)
    yield made
    made.dispose()


def write_version(engine: Engine, version: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})


def test_the_migrations_lead_to_exactly_the_tables_in_the_code(engine: Engine) -> None:
    upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
        names = set(inspect(connection).get_table_names())
    assert names == {*METADATA.tables, "alembic_version"}


def test_the_migrations_can_be_undone(engine: Engine) -> None:
    upgrade(engine)
    config = migration_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == ["alembic_version"]


def test_compressed_evidence_becomes_text_again_when_its_migration_is_undone(engine: Engine) -> None:
    upgrade(engine)
    text_before = '{"experiment":"exp","last":3}'
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO experiment (id, name, model, document, spec_version, salt, applied_s, first_delta, first_epoch, "
                "state_version, state) VALUES (1, 'exp', 'm', '', 1, '', 0, 0, 0, 0, '')"
            )
        )
        connection.execute(
            EVIDENCE.insert().values(
                experiment_id=1, spec_version=1, last=3, body="", packed=pack(text_before)
            )
        )
    config = migration_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0005")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT body FROM evidence")).scalars().all() == [text_before]


def test_there_is_one_line_of_migrations_and_its_files_are_named_by_their_versions() -> None:
    scripts = ScriptDirectory.from_config(migration_config())
    line = [script.revision for script in scripts.walk_revisions()]
    assert line[::-1] == known_versions()
    assert scripts.get_heads() == line[:1]


def test_upgrading_twice_changes_nothing_and_keeps_the_data(url: str) -> None:
    first = open_store(url)
    first.set_baseline("m", "base", 1.0)
    lane = first.next_lane()
    first.close()
    again = open_store(url)
    assert again.baseline("m") == "base"
    assert again.next_lane() == lane + 1
    again.close()


def test_of_several_that_open_an_empty_database_at_once_all_find_its_tables(url: str) -> None:
    start = threading.Barrier(3)
    opened: list[str | None] = []
    failures: list[Exception] = []

    def replica() -> None:
        mine = new_engine(url)
        start.wait()
        try:
            opened.append(upgrade(mine)[1])
        except Exception as failure:  # noqa: BLE001  # looked at below
            failures.append(failure)
        finally:
            mine.dispose()

    threads = [threading.Thread(target=replica) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert opened == [known_versions()[-1]] * 3


def test_a_database_of_a_newer_release_is_refused_and_left_alone(url: str, engine: Engine) -> None:
    open_store(url).close()
    write_version(engine, "9999")
    for schema in Schema:
        with pytest.raises(SchemaMismatch, match="at version 9999, this release knows up to"):
            open_store(url, schema=schema)
    assert found_version(engine) == "9999"


def test_tables_are_made_and_changed_only_where_that_was_asked_for(url: str, engine: Engine) -> None:
    with pytest.raises(
        SchemaMismatch, match=r"has no tables yet, this release needs .*: run `anabranch db upgrade`"
    ):
        open_store(url, schema=Schema.REQUIRE)
    assert found_version(engine) is None
    open_store(url).close()
    open_store(url, schema=Schema.REQUIRE).close()


def test_a_driver_that_is_not_installed_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'psycopg'")

    monkeypatch.setattr("anabranch.store.engine.create_engine", refuse)
    with pytest.raises(MissingDriver, match=r"pip install 'anabranch\[postgres\]'"):
        new_engine("postgresql://ada@db/anabranch")


@pytest.mark.parametrize(
    "given", ["postgresql://ada@db/x", "postgresql+psycopg://ada@db/x?connect_timeout=60"]
)
def test_postgres_urls_name_the_driver_that_we_ship_and_may_overrule_our_timeouts(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, object] = {}
    make: Callable[..., Engine] = new_engine.__globals__["create_engine"]

    def record(url: object, **options: object) -> Engine:
        seen.update(url=str(url), **options)
        return make(url, **options)

    monkeypatch.setattr("anabranch.store.engine.create_engine", record)
    new_engine(given)
    assert str(seen["url"]).startswith("postgresql+psycopg://")
    arguments = seen["connect_args"]
    assert isinstance(arguments, dict)
    assert ("connect_timeout" in arguments) is ("connect_timeout" not in given)
