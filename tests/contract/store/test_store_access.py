"""Tokens and refusals, in every store."""

from dataclasses import replace

from anabranch.store.access import Role
from anabranch.store.port import Store
from anabranch.store.tokens import Token, issue


def _token(name: str, now: float = 100.0, **given: object) -> Token:
    drawn = {"n": 0}

    def entropy(count: int) -> bytes:
        drawn["n"] += 1
        return (f"{name}{now}{drawn['n']}".encode() * count)[:count]

    token, _ = issue(
        name=name,
        role=Role.OPERATOR,
        models=["m"],
        now=now,
        expires_s=None,
        created_by="ada",
        entropy=entropy,
    )
    return replace(token, **given)  # type: ignore[arg-type]  # test data


def test_a_token_comes_back_as_it_was_kept(store: Store) -> None:
    token = _token("ci", expires_s=500.5)
    store.access.save_token(token, verb="token create", actor="ada", now=100.0)
    assert store.access.tokens() == [token]


def test_a_changed_token_keeps_its_last_use_and_both_changes_are_audited(store: Store) -> None:
    token = _token("ci")
    store.access.save_token(token, verb="token create", actor="ada", now=100.0)
    store.access.note_use({token.id: 150.0, "nobody": 1.0})
    store.access.save_token(replace(token, revoked_s=200.0), verb="token revoke", actor="bob", now=200.0)
    assert store.access.tokens() == [replace(token, revoked_s=200.0, last_used_s=150.0)]
    told = [(event.actor, event.verb, event.detail) for event in store.events()]
    assert told == [
        ("ada", "token create", f"ci ({token.id}), operator for m"),
        ("bob", "token revoke", f"ci ({token.id}), operator for m"),
    ]


def test_a_last_use_never_goes_back(store: Store) -> None:
    token = _token("ci")
    store.access.save_token(token, verb="token create", actor="ada", now=100.0)
    store.access.note_use({token.id: 150.0})
    store.access.note_use({token.id: 140.0})
    assert store.access.tokens()[0].last_used_s == 150.0


def test_tokens_are_listed_by_name_and_age_the_revoked_ones_included(store: Store) -> None:
    later, earlier, other = _token("b", 200.0), _token("b", 100.0, revoked_s=150.0), _token("a", 300.0)
    for token in (later, earlier, other):
        store.access.save_token(token, verb="token create", actor="ada", now=300.0)
    assert store.access.tokens() == [other, earlier, later]


def test_a_refusal_is_an_event_that_no_tick_waits_for(store: Store) -> None:
    store.access.note_refusal(
        actor="token:ci", verb="refused Request", detail="needs change", now=5.0, experiment="exp"
    )
    (event,) = store.events()
    assert (event.at_s, event.actor, event.experiment, event.verb, event.detail) == (
        5.0,
        "token:ci",
        "exp",
        "refused Request",
        "needs change",
    )
    assert store.pending("exp") == ()
