"""From the store's values to the control service's messages, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from anabranch.bandit.decision import Command
from anabranch.bandit.verdicts import Outcome, Verdict
from anabranch.proto import control_pb2 as pb
from anabranch.store.codec import decision_text, state_text
from anabranch.store.document import parse
from anabranch.store.hidden import hide_in_text, hide_webhooks
from anabranch.store.ledger_port import StoredSpec, Tenure
from anabranch.store.port import AuditEvent, StoredDecision, StoredExperiment
from anabranch.store.verify import Verification
from anabranch.variants.manifest import Manifest


def experiment_message(
    stored: StoredExperiment, pending: Iterable[Command], *, with_state: bool, hides: bool
) -> pb.Experiment:
    """An experiment; its salt stays here, as it would tell whose requests go where.

    Args:
        stored: What is kept.
        pending: Requests that no decision has answered.
        with_state: Whether the whole state goes along.
        hides: Whether addresses of webhooks are hidden.
    """
    experiment, state = parse(stored.document), stored.state
    message = pb.Experiment(
        id=stored.id,
        name=stored.name,
        model=experiment.model,
        baseline=experiment.baseline,
        candidates=experiment.candidates,
        phase=state.phase.value,
        is_over=state.phase.is_over,
        spec_version=stored.spec_version,
        state_version=stored.state_version,
        applied_s=stored.applied_s,
        started_s=state.started_s,
        step=min(state.step + 1, len(experiment.steps)) if state.started_s else 0,
        steps=len(experiment.steps),
        weights=dict(state.weights),
        live=state.live,
        removed=[
            pb.Removal(variant=gone.variant, at_s=gone.at_s, reason=gone.reason) for gone in state.removed
        ],
        requests={arm: totals.requests for arm, totals in state.totals.items()},
        verdicts=[_verdict(verdict) for verdict in state.verdicts.values()],
        pending=[command_message(command, hides=hides) for command in pending],
        document_json=_document_text(stored.document, hides=hides),
        first_delta=stored.first_delta,
        first_epoch=stored.first_epoch,
    )
    if state.winner is not None:
        message.winner = state.winner
    if with_state:
        message.state_json = state_text(state)
    return message


def command_message(command: Command, *, hides: bool) -> pb.Command:
    """A request that waits; see `experiment_message` for what is hidden."""
    argument = hide_in_text(command.argument) if hides else command.argument
    return pb.Command(id=command.id, verb=command.verb.value, argument=argument, actor=command.actor)


def decision_message(stored: StoredDecision) -> pb.Decision:
    """A decision, with the body that its hash is of."""
    decision = stored.decision
    return pb.Decision(
        spec_version=stored.spec_version,
        number=decision.number,
        at_s=decision.at_s,
        phase=decision.phase.value,
        weights=dict(decision.weights),
        actions=[
            pb.Action(change=action.change.value, variant=action.variant, reason=action.reason)
            for action in decision.actions
        ],
        handled=decision.handled,
        previous_hash=stored.previous_hash,
        hash=stored.hash,
        body_json=decision_text(decision),
        seal=stored.seal,
    )


def spec_message(spec: StoredSpec, *, hides: bool) -> pb.Spec:
    """A document that was applied."""
    return pb.Spec(
        version=spec.version,
        document_json=_document_text(spec.document, hides=hides),
        applied_s=spec.applied_s,
        actor=spec.actor,
    )


def tenure_message(tenure: Tenure) -> pb.Tenure:
    """A time in which a variant is its model's baseline."""
    return pb.Tenure(
        model=tenure.model,
        since_s=tenure.since_s,
        variant=tenure.variant,
        experiment=tenure.experiment,
        decision=tenure.decision,
        reason=tenure.reason,
    )


def event_message(event: AuditEvent, *, hides: bool) -> pb.Event:
    """A line of the audit log."""
    return pb.Event(
        id=event.id,
        at_s=event.at_s,
        actor=event.actor,
        experiment=event.experiment,
        verb=event.verb,
        detail=hide_in_text(event.detail) if hides else event.detail,
    )


def verification_message(found: Verification) -> pb.Verification:
    """What a recomputation found."""
    listed = [
        f"decision {bad.number} of spec version {bad.spec_version}: {problem}"
        for bad in found.decisions
        for problem in bad.problems
    ]
    return pb.Verification(
        matches=found.matches,
        decisions=len(found.decisions),
        verdicts=found.verdicts,
        head=found.head,
        problems=[*listed, *found.problems],
    )


def variant_message(manifest: Manifest, *, model: str, name: str, is_baseline: bool) -> pb.Variant:
    """A served variant, by its manifest."""
    message = pb.Variant(
        model=model,
        name=name,
        engine=manifest.engine.value,
        device=manifest.device.value,
        recipe=str(manifest.recipe.get("name", "")),
        size_bytes=manifest.size_bytes,
        is_baseline=is_baseline,
        gate="" if manifest.gate is None else Outcome(manifest.gate.outcome).value,
        gate_reason="" if manifest.gate is None else manifest.gate.reason,
        cache_key=manifest.cache_key,
        generates=manifest.generation is not None,
    )
    if manifest.latency:
        message.latency_ms = manifest.latency[0].p50_ms
    if manifest.task is not None:
        message.accuracy = manifest.task.value
    if manifest.parity is not None:
        message.top1_agreement = manifest.parity.top1_agreement
        message.compared = manifest.parity.requests
    if manifest.hourly_price is not None:
        message.hourly_price = manifest.hourly_price
    return message


def _document_text(document: Mapping[str, Any], *, hides: bool) -> str:
    return json.dumps(hide_webhooks(document) if hides else document, sort_keys=True)


def _verdict(verdict: Verdict) -> pb.Verdict:
    return pb.Verdict(
        metric=verdict.metric,
        variant=verdict.variant,
        outcome=verdict.outcome.value,
        samples=verdict.samples,
        estimate=verdict.estimate,
        low=verdict.low,
        high=verdict.high,
        baseline=verdict.baseline,
        limit=verdict.limit,
        reason=verdict.reason,
    )
