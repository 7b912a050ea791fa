import math
from collections.abc import Callable
from typing import Any, cast

import pytest

from anabranch.bandit.snapshot import MirrorPlan
from anabranch.router import mirror as module
from anabranch.router.generation import GenerationBackend
from anabranch.store.records import Flag
from anabranch.variants.batching import MIRROR, FailureKind

Bench = Any
Plan = Callable[..., MirrorPlan]


def mirrored(bench: Bench, plan: MirrorPlan, draws: list[float]) -> Any:
    """One request, assigned to the baseline and answered; its copies wait in the dispatcher."""
    bench.publish(bench.route(0.0, 0.0, mirror=plan))
    bench.draws = draws
    call = bench.infer()
    bench.dispatcher.last.answer((0.0, 1.0, 0.0))
    return call


def names(bench: Bench) -> list[str]:
    return [work.name for work in bench.dispatcher.taken]


def test_a_sampled_request_is_copied_to_every_asked_arm_after_its_answer(
    bench: Bench, mirror_plan: Plan
) -> None:
    call = mirrored(bench, mirror_plan(), [0.9, 0.0, 0.99])
    assert call.response.model_version == "base"
    assert names(bench) == ["m/base", "m/a", "m/b"]
    for copy in bench.dispatcher.taken[1:]:
        assert copy.priority == MIRROR
        assert copy.deadline == bench.now + 30.0
        assert copy.inputs is bench.dispatcher.taken[0].inputs
    assert bench.journal.routed[0].flags == Flag.EVIDENCE | Flag.SAMPLED


def test_a_compared_copy_is_recorded_as_a_pair_of_the_same_assignment(
    bench: Bench, mirror_plan: Plan
) -> None:
    mirrored(bench, mirror_plan(arms=(2,)), [0.9, 0.0, 0.99])
    bench.dispatcher.last.answer((0.0, 0.0, 2.0))
    (pair,) = bench.journal.pairs
    assert pair.sequence == bench.journal.routed[0].sequence
    assert (pair.experiment, pair.epoch, pair.arm, pair.status) == (3, 9, 2, 0)
    assert (pair.agrees, pair.baseline_top1, pair.top1, pair.max_abs) == (False, 1, 2, 2.0)
    assert pair.kl is not None
    assert 0.1 < pair.kl < 10


def test_the_noise_floor_is_the_baseline_once_more(bench: Bench, mirror_plan: Plan) -> None:
    mirrored(bench, mirror_plan(arms=(1,), noise_floor=0.3), [0.9, 0.0, 0.29])
    assert names(bench) == ["m/base", "m/a", "m/base"]
    bench.dispatcher.last.answer((0.0, 1.0, 0.0))
    (pair,) = bench.journal.pairs
    assert (pair.arm, pair.agrees) == (0, True)


def test_a_request_that_is_not_drawn_is_not_copied(bench: Bench, mirror_plan: Plan) -> None:
    mirrored(bench, mirror_plan(fraction=0.2), [0.9, 0.2])
    assert names(bench) == ["m/base"]
    assert bench.journal.routed[0].flags == Flag.EVIDENCE


def test_a_candidates_own_request_is_not_copied(bench: Bench, mirror_plan: Plan) -> None:
    bench.publish(bench.route(0.5, 0.0, mirror=mirror_plan()))
    bench.draws = [0.1, 0.0]
    bench.infer()
    bench.dispatcher.last.answer()
    assert names(bench) == ["m/a"]


def test_a_failed_request_is_not_copied(bench: Bench, mirror_plan: Plan) -> None:
    bench.publish(bench.route(0.0, 0.0, mirror=mirror_plan()))
    bench.draws = [0.9, 0.0]
    bench.infer()
    bench.dispatcher.last.fail(FailureKind.ERROR)
    assert names(bench) == ["m/base"]


def test_a_copy_that_the_candidate_fails_counts_against_it(bench: Bench, mirror_plan: Plan) -> None:
    mirrored(bench, mirror_plan(arms=(1,)), [0.9, 0.0, 0.99])
    bench.dispatcher.last.fail(FailureKind.ERROR)
    (pair,) = bench.journal.pairs
    assert (pair.status, pair.agrees, pair.top1, pair.max_abs) == (13, False, -1, math.inf)


@pytest.mark.parametrize(
    "kind", [FailureKind.DEADLINE, FailureKind.SHED, FailureKind.REMOVED, FailureKind.INPUT]
)
def test_a_copy_that_never_ran_says_nothing_and_is_counted(
    bench: Bench, mirror_plan: Plan, kind: FailureKind
) -> None:
    mirrored(bench, mirror_plan(arms=(1,)), [0.9, 0.0, 0.99])
    bench.dispatcher.last.fail(kind)
    assert bench.journal.pairs == []
    assert bench.mirror.drops == {str(kind): 1}


def test_a_full_queue_and_a_missing_variant_drop_the_copy_with_their_reason(
    bench: Bench, mirror_plan: Plan
) -> None:
    bench.dispatcher.full, bench.dispatcher.gone = {"m/a"}, {"m/b"}
    call = mirrored(bench, mirror_plan(), [0.9, 0.0, 0.99])
    assert len(call.replies) == 1
    assert bench.mirror.drops == {"queue full": 1, "not served": 1}


def test_copies_in_flight_are_bounded_and_places_are_given_back(
    bench: Bench, mirror_plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_IN_FLIGHT", 3)
    plan = mirror_plan()
    for _ in range(2):
        mirrored(bench, plan, [0.9, 0.0, 0.99])
    assert bench.mirror.drops == {"in flight": 1}
    copies = [work for work in bench.dispatcher.taken if work.priority == MIRROR]
    assert len(copies) == 3
    copies[0].answer()
    copies[1].fail(FailureKind.DEADLINE)
    mirrored(bench, plan, [0.9, 0.0, 0.99])
    assert bench.mirror.drops["in flight"] == 1
    assert len([work for work in bench.dispatcher.taken if work.priority == MIRROR]) == 5


@pytest.mark.parametrize("generating", ["base", "a"])
def test_generated_text_is_not_compared_with_a_variant_that_says_no_logits(
    bench: Bench, mirror_plan: Plan, generating: str
) -> None:
    bench.publish(bench.route(0.0, 0.0, mirror=mirror_plan(arms=(1,))))
    bench.draws = [0.9, 0.0, 0.99]
    bench.infer()
    bench.backends[("m", generating)] = GenerationBackend(cast(Any, None), cast(Any, None))
    bench.dispatcher.last.answer((0.0, 1.0, 0.0))
    assert names(bench) == ["m/base"]
    assert bench.mirror.drops == {"not comparable": 1}
    assert bench.journal.pairs == []
