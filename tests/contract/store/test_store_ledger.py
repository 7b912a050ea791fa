from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from anabranch.bandit.decision import Decision
from anabranch.bandit.evidence import Cell, Evidence
from anabranch.bandit.hooks import Secret, SecretPlace, Webhook
from anabranch.bandit.lifecycle import Phase
from anabranch.store.ledger_port import Catalog, Tenure
from anabranch.store.outbox_port import Fate, Message
from anabranch.store.port import Conflict, NotFound, Store
from anabranch.store.verify import verify_chain

Write = Callable[..., dict[str, Any]]

HOOK = Webhook(
    url="https://hooks.example.com/x", secret=Secret(place=SecretPlace.ENV, name="ANABRANCH_WEBHOOK_X")
)


def message(key: str) -> Message:
    return Message(key=key, target="chat", webhook=HOOK, body=f'{{"id":"{key}"}}')


def decide(number: int, *, at_s: float = 10.0, evidence_last: int = 0) -> Decision:
    return Decision(
        number=number,
        at_s=at_s,
        phase=Phase.PROGRESSING,
        step=0,
        epoch=0,
        weights={},
        actions=(),
        verdicts=(),
        evidence_last=evidence_last,
    )


def save(store: Store, number: int, **more: Any) -> None:
    kept = store.experiment("exp")
    last = more.pop("last", 0)
    evidence = Evidence(experiment="exp")
    if last:
        evidence = Evidence(
            experiment="exp",
            first=last,
            last=last,
            cells=(Cell(epoch=0, variant="a", requests=last),),
            at_s=9,
        )
    store.save(
        "exp",
        expected=more.pop("expected", kept.state_version),
        state=kept.state,
        evidence=evidence,
        decision=decide(number, evidence_last=last),
        **more,
    )


def test_messages_are_saved_with_their_decision_or_not_at_all(store: Store, write_document: Write) -> None:
    store.apply(write_document(), "ada", 5.0)
    save(store, 1, messages=(message("a"), message("b")))
    with pytest.raises(Conflict):
        save(store, 2, messages=(message("c"),), expected=99)
    found = store.outbox.messages("exp")
    assert [(each.message, each.fate, each.attempts) for each in found] == [
        (message("a"), Fate.WAITING, 0),
        (message("b"), Fate.WAITING, 0),
    ]


def test_a_message_is_due_until_it_is_settled(store: Store, write_document: Write) -> None:
    store.apply(write_document(), "ada", 5.0)
    save(store, 1, messages=(message("a"), message("b"), message("c")))
    assert store.outbox.due(9.0, 10) == []
    first, second, third = store.outbox.due(10.0, 10)
    assert store.outbox.due(10.0, 2) == [first, second]
    store.outbox.settle(replace(first, fate=Fate.DELIVERED, attempts=1))
    store.outbox.settle(replace(second, attempts=1, due_s=20.0, error="HTTP 503"))
    store.outbox.settle(replace(third, fate=Fate.DEAD, attempts=9, error="HTTP 404"))
    assert store.outbox.due(15.0, 10) == []
    [again] = store.outbox.due(20.0, 10)
    assert (again.message.key, again.attempts, again.error) == ("b", 1, "HTTP 503")
    assert [each.fate for each in store.outbox.messages("exp")] == [Fate.DELIVERED, Fate.WAITING, Fate.DEAD]


def test_a_model_remembers_who_served_when_and_why(store: Store, write_document: Write) -> None:
    store.set_baseline("m", "base", 1.0)
    store.apply(write_document(), "ada", 5.0)
    save(store, 1, new_baseline=("m", "a"))
    assert store.ledger.tenures("m") == [
        Tenure(model="m", since_s=1.0, variant="base"),
        Tenure(model="m", since_s=10.0, variant="a", experiment="exp", decision=1),
    ]
    assert store.ledger.tenures("other") == []


def test_the_last_catalog_stands(store: Store) -> None:
    assert store.ledger.catalog() is None
    for at in (1.0, 2.0):
        store.ledger.save_catalog(
            Catalog(variants={"m": {"base": "x", "a": "x"}}, webhook_hosts=("hooks.example.com",), at_s=at)
        )
    found = store.ledger.catalog()
    assert found is not None
    assert (found.at_s, found.variants["m"]["a"], found.webhook_hosts) == (2.0, "x", ("hooks.example.com",))


def test_decisions_are_sealed_with_the_evidence_of_every_spec_version(
    store: Store, write_document: Write
) -> None:
    store.apply(write_document(), "ada", 5.0)
    save(store, 1, last=3)
    save(store, 2, last=7)
    save(store, 3)
    first, second, third = store.decisions("exp")
    assert len({first.seal, second.seal, third.seal}) == 3
    assert [(part.spec_version, part.last) for part in store.ledger.evidence("exp")] == [(1, 3), (1, 7)]
    assert verify_chain(store, "exp").matches


def test_what_is_remembered_of_nobody_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        store.ledger.specs("nobody")
    with pytest.raises(NotFound):
        store.ledger.evidence("nobody")
