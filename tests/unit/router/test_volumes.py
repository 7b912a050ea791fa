"""What workers report of their requests, on its way to the store."""

from typing import Any

import pytest

from anabranch.router.metrics.catalogue import PRIORITIES, WORKERS
from anabranch.router.metrics.samples import Buckets, Tally
from anabranch.router.volumes import FLUSH_S, KEEP_S, VolumeKeeper
from anabranch.store.memory_volumes import MemoryVolumes
from anabranch.store.volume_port import SLOT_S, Volume

START = 1_800_000_000.0 - 1_800_000_000.0 % SLOT_S


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def report(requests: int, within: int, model: str = "m", level: str = "batch") -> dict[str, Any]:
    tally = Tally()
    counts = [0] * (len(PRIORITIES.duration.borders) + 1)
    counts[3], counts[-1] = requests - 1, 1
    tally.measured(PRIORITIES.duration, Buckets(counts), model, level)
    tally.add(PRIORITIES.within, within, model, level)
    # A report has more in it.
    tally.measured(WORKERS.loop_lag, Buckets([1]), "worker")
    tally.add(WORKERS.calls, 9)
    return tally.take()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> MemoryVolumes:
    return MemoryVolumes()


def test_reports_add_up_in_their_stretch_and_are_stored_a_few_times_a_minute(
    store: MemoryVolumes, clock: Clock
) -> None:
    keeper = VolumeKeeper(store, clock)
    keeper.heard(report(5, 4))
    keeper.heard(report(3, 3))
    keeper.heard({})
    keeper.flush()
    assert store.load(0) == [], "it is not time yet"
    clock.now += FLUSH_S
    keeper.flush()
    clock.now += SLOT_S
    keeper.heard(report(1, 1))
    keeper.flush(is_last=True)
    assert store.load(0) == [
        Volume(model="m", level="batch", slot_s=int(START), requests=8, within=7),
        Volume(model="m", level="batch", slot_s=int(START) + SLOT_S, requests=1, within=1),
    ]


def test_what_the_store_refuses_is_stored_later_and_once(store: MemoryVolumes, clock: Clock) -> None:
    class Down(MemoryVolumes):
        is_down = True

        def add(self, volumes: Any) -> None:
            if self.is_down:
                raise OSError("the database is down")
            super().add(volumes)

    down = Down()
    keeper = VolumeKeeper(down, clock)
    keeper.heard(report(5, 4))
    with pytest.raises(OSError, match="down"):
        keeper.flush(is_last=True)
    keeper.heard(report(2, 1))
    down.is_down = False
    keeper.flush(is_last=True)
    keeper.flush(is_last=True)
    [kept] = down.load(0)
    assert (kept.requests, kept.within) == (7, 5)


def test_what_is_old_is_forgotten(store: MemoryVolumes, clock: Clock) -> None:
    store.add([Volume(model="m", level="batch", slot_s=int(START - KEEP_S), requests=1, within=1)])
    keeper = VolumeKeeper(store, clock)
    clock.now += 3_600.0
    keeper.flush()
    assert store.load(0) == []


def test_a_clock_that_was_set_back_stops_nothing(store: MemoryVolumes, clock: Clock) -> None:
    keeper = VolumeKeeper(store, clock)
    clock.now -= 86_400.0
    keeper.heard(report(2, 2))
    keeper.flush()
    assert [each.requests for each in store.load(0)] == [2]
