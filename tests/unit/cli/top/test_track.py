from collections.abc import Callable

from anabranch.cli.top.track import Track
from anabranch.cli.view_types import ExperimentView

Make = Callable[..., ExperimentView]


def test_rates_are_differences_of_counts(a_view: Make) -> None:
    track = Track()
    for second in range(11):
        track.add(a_view(at_s=float(second), requests=5 * second if second < 6 else 25))
    assert track.rates("a", 2) == [5.0, 0.0]
    assert track.rates("unknown", 2) == [0.0, 0.0]


def test_without_two_looks_nothing_is_known(a_view: Make) -> None:
    track = Track()
    assert track.rates("a", 3) == [None] * 3
    track.add(a_view(at_s=1.0, requests=5))
    track.add(a_view(at_s=1.0, requests=5))
    assert track.rates("a", 2) == [None, None]


def test_it_stays_small_for_days_and_still_knows_its_beginning(a_view: Make) -> None:
    track = Track(most=50)
    for second in range(100_000):
        track.add(a_view(at_s=float(second), requests=second))
    assert len(track.points) <= 50
    assert track.points[0].at_s == 0.0
    assert track.points[-1].at_s == 99_999.0
    assert all(abs((rate or 0.0) - 1.0) < 1e-9 for rate in track.rates("a", 20))


def test_a_new_run_begins_a_new_track(a_view: Make) -> None:
    track = Track()
    track.add(a_view(at_s=1.0, requests=50))
    track.add(a_view(at_s=2.0, requests=60))
    track.add(a_view(at_s=3.0, requests=4))
    assert [point.at_s for point in track.points] == [3.0]
