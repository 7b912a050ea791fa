"""`db`: what operators see and do about the tables."""

import json
import sqlite3
from typing import Any

from anabranch.store.versions import known_versions

Shell = Any
NEEDED = known_versions()[-1]


def change(shell: Shell, statement: str) -> None:
    connection = sqlite3.connect(shell.database)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_an_upgrade_makes_the_tables_and_a_second_one_finds_them(shell: Shell) -> None:
    assert shell("db", "upgrade").out == f"upgraded from nothing to version {NEEDED}\n"
    assert shell("db", "upgrade").out == f"at version {NEEDED}: nothing to do\n"
    assert shell("db", "check").out == f"the tables are those of version {NEEDED}\n"


def test_the_version_and_the_sizes_of_the_tables_are_shown(shell: Shell, live: Any) -> None:
    live(ticks=5)
    lines = shell("db", "current").out.splitlines()
    assert lines[0] == f"tables at version {NEEDED}, this release needs {NEEDED}"
    assert lines[1].split() == ["TABLE", "ROWS", "KIB"]
    view = json.loads(shell("db", "current", "-o", "json").out)
    sizes = {row["table"]: row for row in view["tables"]}
    assert sizes["experiment"]["rows"] == 1
    assert sizes["evidence"]["rows"] > 0
    assert all(row["size_bytes"] > 0 for row in view["tables"])


def test_looking_creates_nothing(shell: Shell) -> None:
    for verb in ("current", "check"):
        ran = shell("db", verb)
        assert ran.code == 3
        assert "no database at" in ran.err
    assert not shell.database.exists()


def test_other_versions_are_refused_with_what_to_do(shell: Shell) -> None:
    shell.store().close()
    change(shell, "UPDATE alembic_version SET version_num = '9999'")
    for verb in (("db", "check"), ("db", "upgrade"), ("get",)):
        ran = shell(*verb)
        assert ran.code == 4
        assert "a newer release has upgraded it" in ran.err
    assert shell("db", "current").out.startswith("tables at version 9999")
    change(shell, "UPDATE alembic_version SET version_num = '0001'")
    ran = shell("get")
    assert ran.code == 4
    assert "run `anabranch db upgrade`" in ran.err


def test_tables_that_were_changed_by_hand_are_told(shell: Shell) -> None:
    shell.store().close()
    change(shell, "CREATE TABLE notes (words TEXT)")
    ran = shell("db", "check")
    assert ran.code == 4
    assert "notes" in ran.err


def test_what_is_no_store_is_refused(shell: Shell) -> None:
    ran = shell("db", "current", "--store", "mysql://ada@db/x")
    assert ran.code == 2
    assert "is not a store URL" in ran.err


def test_what_is_not_needed_any_more_is_removed_and_decisions_still_verify(shell: Shell, live: Any) -> None:
    live()
    store = shell.store()
    kept = store.experiment("tiny")
    for _ in range(3):
        with store.ingestion() as ingestion:
            ingestion.add_delta(kept.id, [], [])
    store.close()
    folded = json.loads(shell("db", "compact", "--dry-run", "-o", "json").out)
    assert folded == {"deltas": 2, "units": 0, "pairs": 0, "feedback": 0, "waiting": 0}
    assert (
        shell("db", "compact").out
        == "removed 2 deltas, 0 units, 0 pairs, 0 feedback, 0 batches that wait for labels\n"
    )
    assert (
        shell("db", "compact").out
        == "removed 0 deltas, 0 units, 0 pairs, 0 feedback, 0 batches that wait for labels\n"
    )
    assert shell("verify", "tiny").code == 0
