from anabranch.router.upkeep import DAY_S, EVERY_S, Upkeep
from anabranch.store.lease import Lease
from anabranch.store.upkeep_port import CHUNK, Compacted


class Rows:
    """A store with a number of rows that can go."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.asked: list[tuple[float, Lease | None]] = []

    def removable(self, ended_before_s: float) -> Compacted:
        return Compacted(deltas=self.rows)

    def compact(self, ended_before_s: float, *, limit: int = CHUNK, lease: Lease | None = None) -> Compacted:
        self.asked.append((ended_before_s, lease))
        removed = min(limit, self.rows)
        self.rows -= removed
        return Compacted(deltas=removed)


class Clock:
    now = 1_000_000.0


def test_once_an_hour_what_ended_long_ago_is_forgotten_a_part_a_round() -> None:
    rows, clock, lease = Rows(2 * CHUNK + 5), Clock(), Lease(holder="ann", token=3)
    upkeep = Upkeep(rows, keep_days=2, wall_clock=lambda: clock.now)
    assert upkeep.run(lease).rows == 0
    assert rows.asked == [], "not at once: a server that restarts often would do nothing else"
    clock.now += EVERY_S
    assert [upkeep.run(lease).rows for _ in range(5)] == [CHUNK, CHUNK, 5, 0, 0]
    assert rows.asked == [(clock.now - 2 * DAY_S, lease)] * 3
    rows.rows = 7
    clock.now += EVERY_S - 1.0
    assert upkeep.run(lease).rows == 0
    clock.now += 1.0
    assert upkeep.run(lease).rows == 7


def test_a_clock_that_was_set_back_does_not_stop_it() -> None:
    rows, clock = Rows(1), Clock()
    upkeep = Upkeep(rows, keep_days=2, wall_clock=lambda: clock.now)
    clock.now -= 100 * DAY_S
    assert upkeep.run(None).rows == 1
    assert upkeep.run(None).rows == 0
    assert len(rows.asked) == 1
