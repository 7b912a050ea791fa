import fcntl
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anabranch.cli.surgery import (
    CHECKS,
    Finding,
    Grade,
    Surgery,
    check_clock,
    check_database,
    check_port,
    check_state,
    examine,
)

Begin = Callable[..., None]
Shell = Any


@pytest.fixture
def surgery(tmp_path: Path) -> Surgery:
    return Surgery(
        host="127.0.0.1",
        port=free_port(),
        state=tmp_path,
        models=tmp_path / "models",
        store=f"sqlite:///{tmp_path / 'anabranch.db'}",
        now=2_000_000_000.0,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_every_check_finds_something_and_a_fresh_machine_is_well(surgery: Surgery) -> None:
    findings = examine(surgery)
    assert len(findings) == len(CHECKS)
    assert [finding for finding in findings if finding.grade is Grade.BAD] == []
    poor = [finding for finding in findings if finding.grade is Grade.POOR]
    assert all(finding.advice for finding in poor)
    assert "models" in {finding.check for finding in poor}


def test_a_taken_port_says_how_to_find_who_has_it(surgery: Surgery) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", surgery.port))
        other.listen()
        found = check_port(surgery)
        assert found.grade is Grade.BAD
        assert f"sport = :{surgery.port}" in found.advice


def test_a_port_that_our_server_has_is_well(surgery: Surgery, tmp_path: Path) -> None:
    with socket.socket() as other, (tmp_path / "server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other.bind(("127.0.0.1", surgery.port))
        other.listen()
        assert check_port(surgery).grade is Grade.GOOD


def test_a_damaged_database_is_bad(surgery: Surgery, tmp_path: Path) -> None:
    (tmp_path / "anabranch.db").write_bytes(b"SQLite format 3\0" + b"\1" * 4_000)
    assert check_database(surgery).grade is Grade.BAD


def test_a_full_disk_is_bad(surgery: Surgery, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1 << 20))
    found = check_state(surgery)
    assert found.grade is Grade.BAD
    assert "free some" in found.advice


def test_a_clock_behind_the_decisions_is_bad(shell: Shell, live: Begin, surgery: Surgery) -> None:
    live(ticks=20)
    from dataclasses import replace

    store = shell.store()
    kept = store.experiment("tiny")
    from anabranch.bandit.evidence import Evidence

    store.save(
        "tiny",
        expected=kept.state_version,
        state=replace(kept.state, epoch_started_s=2_000_000_500.0),
        evidence=Evidence(experiment="tiny"),
        decision=None,
    )
    store.close()
    found = check_clock(replace(surgery, store=shell.url))
    assert found.grade is Grade.BAD
    assert "8m20s in the future" in found.found
    assert check_clock(replace(surgery, now=5.0)).found == "the clock was never set"


def test_a_check_that_breaks_is_a_finding(surgery: Surgery, monkeypatch: pytest.MonkeyPatch) -> None:
    from anabranch.cli import surgery as module

    def check_luck(_: Surgery) -> Finding:
        raise ZeroDivisionError("none left")

    monkeypatch.setattr(module, "CHECKS", (check_luck,))
    (found,) = examine(surgery)
    assert (found.check, found.grade) == ("luck", Grade.BAD)


def test_the_verb_prints_data_and_its_exit_status_says_what_is_wrong(shell: Shell, tmp_path: Path) -> None:
    arguments = ("doctor", "--state", str(tmp_path), "--models", str(tmp_path / "models"), "-o", "json")
    ran = shell(*arguments, "--port", str(free_port()))
    listed = json.loads(ran.out)
    assert {each["check"] for each in listed} >= {"installation", "port", "database", "clock"}
    assert ran.code == (1 if any(each["grade"] == "bad" for each in listed) else 0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        ran = shell(*arguments[:-2], "--port", str(other.getsockname()[1]))
        assert ran.code == 1
        assert "✗ port" in ran.out
