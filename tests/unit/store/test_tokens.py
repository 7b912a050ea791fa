"""Tokens as values: what is issued, what is accepted, and what is never kept."""

import secrets
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.store.access import GRANTS, Permission, Principal, Role
from anabranch.store.tokens import (
    BadToken,
    Token,
    digest,
    find_token,
    issue,
    looks_like_token,
    principal_of,
)


def issued(
    name: str = "ci", role: Role = Role.OPERATOR, expires_s: float | None = 200.0
) -> tuple[Token, str]:
    return issue(
        name=name,
        role=role,
        models=["m2", "m1", "m1"],
        now=100.0,
        expires_s=expires_s,
        created_by="ada",
        entropy=secrets.token_bytes,
    )


def test_an_issued_token_is_found_by_its_text_until_it_expires() -> None:
    token, text = issued()
    assert find_token({token.id: token}.get, text, 199.9) is token
    with pytest.raises(BadToken, match="expired"):
        find_token({token.id: token}.get, text, 200.0)


def test_a_revoked_token_opens_nothing() -> None:
    token, text = issued(expires_s=None)
    revoked = replace(token, revoked_s=150.0)
    with pytest.raises(BadToken, match="revoked"):
        find_token({token.id: revoked}.get, text, 160.0)


def test_nothing_of_the_secret_is_kept() -> None:
    token, text = issued()
    secret = text.split("_", 2)[2]
    kept = " ".join(str(getattr(token, field.name)) for field in fields(token))
    assert secret not in kept
    assert text not in kept
    assert token.digest == digest(text)


def test_secrets_have_256_bits_and_differ() -> None:
    asked: list[int] = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return secrets.token_bytes(count)

    texts = set()
    for _ in range(50):
        _, text = issue(
            name="x", role=Role.VIEWER, models=[], now=0, expires_s=None, created_by="a", entropy=entropy
        )
        texts.add(text)
    assert len(texts) == 50
    assert asked.count(32) == 50


@given(st.integers(0, 200), st.characters(codec="ascii"))
def test_a_changed_character_makes_another_token(place: int, character: str) -> None:
    token, text = issued()
    place %= len(text)
    changed = text[:place] + character + text[place + 1 :]
    if changed == text:
        return
    with pytest.raises(BadToken):
        find_token({token.id: token}.get, changed, 150.0)


@given(st.text(max_size=300))
def test_any_other_text_is_refused_without_an_error_of_another_kind(text: str) -> None:
    token, _ = issued()
    with pytest.raises(BadToken):
        find_token({token.id: token}.get, text, 150.0)


def test_a_scanner_tells_a_token_from_a_look_alike() -> None:
    _, text = issued()
    assert looks_like_token(text)
    assert not looks_like_token(text[:-1] + ("0" if text[-1] != "0" else "1"))
    assert not looks_like_token("anabranch_0123456789ab_" + "A" * 51)


@pytest.mark.parametrize("name", ["", "Ci", "a b", "../x", "x" * 64, "a\nb", "-a"])
def test_a_name_that_could_confuse_a_log_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="token name"):
        issued(name)


def test_ending_a_token_never_makes_it_last_longer() -> None:
    token, _ = issued(expires_s=200.0)
    assert token.ended_by(150.0).expires_s == 150.0
    assert token.ended_by(300.0).expires_s == 200.0
    assert replace(token, expires_s=None).ended_by(300.0).expires_s == 300.0


def test_every_role_has_its_grants_and_only_an_admin_has_all() -> None:
    assert set(GRANTS) == set(Role)
    assert GRANTS[Role.ADMIN] == frozenset(Permission)
    assert all(GRANTS[role] < GRANTS[Role.ADMIN] for role in Role if role is not Role.ADMIN)
    assert Permission.CHANGE not in GRANTS[Role.VIEWER] | GRANTS[Role.FEEDBACK]


def test_a_principal_touches_its_own_models_only() -> None:
    token, _ = issued()
    principal = principal_of(token)
    assert principal == Principal(actor="token:ci", role=Role.OPERATOR, models=frozenset({"m1", "m2"}))
    assert principal.may(Permission.CHANGE, "m1")
    assert not principal.may(Permission.CHANGE, "m3")
    assert not principal.may(Permission.OVERRIDE, "m1")
    assert principal.may(Permission.READ)
