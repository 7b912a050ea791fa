"""From messages to values, field by field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeVar

from anabranch.client import values
from anabranch.proto import control_pb2 as pb

_Number = TypeVar("_Number", int, float)


def experiment(message: pb.Experiment) -> values.Experiment:
    """An experiment."""
    return values.Experiment(
        id=message.id,
        name=message.name,
        model=message.model,
        baseline=message.baseline,
        candidates=tuple(message.candidates),
        phase=message.phase,
        is_over=message.is_over,
        spec_version=message.spec_version,
        state_version=message.state_version,
        applied_s=message.applied_s,
        started_s=message.started_s,
        step=message.step,
        steps=message.steps,
        weights=_by_arm(message.weights, message),
        live=tuple(message.live),
        removed=tuple(
            values.Removal(variant=gone.variant, at_s=gone.at_s, reason=gone.reason)
            for gone in message.removed
        ),
        winner=message.winner if message.HasField("winner") else None,
        requests=_by_arm(message.requests, message),
        verdicts=tuple(_verdict(each) for each in message.verdicts),
        pending=tuple(request(each, message.name) for each in message.pending),
        document=json.loads(message.document_json),
        first_delta=message.first_delta,
        first_epoch=message.first_epoch,
        state_json=message.state_json,
    )


def _by_arm(given: Mapping[str, _Number], message: pb.Experiment) -> dict[str, _Number]:
    """The baseline first, then the candidates as the document has them: a protobuf map has no order."""
    places = {arm: place for place, arm in enumerate((message.baseline, *message.candidates))}
    return dict(sorted(given.items(), key=lambda item: places.get(item[0], len(places))))


def request(message: pb.Command, name: str) -> values.Request:
    """A request to an experiment."""
    return values.Request(
        id=message.id, experiment=name, verb=message.verb, argument=message.argument, actor=message.actor
    )


def decision(message: pb.Decision) -> values.Decision:
    """A decision."""
    return values.Decision(
        spec_version=message.spec_version,
        number=message.number,
        at_s=message.at_s,
        phase=message.phase,
        weights=dict(message.weights),
        actions=tuple(
            values.Action(change=each.change, variant=each.variant, reason=each.reason)
            for each in message.actions
        ),
        handled=tuple(message.handled),
        previous_hash=message.previous_hash,
        hash=message.hash,
        body_json=message.body_json,
        seal=message.seal,
    )


def evidence(message: pb.EvidenceBody) -> values.Evidence:
    """What one tick folded in."""
    return values.Evidence(body_json=message.body_json, spec_version=message.spec_version)


def spec(message: pb.Spec) -> values.Spec:
    """A document that was applied."""
    return values.Spec(
        version=message.version,
        document=json.loads(message.document_json),
        applied_s=message.applied_s,
        actor=message.actor,
    )


def tenure(message: pb.Tenure) -> values.Tenure:
    """A time in which a variant is its model's baseline."""
    return values.Tenure(
        model=message.model,
        since_s=message.since_s,
        variant=message.variant,
        experiment=message.experiment,
        decision=message.decision,
        reason=message.reason,
    )


def event(message: pb.Event) -> values.Event:
    """A line of the audit log."""
    return values.Event(
        id=message.id,
        at_s=message.at_s,
        actor=message.actor,
        experiment=message.experiment,
        verb=message.verb,
        detail=message.detail,
    )


def described(message: pb.DescribeResponse) -> values.Described:
    """An experiment with what happened to it."""
    return values.Described(
        experiment=experiment(message.experiment),
        decisions=tuple(decision(each) for each in message.decisions),
        events=tuple(event(each) for each in message.events),
    )


def applied(message: pb.ApplyResponse) -> values.Applied:
    """What applying came to."""
    found = experiment(message.experiment) if message.HasField("experiment") else None
    return values.Applied(name=message.name, outcome=message.outcome, experiment=found)


def verification(message: pb.Verification) -> values.Verification:
    """What a recomputation found."""
    return values.Verification(
        matches=message.matches,
        decisions=message.decisions,
        verdicts=message.verdicts,
        head=message.head,
        problems=tuple(message.problems),
    )


def variants(message: pb.VariantsResponse) -> tuple[values.Variant, ...]:
    """What is served."""
    return tuple(
        values.Variant(
            model=each.model,
            name=each.name,
            engine=each.engine,
            device=each.device,
            recipe=each.recipe,
            size_bytes=each.size_bytes,
            is_baseline=each.is_baseline,
            gate=each.gate,
            gate_reason=each.gate_reason,
            accuracy=each.accuracy if each.HasField("accuracy") else None,
            top1_agreement=each.top1_agreement if each.HasField("top1_agreement") else None,
            hourly_price=each.hourly_price if each.HasField("hourly_price") else None,
            cache_key=each.cache_key,
            compared=each.compared,
            latency_ms=each.latency_ms if each.HasField("latency_ms") else None,
            generates=each.generates,
        )
        for each in message.variants
    )


def caller(message: pb.WhoAmIResponse) -> values.Caller:
    """Whom the server takes the caller for."""
    return values.Caller(
        actor=message.actor,
        role=message.role,
        models=tuple(message.models),
        permissions=tuple(message.permissions),
        server_version=message.version,
    )


def _verdict(message: pb.Verdict) -> values.Verdict:
    return values.Verdict(
        metric=message.metric,
        variant=message.variant,
        outcome=message.outcome,
        samples=message.samples,
        estimate=message.estimate if message.HasField("estimate") else None,
        low=message.low if message.HasField("low") else None,
        high=message.high if message.HasField("high") else None,
        baseline=message.baseline if message.HasField("baseline") else None,
        limit=message.limit,
        reason=message.reason,
    )
