from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from anabranch.bandit.decision import Change, Verb
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.spec import (
    Algorithm,
    AnalysisStep,
    BanditStep,
    MirrorStep,
    PauseStep,
    PromoteStep,
    SetWeightStep,
)
from anabranch.bandit.verdicts import Outcome

Begin = Callable[..., Any]
Reasons = Callable[..., list[str]]

MIRROR = MirrorStep(fraction=0.5, until_decided=("fidelity",), max_duration_s=60.0)
BANDIT = BanditStep(
    algorithm=Algorithm.THOMPSON,
    max_weight=0.5,
    min_prob=0.05,
    update_period_s=5.0,
    min_duration_s=0.0,
    max_duration_s=30.0,
)
PROMOTE = PromoteStep(weights=(0.5, 1.0), interval_s=10.0, bake_s=20.0)
ANALYSIS = AnalysisStep(min_duration_s=0.0, max_duration_s=None)
FOREVER = PauseStep(duration_s=None)


def test_the_first_tick_starts_with_all_traffic_on_the_baseline(begin: Begin) -> None:
    hand = begin(PauseStep(duration_s=10.0))
    assert hand.state.phase is Phase.PROGRESSING
    assert hand.state.live == ("a", "b")
    assert hand.state.weights == {"base": 1.0, "a": 0.0, "b": 0.0}


def test_a_tick_without_news_decides_nothing(begin: Begin) -> None:
    hand = begin(PauseStep(duration_s=10.0))
    hand.tick()
    before = hand.state
    assert hand.tick().decision is None
    assert hand.state == before


def test_a_mirror_step_ends_when_its_metrics_are_decided(begin: Begin) -> None:
    hand = begin(MIRROR, FOREVER)
    assert hand.state.mirror == 0.5
    hand.see(pairs=10)
    assert (hand.state.step, hand.state.mirror) == (0, 0.5)
    hand.see(pairs=100)
    assert (hand.state.step, hand.state.mirror) == (1, 0.0)


def test_a_mirror_step_without_metrics_ends_with_its_time(begin: Begin) -> None:
    hand = begin(replace(MIRROR, until_decided=()), FOREVER)
    hand.tick(after=59.0)
    assert (hand.state.step, hand.state.mirror) == (0, 0.5)
    hand.tick(after=1.0)
    assert (hand.state.step, hand.state.mirror) == (1, 0.0)


def test_an_undecided_mirror_goes_on_beside_the_next_steps_until_it_is_decided(begin: Begin) -> None:
    hand = begin(MIRROR, SetWeightStep(weight=0.1), FOREVER)
    hand.tick(after=60.0)
    assert (hand.state.step, hand.state.mirror) == (2, 0.5)
    assert hand.state.weights["a"] == 0.1
    hand.see(pairs=100)
    assert hand.state.mirror == 0.0


def test_a_mirror_ends_when_the_undecided_candidate_is_removed(begin: Begin) -> None:
    hand = begin(MIRROR, SetWeightStep(weight=0.1), FOREVER, metrics="fidelity errors")
    hand.tick(after=60.0)
    hand.see(pairs=200, differing=["a"])
    assert hand.state.live == ("b",)
    assert hand.state.mirror == 0.0


@pytest.mark.parametrize("paused_in", ["the mirror step", "the step after"])
def test_a_mirror_survives_a_pause(begin: Begin, paused_in: str) -> None:
    hand = begin(MIRROR, SetWeightStep(weight=0.1), PauseStep(duration_s=500.0))
    if paused_in == "the step after":
        hand.tick(after=60.0)
    hand.tick(Verb.PAUSE)
    hand.tick(after=100.0)
    hand.tick(Verb.RESUME)
    assert hand.state.mirror == 0.5


@pytest.mark.parametrize("verb", [Verb.ABORT, Verb.PROMOTE])
def test_a_mirror_ends_with_the_phase_that_asked_for_it(begin: Begin, verb: Verb) -> None:
    hand = begin(MIRROR, PROMOTE)
    hand.tick(verb)
    assert hand.state.mirror == 0.0


def test_set_weight_gives_every_live_candidate_its_share_and_passes_on_at_once(begin: Begin) -> None:
    hand = begin(SetWeightStep(weight=0.1), SetWeightStep(weight=0.3), FOREVER)
    assert hand.state.weights == {"base": pytest.approx(0.4), "a": 0.3, "b": 0.3}
    assert (hand.state.step, hand.state.epoch) == (2, 1)


def test_a_timed_pause_waits_and_a_step_back_of_the_clock_only_prolongs_it(begin: Begin) -> None:
    hand = begin(PauseStep(duration_s=10.0), SetWeightStep(weight=0.1), FOREVER)
    hand.tick(after=9.0)
    hand.tick(after=-3600.0)
    assert hand.state.step == 0
    hand.tick(after=3600.0)
    assert hand.state.step == 0
    hand.tick(after=1.0)
    assert hand.state.step == 2


def test_a_clock_that_steps_back_freezes_time_and_never_turns_it_round(begin: Begin) -> None:
    hand = begin(SetWeightStep(weight=0.2), BANDIT, metrics="latency errors")
    hand.tick(after=6.0)
    allocated, at = hand.state.allocated_s, hand.state.epoch_started_s
    result = hand.tick(Verb.PAUSE, after=-3600.0)
    assert result.decision.at_s >= at
    assert hand.state.allocated_s == allocated
    hand.tick(Verb.RESUME)
    hand.tick()
    assert hand.state.phase is Phase.PROGRESSING


def test_a_pause_without_a_time_waits_for_a_person(begin: Begin) -> None:
    hand = begin(FOREVER, SetWeightStep(weight=0.1), PauseStep(duration_s=5.0))
    assert hand.state.phase is Phase.PAUSED
    hand.tick(after=1e6)
    assert (hand.state.phase, hand.state.step) == (Phase.PAUSED, 0)
    hand.tick(Verb.RESUME)
    assert (hand.state.phase, hand.state.step) == (Phase.PROGRESSING, 2)


def test_an_analysis_waits_for_every_guardrail_of_every_live_candidate(begin: Begin) -> None:
    hand = begin(SetWeightStep(weight=0.3), ANALYSIS, FOREVER, metrics="errors")
    for _ in range(3):
        hand.see(requests={"base": 40, "a": 200})
    assert hand.state.step == 1
    hand.see(requests={"base": 40, "b": 200})
    assert (hand.state.step, hand.state.phase) == (2, Phase.PAUSED)


def test_an_analysis_keeps_its_minimum_time(begin: Begin) -> None:
    hand = begin(
        SetWeightStep(weight=0.3),
        AnalysisStep(min_duration_s=60.0, max_duration_s=None),
        FOREVER,
        metrics="errors",
    )
    hand.see(requests={"base": 40, "a": 200, "b": 200})
    hand.tick(after=50.0)
    assert hand.state.step == 1
    hand.tick(after=10.0)
    assert hand.state.step == 2


def test_an_analysis_out_of_time_is_inconclusive_and_keeps_the_baseline(
    begin: Begin, reasons: Reasons
) -> None:
    hand = begin(SetWeightStep(weight=0.3), AnalysisStep(min_duration_s=0.0, max_duration_s=60.0))
    result = hand.tick(after=60.0)
    assert hand.state.phase is Phase.INCONCLUSIVE
    assert hand.state.weights == {"base": 1.0, "a": 0.0, "b": 0.0}
    assert "a: fidelity, errors; b: fidelity, errors" in reasons(result, Change.PHASE)[0]


def test_an_analysis_without_a_limit_holds_forever_without_data(begin: Begin) -> None:
    hand = begin(SetWeightStep(weight=0.3), ANALYSIS, PROMOTE)
    for _ in range(50):
        assert hand.tick(after=86_400.0).decision is None
    assert (hand.state.phase, hand.state.step) == (Phase.PROGRESSING, 1)


def test_a_failing_candidate_is_removed_and_its_traffic_goes_to_the_baseline(begin: Begin) -> None:
    hand = begin(SetWeightStep(weight=0.3), ANALYSIS, metrics="errors")
    epoch = hand.state.epoch
    hand.see(requests={"base": 40, "a": 100, "b": 100}, failing=["a"])
    assert hand.state.live == ("b",)
    assert [removal.variant for removal in hand.state.removed] == ["a"]
    assert hand.state.weights == {"base": 0.7, "a": 0.0, "b": 0.3}
    assert hand.state.epoch == epoch + 1


@pytest.mark.parametrize("phase", [Phase.PROGRESSING, Phase.PAUSED, Phase.INCONCLUSIVE])
def test_when_no_candidate_is_left_the_experiment_is_rolled_back(begin: Begin, phase: Phase) -> None:
    hand = begin(
        SetWeightStep(weight=0.3), AnalysisStep(min_duration_s=0.0, max_duration_s=60.0), metrics="errors"
    )
    if phase is Phase.PAUSED:
        hand.tick(Verb.PAUSE)
    requests = hand.traffic(400)
    if phase is Phase.INCONCLUSIVE:
        hand.tick(after=60.0)
    assert hand.state.phase is phase
    hand.see(requests=requests, failing=["a", "b"])
    assert hand.state.phase is Phase.ROLLED_BACK
    assert hand.state.weights == {"base": 1.0, "a": 0.0, "b": 0.0}
    assert hand.tick(after=1e6).decision is None


def test_a_bandit_moves_weights_every_period_within_its_limits(begin: Begin) -> None:
    hand = begin(SetWeightStep(weight=0.1), BANDIT, metrics="latency errors")
    epochs = {hand.state.epoch}
    for _ in range(20):
        hand.tick()
        epochs.add(hand.state.epoch)
        for candidate in hand.state.live:
            assert 0.05 <= hand.state.weights[candidate] <= 0.5
        assert hand.state.weights["base"] >= 0.1 - 1e-9
    assert len(epochs) <= 1 + 20 // 5


def test_a_bandit_ends_with_a_proven_winner_only(begin: Begin, reasons: Reasons) -> None:
    hand = begin(SetWeightStep(weight=0.2), BANDIT, PROMOTE, metrics="latency errors")
    for _ in range(29):
        result = hand.see(requests=hand.traffic(2000))
        if hand.state.phase is not Phase.PROGRESSING:
            break
    assert hand.state.phase is Phase.PROMOTING
    assert hand.state.winner in ("a", "b")
    assert hand.state.verdicts[f"latency/{hand.state.winner}"].outcome is Outcome.PASS
    assert hand.state.verdicts[f"errors/{hand.state.winner}"].outcome is Outcome.PASS
    assert reasons(result, Change.WINNER)


def test_a_bandit_out_of_time_without_a_proven_candidate_keeps_the_baseline(begin: Begin) -> None:
    hand = begin(SetWeightStep(weight=0.2), BANDIT, PROMOTE, metrics="latency errors")
    hand.tick(after=30.0)
    assert hand.state.phase is Phase.INCONCLUSIVE
    assert hand.state.weights["base"] == 1.0


def test_a_bandit_keeps_its_minimum_time(begin: Begin) -> None:
    hand = begin(
        SetWeightStep(weight=0.2),
        replace(BANDIT, min_duration_s=25.0),
        PROMOTE,
        metrics="latency errors",
        candidates="a",
    )
    for _ in range(24):
        hand.see(requests=hand.traffic())
    assert hand.state.phase is Phase.PROGRESSING
    hand.see(requests=hand.traffic())
    assert (hand.state.phase, hand.state.winner) == (Phase.PROMOTING, "a")


@pytest.mark.parametrize(("step", "live"), [(BANDIT, ("b",)), (ANALYSIS, ("a", "b"))])
def test_a_candidate_proven_slower_is_removed_by_a_bandit_but_not_by_an_analysis(
    begin: Begin, step: BanditStep | AnalysisStep, live: tuple[str, ...]
) -> None:
    hand = begin(SetWeightStep(weight=0.2), step, metrics="latency fidelity")
    for _ in range(8):
        hand.see(requests={"base": 600, "a": 200, "b": 200}, slow=["a"])
    assert hand.state.live == live
    assert hand.state.verdicts["latency/a"].outcome is Outcome.FAIL


def test_a_promotion_climbs_bakes_and_commits(begin: Begin) -> None:
    hand = begin(SetWeightStep(weight=0.2), ANALYSIS, PROMOTE, metrics="errors", candidates="a")
    result = hand.see(requests={"base": 800, "a": 200})
    assert (hand.state.phase, hand.state.winner) == (Phase.PROMOTING, "a")
    assert hand.state.weights["a"] == 0.5
    hand.tick(after=9.0)
    assert hand.state.weights["a"] == 0.5
    hand.tick(after=1.0)
    assert hand.state.weights["a"] == 1.0
    assert hand.tick(after=19.0).promoted is None
    result = hand.tick(after=1.0)
    assert result.promoted == "a"
    assert hand.state.phase is Phase.PROMOTED
    assert hand.state.weights == {"base": 0.0, "a": 1.0}


@pytest.mark.parametrize("part", [0, 1])
def test_a_failure_during_the_promotion_rolls_back(begin: Begin, part: int) -> None:
    hand = begin(SetWeightStep(weight=0.2), ANALYSIS, PROMOTE, metrics="errors", candidates="a b")
    hand.see(requests={"base": 600, "a": 200, "b": 200})
    winner = hand.state.winner
    assert (hand.state.phase, winner in ("a", "b")) == (Phase.PROMOTING, True)
    if part:
        hand.tick(after=10.0)
    assert hand.state.part == part
    result = hand.see(requests={winner: 1000}, failing=[winner])
    assert (hand.state.phase, hand.state.winner) == (Phase.ROLLED_BACK, None)
    assert hand.state.weights["base"] == 1.0
    assert result.promoted is None
    assert result.reverted is False


def test_a_winner_that_fails_before_its_promotion_makes_room_for_the_next_sound_one(begin: Begin) -> None:
    hand = begin(
        SetWeightStep(weight=0.2), BANDIT, PauseStep(duration_s=100.0), PROMOTE, metrics="latency errors"
    )
    for _ in range(29):
        hand.see(requests=hand.traffic(2000))
    hand.see(requests=hand.traffic(2000))
    first = hand.state.winner
    [other] = {"a", "b"} - {first}
    hand.see(requests=hand.traffic(200_000), failing=[first])
    assert (hand.state.phase, hand.state.live, hand.state.winner) == (Phase.PROGRESSING, (other,), None)
    hand.tick(after=100.0)
    assert (hand.state.phase, hand.state.winner) == (Phase.PROMOTING, other)


def test_nothing_is_promoted_without_every_guardrail(begin: Begin) -> None:
    hand = begin(SetWeightStep(weight=0.2), PROMOTE, metrics="errors fidelity", candidates="a")
    assert hand.state.phase is Phase.INCONCLUSIVE
    assert hand.state.winner is None


def test_nothing_is_promoted_while_units_get_lost(begin: Begin) -> None:
    hand = begin(SetWeightStep(weight=0.2), PROMOTE, metrics="errors", candidates="a")
    assert hand.state.phase is Phase.INCONCLUSIVE
    hand = begin(
        SetWeightStep(weight=0.2),
        replace(ANALYSIS, min_duration_s=2.0),
        PROMOTE,
        metrics="errors",
        candidates="a",
    )
    hand.see(requests={"base": 1000, "a": 200})
    result = hand.see(requests={"base": 2000, "a": 400}, after=2.0)
    assert (hand.state.phase, hand.state.weights["base"]) == (Phase.INCONCLUSIVE, 1.0)
    assert result.decision is not None
    assert "units do not arrive as the weights say" in result.decision.summary


def test_without_a_promote_step_a_person_decides_at_the_end(begin: Begin) -> None:
    hand = begin(SetWeightStep(weight=0.2), ANALYSIS, metrics="errors", candidates="a")
    hand.see(requests={"base": 100, "a": 200})
    assert (hand.state.phase, hand.state.step) == (Phase.PAUSED, 2)
    assert hand.state.weights["a"] == 0.2
    result = hand.tick(Verb.PROMOTE)
    assert (hand.state.phase, result.promoted) == (Phase.PROMOTED, "a")
    assert hand.state.weights == {"base": 0.0, "a": 1.0}


def test_a_pause_by_a_person_stops_the_clock_of_the_step(begin: Begin) -> None:
    hand = begin(SetWeightStep(weight=0.2), replace(BANDIT, max_duration_s=30.0), metrics="latency errors")
    hand.tick(after=20.0)
    hand.tick(Verb.PAUSE)
    hand.tick(after=3600.0)
    hand.tick(Verb.RESUME)
    assert hand.state.phase is Phase.PROGRESSING
    hand.tick(after=8.0)
    assert hand.state.phase is Phase.PROGRESSING
    hand.tick(after=1.0)
    assert (hand.state.phase, hand.state.step) == (Phase.INCONCLUSIVE, 1)


def test_a_paused_experiment_keeps_its_weights_and_still_removes_what_fails(begin: Begin) -> None:
    hand = begin(SetWeightStep(weight=0.2), ANALYSIS, metrics="errors")
    hand.tick(Verb.PAUSE)
    weights, epoch = hand.state.weights, hand.state.epoch
    hand.tick(after=100.0)
    assert (hand.state.weights, hand.state.epoch) == (weights, epoch)
    hand.see(requests={"base": 60, "a": 100, "b": 100}, failing=["b"])
    assert hand.state.phase is Phase.PAUSED
    assert hand.state.weights == {"base": 0.8, "a": 0.2, "b": 0.0}


def test_a_decision_and_its_tick_are_repeated_exactly(begin: Begin) -> None:
    first, second = (
        begin(SetWeightStep(weight=0.2), BANDIT, PROMOTE, metrics="latency errors") for _ in range(2)
    )
    for hand in (first, second):
        for _ in range(6):
            hand.see(requests=hand.traffic())
    assert first.state == second.state


def test_an_analysis_before_a_promotion_waits_for_the_objective(begin: Begin) -> None:
    hand = begin(SetWeightStep(weight=0.2), ANALYSIS, PROMOTE, metrics="latency errors", candidates="a")
    hand.see(requests={"base": 800, "a": 200})
    assert hand.state.verdicts["errors/a"].outcome is Outcome.PASS
    assert (hand.state.phase, hand.state.step) == (Phase.PROGRESSING, 1)
    for _ in range(5):
        hand.see(requests={"base": 800, "a": 200})
    assert (hand.state.phase, hand.state.winner) == (Phase.PROMOTING, "a")


def test_an_analysis_ends_undecided_when_every_candidate_is_proven_slower(begin: Begin) -> None:
    hand = begin(SetWeightStep(weight=0.2), ANALYSIS, PROMOTE, metrics="latency errors", candidates="a")
    for _ in range(8):
        hand.see(requests=hand.traffic(1000), slow=["a"])
    assert (hand.state.phase, hand.state.weights["base"]) == (Phase.INCONCLUSIVE, 1.0)


def test_latencies_from_before_the_split_do_not_count_in_the_comparison(begin: Begin) -> None:
    hand = begin(
        PauseStep(duration_s=10.0), SetWeightStep(weight=0.2), ANALYSIS, metrics="latency", candidates="a"
    )
    for _ in range(5):
        hand.see(requests={"base": 5000}, slow=["base"])
    assert hand.state.totals["base"].split.get("latency_ms", {}) == {}
    assert hand.state.reference["latency_ms"] == {}
    hand.tick(after=10.0)
    hand.see(requests={"base": 800, "a": 200})
    assert sum(hand.state.totals["base"].split["latency_ms"].values()) == 800
