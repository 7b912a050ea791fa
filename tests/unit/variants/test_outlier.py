import pytest

from anabranch.variants.errors import VariantError
from anabranch.variants.outlier import FAILURES, FAIR_WAIT_S, Outlier
from anabranch.variants.remote_target import OutlierDetection
from anabranch.wire.seam import Status


@pytest.fixture
def outlier() -> Outlier:
    return Outlier(OutlierDetection())


def fail(outlier: Outlier, now: float, times: int = 5, status: Status = Status.UNAVAILABLE) -> None:
    for _ in range(times):
        outlier.heard(status, now, 0.1)


def test_five_failures_in_a_row_eject_for_thirty_seconds(outlier: Outlier) -> None:
    fail(outlier, 100.0, times=4)
    assert outlier.left_s(100.0) == 0.0
    fail(outlier, 100.0, times=1)
    assert outlier.left_s(100.0) == 30.0
    assert outlier.left_s(130.0) == 0.0
    assert outlier.ejections == 1


def test_an_answer_between_failures_starts_the_count_anew(outlier: Outlier) -> None:
    for _ in range(10):
        fail(outlier, 0.0, times=4)
        outlier.heard(Status.OK, 0.0, 0.1)
    assert outlier.ejections == 0


@pytest.mark.parametrize("status", list(Status))
def test_only_the_servers_own_failures_count(outlier: Outlier, status: Status) -> None:
    for _ in range(5):
        outlier.heard(status, 0.0, FAIR_WAIT_S)
    assert outlier.ejections == (status in FAILURES)
    assert (status in FAILURES) == (status.value in {2, 4, 12, 13, 14, 15})


def test_a_clients_short_deadline_says_nothing_about_the_server(outlier: Outlier) -> None:
    for _ in range(20):
        outlier.heard(Status.DEADLINE_EXCEEDED, 0.0, FAIR_WAIT_S - 0.01)
    assert outlier.ejections == 0
    for _ in range(5):
        outlier.heard(Status.DEADLINE_EXCEEDED, 0.0, FAIR_WAIT_S)
    assert outlier.ejections == 1


def test_ejections_in_close_succession_grow_to_a_limit(outlier: Outlier) -> None:
    now, lasted = 0.0, []
    for _ in range(12):
        fail(outlier, now)
        lasted.append(outlier.left_s(now))
        now += outlier.left_s(now)
    assert lasted == [30.0 * n for n in range(1, 11)] + [300.0, 300.0]


def test_quiet_intervals_forgive_ejections(outlier: Outlier) -> None:
    fail(outlier, 0.0)
    fail(outlier, 30.0)
    assert outlier.left_s(30.0) == 60.0
    fail(outlier, 90.0 + 10.0)
    assert outlier.left_s(100.0) == 60.0
    fail(outlier, 160.0 + 1000.0)
    assert outlier.left_s(1160.0) == 30.0


def test_what_was_in_flight_when_it_was_ejected_ejects_it_once(outlier: Outlier) -> None:
    fail(outlier, 0.0, times=50)
    assert (outlier.ejections, outlier.left_s(0.0)) == (1, 30.0)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"consecutive_errors": 0}, "consecutive_errors is 0, must be at least 1"),
        ({"interval_s": 0.0}, "interval_s is 0.0, must be positive"),
        ({"max_ejection_time_s": 1.0}, "must be at least base_ejection_time_s"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields: dict[str, float], said: str) -> None:
    with pytest.raises(VariantError, match=said):
        OutlierDetection(**fields)  # type: ignore[arg-type]  # one field of each type
