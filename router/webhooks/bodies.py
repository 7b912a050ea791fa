"""What is said to somebody outside: the questions of gates and the news of phases, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from anabranch.bandit.decision import Change, Decision
from anabranch.bandit.gating import Question
from anabranch.bandit.hooks import Format, GateKind
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.spec import Experiment
from anabranch.bandit.state import ExperimentState
from anabranch.store.outbox_port import Message


def question_key(experiment: str, identifier: int, question: Question) -> str:
    """The same for the same question, however often it is asked and by whichever controller."""
    parts = (experiment, identifier, question.gate.name, question.occasion, question.epoch, question.attempt)
    return sha256("/".join(map(str, parts)).encode()).hexdigest()[:32]


def question_body(experiment: Experiment, state: ExperimentState, question: Question, key: str) -> bytes:
    """What a gate is asked."""
    told = {
        "id": key,
        "type": "gate",
        "gate": question.gate.name,
        "kind": question.gate.kind,
        "occasion": question.occasion,
        **_standing(experiment, state),
        "text": f"{experiment.name}: may it go on with {question.occasion}?",
    }
    return json.dumps(told).encode()


def messages_of(
    experiment: Experiment, before: Phase, state: ExperimentState, decision: Decision | None, version: int
) -> tuple[Message, ...]:
    """What a decision has to be told of: every change of the phase, and the end to gates after the rollout.

    Args:
        experiment: What was asked for.
        before: The phase before the decision.
        state: After it.
        decision: None when nothing was decided.
        version: Of the spec.
    """
    if decision is None or decision.phase is before:
        return ()
    return tuple(_messages(experiment, before, state, decision, version))


def _messages(
    experiment: Experiment, before: Phase, state: ExperimentState, decision: Decision, version: int
) -> Iterator[Message]:
    reasons = [
        action.reason
        for action in decision.actions
        if action.change in (Change.PHASE, Change.REMOVED, Change.GATE)
    ]
    text = f"{experiment.name} ({experiment.model}): {before} → {decision.phase}. {'; '.join(reasons)}"
    base = f"{experiment.name}/{version}/{decision.number}"
    told: dict[str, Any] = {
        "type": "phase",
        **_standing(experiment, state),
        "from": before,
        "decision": decision.number,
        "at": datetime.fromtimestamp(decision.at_s, UTC).isoformat(),
        "reasons": reasons,
        "text": text,
    }
    for notification in experiment.notifications:
        if notification.phases and decision.phase not in notification.phases:
            continue
        key = f"{base}/{notification.name}"
        body = {"text": text} if notification.format is Format.SLACK else {"id": key, **told}
        yield Message(key=key, target=notification.name, webhook=notification.webhook, body=json.dumps(body))
    if not decision.phase.is_over:
        return
    for gate in experiment.gates_of(GateKind.POST_ROLLOUT):
        if gate.webhook is not None:
            key = f"{base}/{gate.name}"
            body = {"id": key, **told, "type": "gate", "gate": gate.name, "kind": gate.kind}
            yield Message(key=key, target=gate.name, webhook=gate.webhook, body=json.dumps(body))


def _standing(experiment: Experiment, state: ExperimentState) -> dict[str, Any]:
    return {
        "experiment": experiment.name,
        "model": experiment.model,
        "baseline": experiment.baseline,
        "phase": state.phase,
        "step": state.step + 1,
        "weights": dict(state.weights),
        "live": list(state.live),
        "winner": state.winner,
    }
