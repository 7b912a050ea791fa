import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anabranch.cli.liveness import is_served, standstill

Shell = Any


def test_without_a_lock_file_nobody_knows(tmp_path: Path) -> None:
    assert is_served(f"sqlite:///{tmp_path}/anabranch.db") is None
    assert is_served("postgresql://user@host/name") is None


def test_a_server_is_seen_by_the_lock_it_holds(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/anabranch.db"
    with (tmp_path / "server.lock").open("w") as lock:
        assert is_served(url) is False
        assert standstill(url).endswith(f"start it with `anabranch serve --store {url}`")
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert is_served(url) is True
        assert standstill(url) == ""


def test_a_look_says_that_nothing_will_move(shell: Shell, live: Callable[..., None]) -> None:
    live(ticks=3)
    (shell.database.parent / "server.lock").touch()
    for verb in ("get", "describe", "pause"):
        ran = shell(verb, "tiny")
        assert ran.code == 0
        assert "no server runs on this store" in ran.err
        assert "no server" not in ran.out


def test_the_lock_is_the_servers(tmp_path: Path) -> None:
    from anabranch.cli import liveness
    from anabranch.router.settings import Settings

    settings = Settings(models=tmp_path, state=tmp_path)
    assert settings.lock_file.name == liveness._LOCK
