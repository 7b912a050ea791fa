"""Where a store's file is made, and for whom."""

import os
import stat
from pathlib import Path

from anabranch.store.sql import open_store


def test_a_new_database_is_for_its_user_only(tmp_path: Path) -> None:
    path = tmp_path / "state" / "a.db"
    former = os.umask(0o022)
    try:
        store = open_store(f"sqlite:///{path}")
        made = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        store.close()
    finally:
        os.umask(former)
    assert made["a.db"] == 0o600
    assert set(made.values()) == {0o600}, f"what is beside it too: {made}"


def test_a_database_that_is_there_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.touch()
    path.chmod(0o660)
    open_store(f"sqlite:///{path}").close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
