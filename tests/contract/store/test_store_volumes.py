"""The volume of requests: sums over servers, kept for a time."""

import threading

from anabranch.store.port import Store
from anabranch.store.sql import open_store
from anabranch.store.volume_port import SLOT_S, Volume, slot_of


def volume(slot: int, requests: int = 10, model: str = "m", level: str = "interactive") -> Volume:
    return Volume(model=model, level=level, slot_s=slot * SLOT_S, requests=requests, within=requests // 2)


def test_what_servers_add_to_one_stretch_adds_up(store: Store) -> None:
    store.volumes.add([volume(1), volume(2, 4)])
    store.volumes.add([volume(2, 6), volume(1, 1, level="batch"), volume(1, 2, model="a")])
    store.volumes.add([])
    assert store.volumes.load(0) == [
        volume(1, 2, model="a"),
        volume(1, 1, level="batch"),
        volume(1),
        Volume(model="m", level="interactive", slot_s=2 * SLOT_S, requests=10, within=5),
    ]


def test_only_what_began_since_is_read_and_only_what_began_before_is_forgotten(store: Store) -> None:
    store.volumes.add([volume(slot) for slot in range(5)])
    assert [each.slot_s for each in store.volumes.load(3 * SLOT_S)] == [3 * SLOT_S, 4 * SLOT_S]
    assert store.volumes.forget(2 * SLOT_S) == 2
    assert [each.slot_s // SLOT_S for each in store.volumes.load(0)] == [2, 3, 4]


def test_servers_that_add_at_once_lose_nothing(store_url: str) -> None:
    stores = [open_store(store_url) for _ in range(3)]

    def add(one: Store) -> None:
        for _ in range(20):
            one.volumes.add([volume(1, 2, level=level) for level in ("realtime", "batch", "interactive")])

    threads = [threading.Thread(target=add, args=(one,)) for one in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = stores[0].volumes.load(0)
    for one in stores:
        one.close()
    assert [(each.level, each.requests, each.within) for each in kept] == [
        ("batch", 120, 60),
        ("interactive", 120, 60),
        ("realtime", 120, 60),
    ]


def test_a_stretch_begins_at_a_multiple_of_its_length() -> None:
    assert slot_of(0.0) == 0
    assert slot_of(SLOT_S - 0.001) == 0
    assert slot_of(SLOT_S) == SLOT_S
    assert slot_of(1_800_000_123.5) % SLOT_S == 0
