"""The baseline stands in for a candidate that does not answer in its time."""

import math
from typing import Any

import pytest

from anabranch.router.hedge import FLOOR_S, UNKNOWN_S, Hedge
from anabranch.store.records import Flag
from anabranch.variants.batching import FailureKind
from anabranch.wire.seam import Status

Bench = Any


@pytest.fixture
def split(bench: Bench) -> Bench:
    """A bench whose every request is assigned to candidate `a`, and whose baseline needs up to 30 ms."""
    bench.publish(bench.route(0.5, 0.0))
    bench.draws = [0.1] * 100
    for _ in range(50):
        bench.hedge.observe("m", "base", 0.030)
    return bench


def names(bench: Bench) -> list[str]:
    return [work.name for work in bench.dispatcher.taken]


def test_a_hanging_candidate_leaves_the_baseline_what_it_needs_of_the_deadline(split: Bench) -> None:
    call = split.infer(deadline=101.0)
    split.pass_time(0.96)
    assert names(split) == ["m/a"]
    split.pass_time(0.012)
    assert names(split) == ["m/a", "m/base"]
    assert split.dispatcher.last.deadline == 101.0
    split.dispatcher.last.answer()
    assert call.response.model_version == "base"
    assert split.dispatcher.taken[0].is_cancelled
    (record,) = split.journal.routed
    assert (record.arm, record.status, record.latency_ms) == (1, Status.DEADLINE_EXCEEDED, math.inf)
    assert record.flags == Flag.EVIDENCE | Flag.MASKED
    assert Flag.MASKED in split.ids.open(call.sent["x-assignment-id"]).flags
    assert (split.inference.counts["hedged"], split.inference.counts["masked"]) == (1, 1)


def test_a_candidate_that_answers_first_after_all_is_charged_with_its_own_latency(split: Bench) -> None:
    call = split.infer(deadline=101.0)
    split.pass_time(0.98)
    split.dispatcher.taken[0].answer()
    assert call.response.model_version == "a"
    assert split.dispatcher.taken[1].is_cancelled
    (record,) = split.journal.routed
    assert (record.status, record.flags) == (Status.OK, Flag.EVIDENCE)
    assert record.latency_ms == pytest.approx(980.0)
    assert split.inference.counts["masked"] == 0


def test_without_a_deadline_a_candidate_gets_its_timeout(split: Bench) -> None:
    split.infer()
    split.pass_time(9.9)
    assert names(split) == ["m/a"]
    split.pass_time(0.11)
    assert names(split) == ["m/a", "m/base"]
    assert split.dispatcher.last.deadline is None


def test_with_a_later_deadline_a_candidate_gets_no_more_than_its_timeout(split: Bench) -> None:
    split.infer(deadline=200.0)
    split.pass_time(10.01)
    assert names(split) == ["m/a", "m/base"]


def test_a_candidate_that_fails_after_all_keeps_its_own_status_and_is_infinitely_slow(split: Bench) -> None:
    call = split.infer(deadline=101.0)
    split.pass_time(0.98)
    split.dispatcher.taken[0].fail(FailureKind.ERROR)
    assert len(split.dispatcher.taken) == 2
    split.dispatcher.taken[1].answer()
    assert call.response.model_version == "base"
    (record,) = split.journal.routed
    assert (record.status, record.latency_ms) == (Status.INTERNAL, math.inf)
    assert split.inference.counts["masked"] == 1


def test_when_the_baseline_fails_the_candidate_may_still_answer(split: Bench) -> None:
    call = split.infer(deadline=101.0)
    split.pass_time(0.98)
    split.dispatcher.taken[1].fail(FailureKind.ERROR)
    assert call.failures == []
    split.dispatcher.taken[0].answer()
    assert call.response.model_version == "a"
    assert split.journal.routed[0].status == Status.OK


@pytest.mark.parametrize("first", [0, 1])
def test_when_both_fail_the_client_hears_the_baseline_once(split: Bench, first: int) -> None:
    call = split.infer(deadline=101.0)
    split.pass_time(0.98)
    split.dispatcher.taken[first].fail(FailureKind.ERROR)
    split.dispatcher.taken[1 - first].fail(FailureKind.ERROR)
    assert call.failures == [(Status.INTERNAL, "variant base failed on this request")]
    assert len(split.journal.routed) == 1
    assert len(split.dispatcher.taken) == 2


def test_a_baseline_that_takes_no_work_leaves_the_candidate_its_chance(split: Bench) -> None:
    split.dispatcher.full = {"m/base"}
    call = split.infer(deadline=101.0)
    split.pass_time(0.98)
    assert call.failures == []
    split.dispatcher.last.answer()
    assert call.response.model_version == "a"


def test_a_cancelled_call_takes_both_back_and_is_recorded_once(split: Bench) -> None:
    call = split.infer(deadline=101.0)
    split.pass_time(0.98)
    call.cancel()
    assert [work.is_cancelled for work in split.dispatcher.taken] == [True, True]
    (record,) = split.journal.routed
    assert (record.status, record.latency_ms) == (Status.CANCELLED, math.inf)


def test_an_answered_request_is_not_asked_again_later(split: Bench) -> None:
    split.infer(deadline=101.0)
    split.dispatcher.last.answer()
    split.pass_time(20.0)
    assert names(split) == ["m/a"]


def test_the_baseline_and_a_chosen_variant_are_not_hedged(split: Bench) -> None:
    split.draws = [0.9]
    split.infer(deadline=101.0)
    split.infer(deadline=101.0, metadata={"x-target-variant": "b"})
    split.pass_time(20.0)
    assert names(split) == ["m/base", "m/b"]


def test_the_baselines_own_answers_teach_what_it_needs(bench: Bench) -> None:
    bench.publish(bench.route(0.0, 0.0))
    bench.draws = [0.9] * 100
    for _ in range(30):
        bench.infer()
        bench.now += 0.2
        bench.dispatcher.last.answer()
    assert bench.hedge.budget_s("m", "base") == pytest.approx(0.205)


def test_the_budget_has_a_floor_and_a_guess_while_little_is_known() -> None:
    hedge = Hedge(candidate_timeout_s=10.0)
    assert hedge.budget_s("m", "base") == UNKNOWN_S
    for _ in range(30):
        hedge.observe("m", "base", 0.001)
    assert hedge.budget_s("m", "base") == FLOOR_S
    assert hedge.budget_s("m", "other") == UNKNOWN_S


@pytest.mark.parametrize(
    ("left_s", "patience_s"), [(None, 10.0), (1.0, 0.9), (0.15, 0.075), (100.0, 10.0), (-0.5, 0.0)]
)
def test_a_candidate_gets_at_least_half_of_the_time(left_s: float | None, patience_s: float) -> None:
    hedge = Hedge(candidate_timeout_s=10.0)
    assert hedge.patience_s("m", "base", left_s) == pytest.approx(patience_s)


def test_the_queue_hears_that_its_variant_was_not_waited_for(split: Bench) -> None:
    split.infer(deadline=101.0)
    split.pass_time(0.98)
    assert split.dispatcher.late == ["m/a"]


def test_a_candidate_that_hangs_gets_no_further_requests_and_is_charged_for_them(split: Bench) -> None:
    split.dispatcher.hanging = {"m/a"}
    call = split.infer()
    split.dispatcher.last.answer()
    assert names(split) == ["m/base"]
    assert call.response.model_version == "base"
    assert split.journal.routed[0].status == Status.UNAVAILABLE
