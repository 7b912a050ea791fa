from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect

from anabranch.store.migrate import migration_config, upgrade
from anabranch.store.sql import open_store
from anabranch.store.tables import METADATA


def test_the_migrations_lead_to_exactly_the_tables_in_the_code(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'new.db'}")
    upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
        names = set(inspect(connection).get_table_names())
    assert names == {*METADATA.tables, "alembic_version"}
    engine.dispose()


def test_there_is_one_line_of_migrations() -> None:
    assert len(ScriptDirectory.from_config(migration_config()).get_heads()) == 1


def test_upgrading_twice_changes_nothing_and_keeps_the_data(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'deep' / 'kept.db'}"
    first = open_store(url)
    first.set_baseline("m", "base", 1.0)
    lane = first.next_lane()
    first.close()
    again = open_store(url)
    assert again.baseline("m") == "base"
    assert again.next_lane() == lane + 1
    again.close()
