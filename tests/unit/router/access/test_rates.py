"""How much one caller may have."""

from anabranch.router.access.rates import Rates


def test_a_burst_is_granted_and_refilled_at_the_rate() -> None:
    rates = Rates(per_s=2.0, burst=10.0)
    assert rates.take("a", 10.0, 0.0)
    assert not rates.take("a", 1.0, 0.0)
    assert rates.take("a", 1.0, 0.5)
    assert not rates.take("a", 1.0, 0.5)


def test_a_refused_amount_costs_nothing() -> None:
    rates = Rates(per_s=1.0, burst=5.0)
    assert not rates.take("a", 6.0, 0.0)
    assert rates.take("a", 5.0, 0.0)


def test_callers_do_not_share_and_a_full_bucket_never_overflows() -> None:
    rates = Rates(per_s=1.0, burst=2.0)
    assert rates.take("a", 2.0, 0.0)
    assert rates.take("b", 2.0, 0.0)
    assert rates.take("a", 2.0, 1_000.0)
    assert not rates.take("a", 1.0, 1_000.0)


def test_strangers_without_number_take_no_memory_without_number() -> None:
    rates = Rates(per_s=1.0, burst=1.0)
    for number in range(10_000):
        rates.take(str(number), 1.0, 0.0)
    assert len(rates._left) <= 4096
