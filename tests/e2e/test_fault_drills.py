"""Seeded drills of bench/faults: real processes killed under load; nothing may be lost, counted twice or wrong."""

import json
import subprocess
import sys
from typing import Any

import pytest


def drills(*arguments: str, within_s: float) -> tuple[int, list[dict[str, Any]]]:
    """Run them in a process of their own, which forks; answers its status, and what each drill and all of them say."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.faults", *arguments],
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def assert_nothing_is_lost(status: int, said: list[dict[str, Any]]) -> None:
    *each, total = said
    assert [result["problems"] for result in each] == [[]] * len(each)
    assert (total["lost"], total["duplicated"]) == (0, 0)
    assert total["answered"] > 1000 * len(each)
    assert total["counted"] == total["recorded"] >= total["answered"]
    assert {result["phase"] for result in each} <= {"Promoted", "RolledBack", "Inconclusive"}
    assert status == 0


@pytest.mark.timeout(600)
def test_nothing_is_lost_or_counted_twice_whatever_is_killed() -> None:
    status, said = drills("--faults", "110", "--drills", "2", "--seed", "11", within_s=550)
    assert said[-1]["faults"] == 220
    assert_nothing_is_lost(status, said)


@pytest.mark.postgres
@pytest.mark.timeout(600)
def test_nothing_is_lost_or_counted_twice_by_two_servers_over_one_database_that_is_killed_too() -> None:
    status, said = drills(
        "--store", "postgres", "--faults", "60", "--drills", "2", "--seed", "21", within_s=550
    )
    assert said[-1]["faults"] == 120
    assert {"database killed", "leading controller stopped for longer than its lease"} <= said[-1].keys()
    assert_nothing_is_lost(status, said)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nothing_is_lost_in_two_thousand_faults() -> None:
    status, said = drills("--faults", "200", "--drills", "10", "--seed", "101", within_s=3500)
    assert_nothing_is_lost(status, said)


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.timeout(3600)
def test_nothing_is_lost_in_a_thousand_faults_of_servers_that_share_a_database() -> None:
    status, said = drills(
        "--store", "postgres", "--faults", "100", "--drills", "10", "--seed", "201", within_s=3500
    )
    assert_nothing_is_lost(status, said)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("store", "faults"),
    [
        ("sqlite", ["database locked"]),
        pytest.param("postgres", ["database locked", "database killed"], marks=pytest.mark.postgres),
    ],
)
def test_a_database_that_is_locked_or_away_for_half_a_minute_costs_nothing(
    store: str, faults: list[str]
) -> None:
    options = ("--store", store, "--faults", "20", "--drills", "1", "--seed", "301", "--lock-s", "30")
    status, said = drills(*options, "--only", *faults, within_s=1150)
    assert said[0]["failed_ticks"]["OperationalError"] > 0
    assert_nothing_is_lost(status, said)
