"""Every command line of `deploy/` is one that this release understands, and opens nothing unprotected."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from anabranch.router.settings import Settings

Parse = Callable[[Sequence[str]], dict[str, Any]]
LOOPBACK = "127.0.0.1"


def test_every_command_line_is_understood(command_lines: dict[str, list[str]], parse_command: Parse) -> None:
    assert {
        "compose router-1",
        "compose router-2",
        "compose controller",
        "compose migrate",
        "kubernetes anabranch-router",
        "kubernetes anabranch-controller",
        "kubernetes anabranch-migrate",
        "anabranch.service",
        "anabranch-controller.service",
    } == command_lines.keys()
    for arguments in command_lines.values():
        parse_command(arguments)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(["serve", "--no-such"], "--no-such"), (["serve", "--port=many"], "valid int"), (["sreve"], "no verb")],
)
def test_a_command_line_that_is_wrong_is_found(wrong: list[str], said: str, parse_command: Parse) -> None:
    with pytest.raises(Exception, match=said):
        parse_command(wrong)


def test_a_server_beyond_loopback_has_tls_and_the_key_of_its_replicas(
    command_lines: dict[str, list[str]], parse_command: Parse
) -> None:
    servers = {where: parse_command(line) for where, line in command_lines.items() if line[0] == "serve"}
    open_ones = {where for where, given in servers.items() if given["host"] != LOOPBACK}
    assert open_ones == {"compose router-1", "compose router-2", "kubernetes anabranch-router"}
    for where in open_ones:
        given = servers[where]
        assert given["tls_cert"], where
        assert given["tls_key"], where
        assert given["assignment_key"], where
        assert given["controller"] == "elsewhere", where
        assert Path(given["state"]) == Path("/var/lib/anabranch"), where


def test_routers_are_started_alike_everywhere(
    command_lines: dict[str, list[str]], parse_command: Parse
) -> None:
    first = parse_command(command_lines["compose router-1"])
    assert first == parse_command(command_lines["compose router-2"])
    other = parse_command(command_lines["kubernetes anabranch-router"])
    for port in ("port", "control_port", "metrics_port"):
        assert first[port] == other[port]


def test_no_secret_is_on_a_command_line(command_lines: dict[str, list[str]]) -> None:
    for where, line in command_lines.items():
        assert not [part for part in line if "password" in part or "://" in part], where


def test_what_ends_a_server_waits_for_its_drain(
    compose: dict[str, Any], base: list[dict[str, Any]], units: dict[str, list[tuple[str, str]]]
) -> None:
    # Workers that do not end are killed 5 s after their drain; then the journal is read to its end.
    drain_s: Any = next(field.default for field in fields(Settings) if field.name == "drain_s")
    least_s: float = drain_s + 5.0 + 20.0
    for router in ("router-1", "router-2"):
        assert float(compose["services"][router]["stop_grace_period"].removesuffix("s")) >= least_s
    (template,) = (each["spec"]["template"]["spec"] for each in base if each["kind"] == "StatefulSet")
    (container,) = template["containers"]
    before_s = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert template["terminationGracePeriodSeconds"] - before_s >= least_s
    assert float(dict(units["anabranch.service"])["TimeoutStopSec"]) >= least_s
