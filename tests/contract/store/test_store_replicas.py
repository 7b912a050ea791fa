"""Who leads, and that nobody else can save."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from anabranch.bandit.evidence import Evidence
from anabranch.store.lease import Lease, LeaseLost
from anabranch.store.port import Conflict, Store
from anabranch.store.sql import open_store

Write = Callable[..., dict[str, Any]]
LONG_S = 3_600.0
OVER_AT_ONCE_S = 0.0
ROUNDS = 15


def save(store: Store, lease: Lease | None, expected: int | None = None) -> int:
    kept = store.experiment("exp")
    return store.save(
        "exp",
        expected=kept.state_version if expected is None else expected,
        state=kept.state,
        evidence=Evidence(experiment="exp"),
        decision=None,
        lease=lease,
    )


def test_one_leads_and_the_others_do_not(store: Store) -> None:
    assert store.replicas.leader() is None
    lease = store.replicas.lead("ann", LONG_S)
    assert lease == Lease(holder="ann", token=1)
    assert store.replicas.lead("bob", LONG_S) is None
    assert store.replicas.lead("ann", LONG_S) == lease
    leader = store.replicas.leader()
    assert leader is not None
    assert (leader.lease, leader.duration_s) == (lease, LONG_S)


def test_a_lease_that_was_not_renewed_goes_to_the_next_with_a_larger_token(store: Store) -> None:
    store.replicas.lead("ann", OVER_AT_ONCE_S)
    assert store.replicas.leader() is None
    assert store.replicas.lead("bob", LONG_S) == Lease(holder="bob", token=2)
    assert store.replicas.lead("ann", LONG_S) is None


def test_one_that_steps_down_is_followed_at_once(store: Store) -> None:
    ann = store.replicas.lead("ann", LONG_S)
    assert ann is not None
    store.replicas.step_down(ann)
    assert store.replicas.leader() is None
    bob = store.replicas.lead("bob", LONG_S)
    assert bob == Lease(holder="bob", token=2)
    store.replicas.step_down(ann)
    leader = store.replicas.leader()
    assert leader is not None
    assert leader.lease == bob


def test_a_save_of_the_leader_prolongs_its_lease(store: Store, write_document: Write) -> None:
    store.apply(write_document(), "ada", 1.0)
    lease = store.replicas.lead("ann", LONG_S)
    before = store.replicas.leader()
    save(store, lease)
    after = store.replicas.leader()
    assert before is not None
    assert after is not None
    assert after.renewed_s >= before.renewed_s
    assert after.lease == lease


def test_one_that_no_longer_leads_saves_nothing(store: Store, write_document: Write) -> None:
    kept = store.apply(write_document(), "ada", 1.0)
    stale = store.replicas.lead("ann", OVER_AT_ONCE_S)
    save(store, stale)  # Nobody came between.
    store.replicas.lead("bob", LONG_S)
    with pytest.raises(LeaseLost, match="ann led with token 1, now bob leads with token 2"):
        save(store, stale)
    assert store.experiment("exp").state_version == kept.state_version + 1


def test_a_lease_does_not_replace_compare_and_set(store: Store, write_document: Write) -> None:
    kept = store.apply(write_document(), "ada", 1.0)
    lease = store.replicas.lead("ann", LONG_S)
    save(store, lease)
    with pytest.raises(Conflict):
        save(store, lease, expected=kept.state_version)


def test_a_pinned_value_stands_from_the_first_time_on(store: Store) -> None:
    assert store.replicas.pin("key", "a") == "a"
    assert store.replicas.pin("key", "b") == "a"
    assert store.replicas.pin("other", "b") == "b"


def all_at_once(work: Callable[[int], None]) -> None:
    """Run three controllers to the end; what one of them raises is raised here."""
    failures: list[BaseException] = []
    start = threading.Barrier(3)

    def controller(number: int) -> None:
        start.wait()
        try:
            work(number)
        except BaseException as failure:  # noqa: BLE001  # handed over to the test below
            failures.append(failure)

    threads = [threading.Thread(target=controller, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_of_three_that_ask_at_once_one_leads(store_url: str) -> None:
    stores = [open_store(store_url) for _ in range(3)]
    got: list[Lease | None] = []
    all_at_once(lambda number: got.append(stores[number].replicas.lead(f"controller {number}", LONG_S)))
    assert len([lease for lease in got if lease is not None]) == 1
    for opened in stores:
        opened.close()


def test_three_that_take_the_lead_from_each_other_save_in_the_order_of_their_tokens(
    store_url: str, write_document: Write
) -> None:
    stores = [open_store(store_url) for _ in range(3)]
    first = stores[0].apply(write_document(), "ada", 1.0)
    stores[0].replicas.lead("somebody", OVER_AT_ONCE_S)
    saved: list[tuple[int, int]] = []
    lost: list[int] = []

    def take_and_save(number: int) -> None:
        for _ in range(ROUNDS):
            lease = stores[number].replicas.lead(f"controller {number}", OVER_AT_ONCE_S)
            assert lease is not None
            try:
                # A Conflict is impossible: whoever saved after our look has taken the lead from us before.
                saved.append((save(stores[number], lease), lease.token))
            except LeaseLost:
                lost.append(lease.token)

    all_at_once(take_and_save)
    saved.sort()
    versions, tokens = [version for version, _ in saved], [token for _, token in saved]
    assert versions == list(range(first.state_version + 1, first.state_version + 1 + len(saved)))
    assert tokens == sorted(tokens)
    assert len(saved) + len(lost) == 3 * ROUNDS
    for opened in stores:
        opened.close()
