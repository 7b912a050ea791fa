from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from anabranch.bandit.decision import Change, Verb
from anabranch.bandit.gating import answer_text, questions, waiting_gates
from anabranch.bandit.hooks import Gate, GateKind, Webhook
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.spec import Algorithm, BanditStep, GateStep, PauseStep, PromoteStep, SetWeightStep, Step
from anabranch.bandit.state import Reply

Begin = Callable[..., Any]
Reasons = Callable[..., list[str]]

HOOK = Webhook(url="https://hooks.example.com/gate?token=x")
HOLD = PauseStep(duration_s=1e9)
BANDIT = BanditStep(
    algorithm=Algorithm.UNIFORM,
    max_weight=0.5,
    min_prob=0.05,
    update_period_s=5.0,
    min_duration_s=0.0,
    max_duration_s=1e9,
)
PROMOTE = PromoteStep(weights=(0.5, 1.0), interval_s=10.0, bake_s=20.0)


def gated(begin: Begin, gates: list[Gate], *steps: Step) -> Any:
    """An experiment with gates, before its first tick."""
    hand = begin(*steps, metrics="errors", candidates="a", started=False)
    hand.experiment = replace(hand.experiment, gates=tuple(gates))
    return hand


def gate(kind: GateKind, name: str = "g", **more: Any) -> Gate:
    return Gate(name=name, kind=kind, webhook=HOOK, **more)


def answer(hand: Any, reply: Reply, name: str = "g", *, occasion: str | None = None) -> Any:
    """A tick that hears what a gate's webhook said."""
    at = hand.state.gates[name].occasion if occasion is None else occasion
    return hand.tick((Verb.ANSWER, answer_text(name, reply, at, "HTTP 200")))


def waiting(hand: Any) -> list[str]:
    return [each.name for each in waiting_gates(hand.experiment, hand.state)]


@pytest.mark.parametrize("kind", [GateKind.CONFIRM_ROLLOUT, GateKind.PRE_ROLLOUT])
def test_nothing_starts_before_the_rollout_is_confirmed(begin: Begin, kind: GateKind) -> None:
    hand = gated(begin, [gate(kind)], SetWeightStep(weight=0.2), HOLD)
    first = hand.tick()
    assert "start waits for gate g" in first.decision.summary
    assert "token" not in first.decision.summary
    for reply in (Reply.NO, Reply.UNKNOWN):
        answer(hand, reply)
        assert (hand.state.phase, hand.state.weights) == (Phase.PENDING, {})
    answer(hand, Reply.YES)
    assert hand.state.phase is Phase.PROGRESSING
    assert hand.state.weights == {"base": 0.8, "a": 0.2}


def test_the_epoch_that_waited_without_weights_gets_none_later(begin: Begin) -> None:
    hand = gated(begin, [gate(GateKind.CONFIRM_ROLLOUT)], HOLD)
    hand.tick()
    waited = hand.state.epoch
    answer(hand, Reply.YES)
    assert hand.state.epoch > waited


def test_a_test_before_the_rollout_runs_once_the_rollout_is_confirmed(begin: Begin) -> None:
    gates = [gate(GateKind.PRE_ROLLOUT, "test"), gate(GateKind.CONFIRM_ROLLOUT, "ok")]
    hand = gated(begin, gates, HOLD)
    hand.tick()
    assert waiting(hand) == ["ok"]
    answer(hand, Reply.YES, "ok")
    assert waiting(hand) == ["test"]


def test_more_traffic_waits_for_its_gate_and_the_steps_clock_waits_too(begin: Begin) -> None:
    steps = (SetWeightStep(weight=0.1), PauseStep(duration_s=10.0), SetWeightStep(weight=0.3), HOLD)
    hand = gated(begin, [gate(GateKind.CONFIRM_TRAFFIC_INCREASE)], *steps)
    hand.tick()
    assert (hand.state.step, hand.state.weights["a"]) == (0, 0.0)
    hand.tick(after=1000.0)
    answer(hand, Reply.YES)
    assert (hand.state.step, hand.state.weights["a"]) == (1, 0.1)
    hand.tick(after=10.0)
    assert (hand.state.step, hand.state.weights["a"]) == (2, 0.1)
    assert waiting(hand) == ["g"]
    answer(hand, Reply.YES)
    assert (hand.state.step, hand.state.weights["a"]) == (3, 0.3)
    assert waiting(hand) == []


def test_a_gate_that_comes_in_flight_leaves_a_running_bandit_what_it_has_reached(begin: Begin) -> None:
    hand = begin(SetWeightStep(weight=0.1), BANDIT, metrics="latency errors", candidates="a", started=False)
    hand.tick()
    hand.tick(after=1.0)
    reached = dict(hand.state.weights)
    assert reached["a"] > 0.1
    hand.experiment = replace(hand.experiment, gates=(gate(GateKind.CONFIRM_TRAFFIC_INCREASE),))
    hand.tick(after=1.0)
    assert (waiting(hand), hand.state.weights) == (["g"], reached)


def test_less_traffic_waits_for_nobody(begin: Begin) -> None:
    steps = (SetWeightStep(weight=0.3), PauseStep(duration_s=10.0), SetWeightStep(weight=0.1), HOLD)
    hand = gated(begin, [gate(GateKind.CONFIRM_TRAFFIC_INCREASE)], *steps)
    hand.tick()
    answer(hand, Reply.YES)
    hand.tick(after=10.0)
    assert (hand.state.step, hand.state.weights["a"]) == (3, 0.1)


def test_every_step_of_a_ramp_waits_for_its_own_yes(begin: Begin) -> None:
    hand = gated(begin, [gate(GateKind.CONFIRM_TRAFFIC_INCREASE)], SetWeightStep(weight=0.2), HOLD, PROMOTE)
    hand.tick()
    answer(hand, Reply.YES)
    hand.tick((Verb.PROMOTE, "a"))
    assert hand.state.weights["a"] == 0.5
    hand.tick(after=50.0)
    assert hand.state.weights["a"] == 0.5
    assert hand.state.gates["g"].occasion == "step 3 part 2"
    answer(hand, Reply.YES)
    assert hand.state.weights["a"] == 1.0


def test_a_promotion_waits_while_guardrails_are_watched(begin: Begin) -> None:
    steps = (SetWeightStep(weight=0.5), PauseStep(duration_s=5.0), PROMOTE)
    hand = gated(begin, [gate(GateKind.CONFIRM_PROMOTION)], *steps)
    hand.tick()
    hand.see(requests={"base": 400, "a": 400}, after=6.0)
    assert hand.state.gates["g"].occasion == "promotion of a"
    hand.see(requests={"base": 400, "a": 4000}, failing=["a"])
    assert hand.state.phase is Phase.ROLLED_BACK
    assert waiting(hand) == []


def test_a_confirmed_promotion_begins(begin: Begin) -> None:
    steps = (SetWeightStep(weight=0.5), PauseStep(duration_s=5.0), PROMOTE)
    hand = gated(begin, [gate(GateKind.CONFIRM_PROMOTION)], *steps)
    hand.tick()
    hand.see(requests={"base": 400, "a": 400}, after=6.0)
    answer(hand, Reply.YES)
    assert hand.state.phase is Phase.PROMOTING


PHASES = [Phase.PROGRESSING, Phase.PAUSED, Phase.PROMOTING]


@pytest.mark.parametrize("phase", PHASES)
def test_a_rollback_gate_that_says_yes_rolls_back(begin: Begin, phase: Phase) -> None:
    hand = gated(begin, [gate(GateKind.ROLLBACK)], SetWeightStep(weight=0.2), HOLD, PROMOTE)
    hand.tick()
    asked = {Phase.PAUSED: (Verb.PAUSE,), Phase.PROMOTING: ((Verb.PROMOTE, "a"),)}
    hand.tick(*asked.get(phase, ()))
    assert [question.occasion for question in questions(hand.experiment, hand.state)] == ["rollback"]
    for reply in (Reply.NO, Reply.UNKNOWN):
        answer(hand, reply, occasion="rollback")
        assert hand.state.phase == phase, reply
    answer(hand, Reply.YES, occasion="rollback")
    assert hand.state.phase == Phase.ROLLED_BACK
    assert hand.state.weights == {"base": 1.0, "a": 0.0}


def test_a_gate_step_opens_by_a_person_or_ends_undecided(begin: Begin, reasons: Reasons) -> None:
    step = GateStep(gate=Gate(name="look", kind=GateKind.STEP), max_duration_s=60.0)
    hand = begin(SetWeightStep(weight=0.2), step, HOLD)
    assert hand.state.step == 1
    assert questions(hand.experiment, hand.state) == ()
    hand.tick((Verb.APPROVE, "look"))
    assert hand.state.step == 2
    late = begin(SetWeightStep(weight=0.2), step, HOLD)
    result = late.tick(after=60.0)
    assert late.state.phase is Phase.INCONCLUSIVE
    assert "gate look was not opened within 60 s" in reasons(result, Change.PHASE)[0]


def test_a_person_may_open_the_one_gate_that_waits_without_naming_it(begin: Begin, reasons: Reasons) -> None:
    hand = gated(begin, [gate(GateKind.CONFIRM_ROLLOUT)], HOLD)
    hand.tick()
    result = hand.tick((Verb.APPROVE, "other"))
    assert "gate other does not wait; waiting are g" in reasons(result, Change.REFUSED)[0]
    result = hand.tick(Verb.APPROVE)
    assert reasons(result, Change.GATE) == ["gate g is approved by ada"]
    assert hand.state.phase is Phase.PROGRESSING
    assert "waiting are none" in reasons(hand.tick(Verb.APPROVE), Change.REFUSED)[0]


def test_only_refusals_over_a_gates_own_limit_roll_back(begin: Begin, reasons: Reasons) -> None:
    hand = gated(begin, [gate(GateKind.PRE_ROLLOUT, failure_limit=1)], HOLD)
    hand.tick()
    for _ in range(20):
        answer(hand, Reply.UNKNOWN)
    answer(hand, Reply.NO)
    assert hand.state.phase == Phase.PENDING
    result = answer(hand, Reply.NO)
    assert hand.state.phase == Phase.ROLLED_BACK
    assert "refused 2 times > failureLimit 1" in reasons(result, Change.PHASE)[0]


def test_an_answer_that_comes_too_late_or_is_none_changes_nothing(begin: Begin, reasons: Reasons) -> None:
    hand = gated(begin, [gate(GateKind.CONFIRM_ROLLOUT)], HOLD)
    hand.tick()
    before = hand.state
    for argument in (
        answer_text("g", Reply.YES, "step 9", ""),
        answer_text("h", Reply.YES, "start", ""),
        "yes",
    ):
        result = hand.tick((Verb.ANSWER, argument))
        assert len(reasons(result, Change.REFUSED)) == 1
    assert replace(hand.state, decisions=before.decisions) == before


def test_the_same_question_has_the_same_number_until_an_answer_is_recorded(begin: Begin) -> None:
    hand = gated(begin, [gate(GateKind.CONFIRM_ROLLOUT)], HOLD)
    hand.tick()
    [first] = questions(hand.experiment, hand.state)
    hand.tick(after=100.0)
    assert questions(hand.experiment, hand.state) == (first,)
    answer(hand, Reply.NO)
    [second] = questions(hand.experiment, hand.state)
    assert (second.attempt, second.last) == (1, Reply.NO)


def test_a_retry_asks_anew(begin: Begin) -> None:
    hand = gated(begin, [gate(GateKind.CONFIRM_ROLLOUT)], HOLD)
    hand.tick()
    [first] = questions(hand.experiment, hand.state)
    answer(hand, Reply.YES)
    hand.tick(Verb.ABORT)
    hand.tick(Verb.RETRY)
    [again] = questions(hand.experiment, hand.state)
    assert hand.state.phase is Phase.PENDING
    assert again.epoch > first.epoch
