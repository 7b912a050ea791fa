import os
import stat
from pathlib import Path

import pytest

from anabranch.router.settings import (
    Clients,
    InvalidSettings,
    Settings,
    StateInUse,
    assignment_key,
    hold_state,
    settings_from,
    settings_text,
)
from anabranch.wire.choice import WireKind


def test_settings_reach_a_child_process_unchanged(tmp_path: Path) -> None:
    settings = Settings(
        models=tmp_path / "models",
        state=tmp_path,
        baselines={"m": "base"},
        port=0,
        workers=2,
        wire=WireKind.GRPCIO,
        tick_s=0.25,
    )
    assert settings_from(settings_text(settings)) == settings


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(InvalidSettings) as caught:
        Settings(
            models=Path(),
            workers=0,
            threads=-1,
            port=70_000,
            tick_s=60.0,
            host="0.0.0.0",
            max_message_bytes=0,
            worker_silence_s=1.0,
        )
    said = str(caught.value).splitlines()
    assert len(said) == 8
    for part in (
        "workers is 0, must be at least 1",
        "threads is -1, must be at least 0",
        "port is 70000, must be from 0 to 65535",
        "tick_s is 60.0 and snapshot_max_age_s 60.0",
        "host is '0.0.0.0': beyond loopback only TLS is spoken, to callers who prove who they are: give --tls-cert",
        "max_message_bytes is 0, must be from 1 to 2147483647",
        "worker_silence_s is 1, must be at least 2",
    ):
        assert any(line.startswith(part) for line in said), part


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    path = tmp_path / "some.pem"
    path.write_text("")
    return path


def test_a_plain_port_has_no_tls_and_a_secured_one_its_files(pem: Path) -> None:
    assert Settings(models=Path()).tls is None
    tls = Settings(models=Path(), tls_certificate=pem, tls_key=pem).tls
    assert tls is not None
    assert (tls.certificate_file, tls.key_file, tls.client_ca_file) == (pem, pem, None)


@pytest.mark.parametrize("name", ["host", "control_host"])
def test_beyond_loopback_only_tls_is_spoken(pem: Path, name: str) -> None:
    beyond = {name: "0.0.0.0"}
    Settings(models=Path(), tls_certificate=pem, tls_key=pem, **beyond)  # type: ignore[arg-type]  # names from the table
    with pytest.raises(InvalidSettings, match=f"{name} is '0.0.0.0': beyond loopback only TLS is spoken"):
        Settings(models=Path(), **beyond)  # type: ignore[arg-type]  # names from the table


def test_beyond_loopback_everybody_has_to_prove_who_they_are(pem: Path) -> None:
    assert not Settings(models=Path()).must_prove
    assert Settings(models=Path(), clients=Clients.KNOWN).must_prove
    assert Settings(models=Path(), host="0.0.0.0", tls_certificate=pem, tls_key=pem).must_prove


def test_identities_need_certificates(pem: Path) -> None:
    with pytest.raises(InvalidSettings, match="give tls_client_ca"):
        Settings(models=Path(), identities=pem)


def test_limits_of_the_wire_are_settings_by_their_names() -> None:
    given = Settings(models=Path(), wire_limits={"max_connections": 7.0, "idle_s": 1.5}).limits
    assert (given.max_connections, given.idle_s) == (7, 1.5)
    with pytest.raises(
        InvalidSettings, match="limit 'max_conections' is unknown, must be one of max_buffered_bytes"
    ):
        Settings(models=Path(), wire_limits={"max_conections": 7.0})
    with pytest.raises(InvalidSettings, match="max_connections is 0"):
        Settings(models=Path(), wire_limits={"max_connections": 0.0})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["tls_certificate"], "tls_certificate and tls_key go together"),
        (["tls_key"], "tls_certificate and tls_key go together"),
        (["tls_client_ca"], "tls_client_ca is given without a certificate of the port's own"),
    ],
)
def test_files_of_tls_that_do_not_make_a_port_are_refused(pem: Path, given: list[str], said: str) -> None:
    with pytest.raises(InvalidSettings, match=said):
        Settings(models=Path(), **dict.fromkeys(given, pem))  # type: ignore[arg-type]  # names from the table


def test_a_file_of_tls_that_is_not_there_is_named(pem: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"tls_key is .*gone.pem, which is no file"):
        Settings(models=Path(), tls_certificate=pem, tls_key=tmp_path / "gone.pem")


def test_a_large_message_finds_room_to_wait() -> None:
    assert Settings(models=Path()).limits.max_message_bytes == 64 << 20
    limits = Settings(models=Path(), max_message_bytes=1 << 30).limits
    assert (limits.max_message_bytes, limits.max_buffered_bytes) == (1 << 30, 4 << 30)


def test_files_lie_in_the_state_folder_unless_a_store_is_given(tmp_path: Path) -> None:
    settings = Settings(models=Path(), state=tmp_path)
    assert settings.store_url == f"sqlite:///{tmp_path}/anabranch.db"
    assert {settings.journal.parent, settings.socket.parent, settings.key_file.parent} == {tmp_path}
    assert Settings(models=Path(), store="postgresql://db/x").store_url == "postgresql://db/x"


def test_model_threads_are_a_fair_share_of_the_cores_and_at_least_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert Settings(models=Path(), workers=3).model_threads == 2
    assert Settings(models=Path(), workers=20).model_threads == 1
    assert Settings(models=Path(), threads=5).model_threads == 5


def test_the_key_is_made_once_and_only_for_this_user(tmp_path: Path) -> None:
    settings = Settings(models=Path(), state=tmp_path)
    key = assignment_key(settings)
    assert len(key) == 32
    assert assignment_key(settings) == key
    assert stat.S_IMODE(settings.key_file.stat().st_mode) == 0o600


def test_a_state_folder_has_one_server_at_a_time(tmp_path: Path) -> None:
    settings = Settings(models=tmp_path, state=tmp_path)
    held = hold_state(settings)
    with pytest.raises(StateInUse, match=f"process id {os.getpid()}: stop it, or give another --state"):
        hold_state(settings)
    os.close(held)
    os.close(hold_state(settings))
