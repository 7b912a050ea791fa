import pytest

from anabranch.router.lanes import Lanes


class Database:
    """Counts lanes, while it is up."""

    def __init__(self) -> None:
        self.is_up = True
        self.last = 0

    def take(self) -> int:
        if not self.is_up:
            raise ConnectionError("the database is down")
        self.last += 1
        return self.last


def test_lanes_come_from_the_store_while_it_answers() -> None:
    database = Database()
    lanes = Lanes(database.take, spare=2)
    lanes.refill()
    assert [lanes.next(), lanes.next()] == [3, 4]


def test_without_the_store_the_stock_serves_and_then_the_reason_is_told() -> None:
    database = Database()
    lanes = Lanes(database.take, spare=2)
    lanes.refill()
    database.is_up = False
    assert [lanes.next(), lanes.next()] == [1, 2]
    with pytest.raises(ConnectionError, match="the database is down"):
        lanes.next()
    database.is_up = True
    lanes.refill()
    database.is_up = False
    assert [lanes.next(), lanes.next()] == [3, 4]
