"""Where a server is, and what never leaves in plain text."""

from pathlib import Path

import pytest

from anabranch.client.target import (
    BadTarget,
    Credentials,
    Target,
    is_target,
    parse_target,
    token_from_environment,
)

TOKEN = "anabranch_secret"


@pytest.mark.parametrize(
    ("text", "host", "port", "is_secure"),
    [
        ("127.0.0.1:8002", "127.0.0.1", 8002, False),
        ("localhost:1", "localhost", 1, False),
        ("[::1]:8002", "::1", 8002, False),
        ("grpcs://127.0.0.1:8002", "127.0.0.1", 8002, True),
        ("grpc://router.example:8002/", "router.example", 8002, False),
        ("router.example:8002", "router.example", 8002, True),
        ("[2001:db8::1]:443", "2001:db8::1", 443, True),
    ],
)
def test_an_address_says_where_and_how(text: str, host: str, port: int, is_secure: bool) -> None:
    target = parse_target(text)
    assert target == Target(host=host, port=port, is_secure=is_secure)
    assert parse_target(target.address).port == port


@pytest.mark.parametrize(
    "text",
    ["", "localhost", ":8002", "host:0", "host:65536", "http://host:1", "sqlite:///a:1", "a b:1", "host:1/x"],
)
def test_what_is_no_address_is_refused_in_words(text: str) -> None:
    with pytest.raises(BadTarget, match="must be HOST:PORT"):
        parse_target(text)


def test_this_machine_is_spoken_to_by_tls_where_an_authority_is_given() -> None:
    assert parse_target("127.0.0.1:1", Credentials(ca_file=Path("ca.pem"))).is_secure


def test_a_token_never_leaves_in_plain_text() -> None:
    credentials = Credentials(token=TOKEN)
    with pytest.raises(BadTarget, match="in plain text") as refused:
        parse_target("grpc://router.example:8002", credentials)
    assert TOKEN not in str(refused.value)
    assert parse_target("router.example:8002", credentials).is_secure
    assert not parse_target("127.0.0.1:8002", credentials).is_secure


def test_a_secret_is_not_shown() -> None:
    assert TOKEN not in repr(Credentials(token=TOKEN))


def test_a_store_is_no_server() -> None:
    assert is_target("localhost:8002")
    assert not any(map(is_target, ["sqlite:///.state/anabranch.db", "postgresql://u@h:5432/db", "file.db"]))


def test_a_token_comes_from_the_environment_or_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ANABRANCH_TOKEN", raising=False)
    monkeypatch.delenv("ANABRANCH_TOKEN_FILE", raising=False)
    assert token_from_environment() is None
    path = tmp_path / "token"
    path.write_text("from-file\n")
    monkeypatch.setenv("ANABRANCH_TOKEN_FILE", str(path))
    assert token_from_environment() == "from-file"
    monkeypatch.setenv("ANABRANCH_TOKEN", " from-environment ")
    assert token_from_environment() == "from-environment"
