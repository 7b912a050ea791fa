"""A database file as those see it who only look."""

import json
import sqlite3
from pathlib import Path

import pytest

from anabranch.store import codec, plain
from anabranch.store.sql import open_store
from anabranch.store.sqlite_reader import NotReadable, SqliteReader

STATES = Path(__file__).parents[1] / "cli" / "states"


@pytest.mark.parametrize("name", ["mirroring", "bandit", "promoted"])
def test_decisions_are_built_as_they_are_read_with_every_check(name: str) -> None:
    bodies = json.loads((STATES / f"{name}.json").read_text(encoding="utf-8"))["decisions"]
    assert bodies
    for body in bodies:
        text = json.dumps(body)
        assert plain.decision_from(text) == codec.decision_from(text)
        assert codec.decision_text(plain.decision_from(text)) == codec.decision_text(
            codec.decision_from(text)
        )


@pytest.mark.parametrize(
    "damage", [{"phase": "Nowhere"}, {"number": "one"}, {"something": 1}, {"actions": [{"change": "step"}]}]
)
def test_what_is_no_decision_is_refused(damage: dict[str, object]) -> None:
    body = json.loads((STATES / "bandit.json").read_text(encoding="utf-8"))["decisions"][0]
    with pytest.raises((ValueError, KeyError, TypeError)):
        plain.decision_from(json.dumps({**body, **damage}))


def test_a_file_of_another_release_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    open_store(f"sqlite:///{path}").close()
    SqliteReader(path).close()
    with sqlite3.connect(path) as file:
        file.execute("UPDATE alembic_version SET version_num = '9999'")
    file.close()
    with pytest.raises(NotReadable, match="another release"):
        SqliteReader(path)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_text("something else, and long enough to have a header of SQLite's length" * 20)
    with pytest.raises(NotReadable):
        SqliteReader(path)
    (tmp_path / "empty.db").touch()
    with pytest.raises(NotReadable):
        SqliteReader(tmp_path / "empty.db")


def test_reading_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    open_store(f"sqlite:///{path}").close()
    reader = SqliteReader(path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._file.execute("DELETE FROM experiment")
    reader.close()
