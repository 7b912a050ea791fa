"""`token`, `login`, `whoami` and `--server`, as typed."""

import asyncio
import json
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anabranch.cli import servers
from anabranch.router.control.port import ControlPort, PortSettings
from anabranch.router.control.verbs import Verbs
from anabranch.store.sql import open_store
from anabranch.store.tokens import looks_like_token

Shell = Any
PATIENCE_S = 30.0


@pytest.fixture(autouse=True)
def logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's own logins."""
    path = tmp_path / "config" / "logins.json"
    monkeypatch.setenv("ANABRANCH_LOGINS", str(path))
    for name in ("TOKEN", "TOKEN_FILE", "TLS_CA", "TLS_CERT", "TLS_KEY", "SERVER"):
        monkeypatch.delenv(f"ANABRANCH_{name}", raising=False)
    return path


@pytest.fixture
def server(shell: Shell) -> Iterator[Callable[[], str]]:
    """Open a control port on the shell's database."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    begun: list[tuple[ControlPort, Any]] = []

    async def open_port(store: Any) -> str:
        verbs = Verbs(store, served=lambda: None, wall_clock=shell.clock.now, version="0")
        port = ControlPort(PortSettings(), store, verbs, wall_clock=shell.clock.now)
        begun.append((port, store))
        return f"127.0.0.1:{await port.open()}"

    def begin() -> str:
        shell.store().close()
        opened = asyncio.run_coroutine_threadsafe(open_port(open_store(shell.url)), loop)
        return opened.result(PATIENCE_S)

    yield begin
    for port, store in begun:
        asyncio.run_coroutine_threadsafe(port.close(), loop).result(PATIENCE_S)
        store.close()
    loop.call_soon_threadsafe(loop.stop)
    thread.join(PATIENCE_S)
    loop.close()


def make(shell: Shell, *arguments: str) -> str:
    ran = shell("token", "create", *arguments)
    assert ran.code == 0, ran.err
    return str(ran.out).strip()


def test_a_token_is_shown_once_and_listed_without_its_secret(shell: Shell) -> None:
    text = make(shell, "ci", "--role", "operator", "--model", "m")
    assert looks_like_token(text)
    listed = shell("token", "list", "-o", "json")
    (row,) = json.loads(listed.out)
    assert (row["name"], row["role"], row["models"], row["standing"]) == ("ci", "operator", ["m"], "live")
    for ran in (listed, shell("token", "list"), shell("events")):
        assert text.split("_", 2)[2][:16] not in ran.out + ran.err
    assert text.encode() not in shell.database.read_bytes()
    assert "token create" in shell("events").out


def test_a_token_goes_to_a_file_that_only_its_user_reads(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "ci.token"
    ran = shell("token", "create", "ci", "--role", "viewer", "--out", str(path))
    assert (ran.code, ran.out) == (0, "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert looks_like_token(path.read_text().strip())


def test_no_token_is_made_that_has_no_place(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "ci.token"
    path.write_text("something else")
    ran = shell("token", "create", "ci", "--role", "viewer", "--out", str(path))
    assert ran.code == 1
    assert "name a file that is not there yet" in ran.err
    assert path.read_text() == "something else"
    assert json.loads(shell("token", "list", "-o", "json").out) == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["ci", "--role", "operater"], 2, "did you mean operator?"),
        (["Ci", "--role", "viewer"], 2, "token name 'Ci' must be"),
        (["ci", "--role", "viewer", "--expires", "soon"], 2, "'soon' is not a duration"),
        (["ci", "--role", "viewer", "--expires", "0s"], 2, "longer life"),
        (["ci", "--role", "viewer", "--store", "127.0.0.1:8002"], 2, "run this where the store is"),
    ],
)
def test_what_makes_no_token_is_refused_in_words(
    shell: Shell, arguments: list[str], code: int, said: str
) -> None:
    ran = shell("token", "create", *arguments)
    assert ran.code == code
    assert said in ran.err


def test_a_name_has_one_live_token_and_is_rotated_with_an_overlap(shell: Shell) -> None:
    first = make(shell, "ci", "--role", "operator", "--model", "m")
    again = shell("token", "create", "ci", "--role", "admin")
    assert again.code == 4
    assert "token rotate ci" in again.err
    rotated = shell("token", "rotate", "ci", "--overlap", "10m")
    second = rotated.out.strip()
    assert looks_like_token(second)
    assert second != first
    rows = json.loads(shell("token", "list", "-o", "json").out)
    assert [(row["role"], row["models"], row["standing"]) for row in rows] == [
        ("operator", ["m"], "live")
    ] * 2
    shell.clock.wait(601.0)
    rows = json.loads(shell("token", "list", "-o", "json").out)
    assert sorted(row["standing"] for row in rows) == ["expired", "live"]


def test_a_revoked_token_is_told_by_name_or_id_and_stays_listed(shell: Shell) -> None:
    make(shell, "ci", "--role", "viewer")
    assert shell("token", "revoke", "cj").code == 3
    assert "did you mean ci?" in shell("token", "revoke", "cj").err
    (row,) = json.loads(shell("token", "list", "-o", "json").out)
    assert shell("token", "revoke", row["id"]).code == 0
    (row,) = json.loads(shell("token", "list", "-o", "json").out)
    assert row["standing"] == "revoked"
    assert "no live token" in shell("token", "revoke", "ci").err


def test_the_verbs_work_the_same_over_a_server(
    shell: Shell, server: Callable[[], str], live: Callable[..., None]
) -> None:
    live(5)
    address = server()
    for verb in (
        ["get"],
        ["get", "tiny"],
        ["get", "tiny", "-o", "json"],
        ["describe", "tiny"],
        ["history", "tiny"],
        ["history", "tiny", "-o", "json"],
        ["events"],
        ["verify", "tiny"],
        ["report", "tiny"],
        ["get", "nothing"],
    ):
        near = shell(*verb)
        far = shell(*verb, "--server", address)
        assert (far.code, far.out, far.err) == (near.code, near.out, near.err), verb


def test_documents_are_applied_and_compared_over_a_server(
    shell: Shell, server: Callable[[], str], document_file: Path
) -> None:
    address = server()
    apply = ("apply", "-f", str(document_file), "--server", address)
    assert shell(*apply, "--dry-run").out == "experiment tiny created (dry run)\n"
    assert shell("get", "--server", address).out == ""
    assert shell(*apply).out == "experiment tiny created\n"
    assert shell(*apply).out == "experiment tiny unchanged\n"
    assert shell("diff", "-f", str(document_file), "--server", address).out == ""
    asked = shell("abort", "tiny", "--server", address)
    assert asked.out == "experiment tiny: abort requested\n"
    assert "anonymous ipv4:127.0.0.1" in shell("events", "tiny").out


def test_a_login_is_tried_kept_for_its_user_alone_and_used(
    shell: Shell, server: Callable[[], str], logins: Path, tmp_path: Path
) -> None:
    text = make(shell, "ci", "--role", "viewer", "--expires", "1h")
    address = server()
    refused = shell("get", "--server", address)
    assert refused.code == 6
    assert "anabranch login" in refused.err
    wrong = shell("login", address, typed=text[:-1] + "\n")
    assert wrong.code == 6
    assert not logins.exists()
    right = shell("login", address, typed=text + "\n")
    assert right.out == f"logged in to {address} as token:ci, viewer\n"
    assert stat.S_IMODE(logins.stat().st_mode) == 0o600
    assert text not in right.out + right.err
    assert shell("get", "--server", address).code == 0
    assert (
        shell("whoami", "--server", f"grpc://{address}").out == "token:ci, viewer of every model: may read\n"
    )
    forbidden = shell("abort", "x", "--server", address)
    assert forbidden.code in (3, 6)
    logins.chmod(0o644)
    open_to_others = shell("get", "--server", address)
    assert open_to_others.code == 2
    assert "chmod 600" in open_to_others.err
    logins.chmod(0o600)
    assert shell("logout", address).code == 0
    assert shell("get", "--server", address).code == 6


def test_a_token_of_the_environment_goes_before_a_login(
    shell: Shell, server: Callable[[], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    viewer = make(shell, "viewer", "--role", "viewer")
    operator = make(shell, "operator", "--role", "operator")
    address = server()
    assert shell("login", address, typed=viewer + "\n").code == 0
    monkeypatch.setenv("ANABRANCH_TOKEN", operator)
    assert shell("whoami", "--server", address).out.startswith("token:operator, operator")
    monkeypatch.delenv("ANABRANCH_TOKEN")
    path = tmp_path / "token"
    path.write_text(operator)
    monkeypatch.setenv("ANABRANCH_TOKEN_FILE", str(path))
    assert shell("whoami", "--server", address).out.startswith("token:operator, operator")


def test_a_server_that_is_not_there_is_named_with_what_to_do(shell: Shell) -> None:
    ran = shell("get", "--server", "127.0.0.1:1")
    assert ran.code == 1
    assert "no server answers at 127.0.0.1:1" in ran.err
    assert "anabranch serve --control-port" in ran.err


def test_a_token_is_not_sent_in_plain_text_to_another_machine(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANABRANCH_TOKEN", "anabranch_x")
    ran = shell("get", "--server", "grpc://router.example:8002")
    assert ran.code == 2
    assert "in plain text" in ran.err


def test_no_verb_takes_a_token_as_an_argument(shell: Shell) -> None:
    for verb in (["login"], ["whoami"], ["get"], ["apply"], ["token", "create"]):
        text = shell(*verb, "--help").out
        assert "--token " not in text
        assert "--password" not in text


def test_a_damaged_file_of_logins_is_named(shell: Shell, logins: Path) -> None:
    logins.parent.mkdir(parents=True)
    logins.write_text("{")
    ran = shell("get", "--server", "127.0.0.1:1")
    assert ran.code == 2
    assert str(logins) in ran.err


def test_one_login_is_for_a_server_however_it_is_written() -> None:
    assert {servers.place(text) for text in ("h:1", "grpcs://h:1", "grpc://h:1/")} == {"h:1"}
