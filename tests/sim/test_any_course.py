"""Any order of outcomes, requests, answers, crashes and clocks: no illegal state, and never traffic to who has failed.

Ticks go through a store as a controller's do. A crash is a tick that is taken and never saved: the next one finds the
state from before, and what was published is always what was saved.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.bandit.decision import Command, Verb
from anabranch.bandit.evidence import Cell, Evidence, PairCell
from anabranch.bandit.gating import answer_text, questions
from anabranch.bandit.lifecycle import TRANSITIONS, Phase
from anabranch.bandit.state import ExperimentState, Reply
from anabranch.bandit.step import tick
from anabranch.store.document import parse
from anabranch.store.memory import MemoryStore
from anabranch.store.port import Conflict
from anabranch.store.verify import verify

HOOK = {"url": "https://hooks.example.com/x"}
DOCUMENT: dict[str, Any] = {
    "apiVersion": "anabranch/v1",
    "kind": "Experiment",
    "metadata": {"name": "exp"},
    "spec": {
        "model": "m",
        "baseline": "base",
        "candidates": ["a", "b"],
        "metrics": [
            {"name": "accuracy", "source": "feedback.correct", "role": "objective"},
            {"name": "errors", "source": "error", "role": "guardrail", "max": 0.2},
            {"name": "fidelity", "source": "mirror.top1_agreement", "role": "guardrail", "min": 0.8},
        ],
        "gates": [
            {"name": "start", "type": "confirm-rollout", "webhook": HOOK},
            {"name": "more", "type": "confirm-traffic-increase", "webhook": HOOK},
            {"name": "stop", "type": "rollback", "webhook": HOOK},
        ],
        "steps": [
            {"mirror": {"percent": 50, "until": {"fidelity": "decided"}, "maxDuration": "20s"}},
            {"setWeight": 20},
            {"gate": {"name": "look", "maxDuration": "5m"}},
            {"analysis": {"maxDuration": "2m"}},
            {"bandit": {"updatePeriod": "5s", "maxDuration": "2m", "minProb": 0.05}},
            {"promote": {"steps": [50, 100], "interval": "5s", "bake": "5s"}},
        ],
    },
}

ASKED = st.sampled_from(
    [
        *((verb, "") for verb in (Verb.PAUSE, Verb.RESUME, Verb.ABORT, Verb.RETRY, Verb.UNDO)),
        *((Verb.APPROVE, name) for name in ("", "look", "start")),
        *((Verb.PROMOTE, name) for name in ("a", "b", "base")),
        (Verb.PROMOTE_FULL, "a"),
        (Verb.ANSWER, "nonsense"),
        (Verb.ANSWER, answer_text("more", Reply.YES, "step 9", "")),
    ]
)
TICK = st.fixed_dictionaries(
    {
        "after": st.sampled_from([-30.0, 0.0, 1.0, 7.0, 7.0, 7.0, 400.0]),
        "asked": st.one_of(st.just([]), st.just([]), st.just([]), st.lists(ASKED, max_size=2)),
        "reply": st.sampled_from([Reply.YES, Reply.YES, Reply.YES, None, Reply.NO, Reply.UNKNOWN]),
        "rollback": st.sampled_from([False] * 30 + [True]),
        "requests": st.sampled_from([2000, 400, 60, 0]),
        "failing": st.sampled_from(["", "", "", "a", "b"]),
        "dies": st.sampled_from([False] * 5 + [True]),
    }
)


def outcomes(state: ExperimentState, requests: int, failing: str) -> tuple[list[Cell], list[PairCell]]:
    cells, pairs = [], []
    for arm, share in state.weights.items():
        n = round(requests * share)
        if n:
            bad = n if arm == failing else 0
            metrics = {"error": {0: n - bad, 1: bad}, "feedback.correct": {0: n // 10, 1: n - n // 10}}
            cells.append(Cell(epoch=state.epoch, variant=arm, units=n, requests=n, metrics=metrics))
    if state.mirror:
        pairs = [
            PairCell(
                epoch=state.epoch, variant=arm, pairs=100, metrics={"mirror.top1_agreement": {0: 5, 1: 95}}
            )
            for arm in state.live
        ]
    return cells, pairs


def check(before: ExperimentState, after: ExperimentState) -> None:
    reachable = {before.phase}
    for _ in range(6):
        reachable |= {to for (at, _event), to in TRANSITIONS.items() if at in reachable}
    assert after.phase in reachable
    if after.weights:
        assert abs(sum(after.weights.values()) - 1.0) < 1e-9
        assert min(after.weights.values()) >= 0.0
    for removal in after.removed:
        if after.phase is not Phase.PROMOTED or after.winner != removal.variant:
            assert after.weights.get(removal.variant, 0.0) == 0.0, removal
    if after.phase in (Phase.PENDING, Phase.ROLLED_BACK, Phase.ABORTED, Phase.INCONCLUSIVE):
        assert all(share == 0.0 for arm, share in after.weights.items() if arm != "base")
    if dict(before.weights) != dict(after.weights) and before.weights:
        assert after.epoch > before.epoch
    assert after.decisions >= before.decisions
    assert after.cursor >= before.cursor


@settings(max_examples=40, deadline=None)
@given(st.lists(TICK, min_size=12, max_size=40))
def test_no_course_of_events_reaches_an_illegal_state_or_acts_unsaved(
    course: Sequence[dict[str, Any]],
) -> None:
    store = MemoryStore()
    store.apply(DOCUMENT, "ada", 1.0)
    experiment, now = parse(DOCUMENT), 100.0
    for event in course:
        now += event["after"]
        kept = store.experiment("exp")
        state = kept.state
        cells, pairs = outcomes(state, event["requests"], event["failing"])
        if cells or pairs:
            with store.ingestion() as ingestion:
                ingestion.add_delta(kept.id, cells, pairs)
        for verb, argument in event["asked"]:
            store.request("exp", verb, argument, "ada", now)
        for question in questions(experiment, state):
            reply = event["reply"]
            if question.occasion == "rollback":
                reply = Reply.YES if event["rollback"] else None
            if reply is not None:
                argument = answer_text(question.gate.name, reply, question.occasion, "HTTP")
                store.request("exp", Verb.ANSWER, argument, f"gate:{question.gate.name}", now)
        evidence = replace(store.load_evidence("exp", state.cursor), at_s=now)
        asked: tuple[Command, ...] = store.pending("exp")
        result = tick(experiment, state, evidence, asked, now)
        assert result == tick(experiment, state, evidence, asked, now), (
            "a tick that is repeated comes out the same"
        )
        check(state, result.state)
        if event["dies"]:
            assert store.experiment("exp") == kept
            assert store.pending("exp") == asked
            continue
        store.save(
            "exp",
            expected=kept.state_version,
            state=result.state,
            evidence=evidence,
            decision=result.decision,
        )
        try:
            store.save(
                "exp",
                expected=kept.state_version,
                state=state,
                evidence=Evidence(experiment="exp"),
                decision=None,
            )
        except Conflict:
            pass
        else:
            raise AssertionError("a controller that was late has overwritten a newer state")
    found = verify(store, "exp")
    assert found.matches, (found.first_mismatch, found.problems)
