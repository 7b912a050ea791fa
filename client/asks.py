"""Every call as a value: the method, the message, and how the answer is read. Both clients only send them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from google.protobuf.message import Message

from anabranch.client import reading, values
from anabranch.proto import control_pb2 as pb
from anabranch.proto import feedback_pb2

CONTROL: Final = "/anabranch.v1.ControlService/"
SUBMIT: Final = "/anabranch.v1.FeedbackService/Submit"
MOST_OUTCOMES: Final = 10_000
"""Outcomes that one call takes."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask(Generic[T]):
    """One call.

    Attributes:
        method: Its full name.
        request: What is sent.
        response: Type of what comes.
        read: Turns that into a value.
    """

    method: str
    request: Message
    response: type[Message]
    read: Callable[[Any], T]


def who_am_i() -> Ask[values.Caller]:
    """Whom the server takes the caller for."""
    return _control("WhoAmI", pb.WhoAmIRequest(), pb.WhoAmIResponse, reading.caller)


def apply(document: str | Mapping[str, Any], *, dry_run: bool, force: bool) -> Ask[values.Applied]:
    """Create an experiment, or begin it anew."""
    request = pb.ApplyRequest(document=_text(document), dry_run=dry_run, force=force)
    return _control("Apply", request, pb.ApplyResponse, reading.applied)


def diff(document: str | Mapping[str, Any]) -> Ask[tuple[str, ...]]:
    """Compare a document with the applied one."""
    request = pb.DiffRequest(document=_text(document))
    return _control("Diff", request, pb.DiffResponse, lambda message: tuple(message.lines))


def experiments(model: str, *, with_state: bool) -> Ask[values.Experiment]:
    """Every experiment; a stream."""
    request = pb.ListRequest(model=model, with_state=with_state)
    return _control("List", request, pb.Experiment, reading.experiment)


def get(name: str, *, with_state: bool) -> Ask[values.Experiment]:
    """One experiment."""
    request = pb.GetRequest(name=name, with_state=with_state)
    return _control("Get", request, pb.Experiment, reading.experiment)


def watch(name: str, *, keep_going: bool) -> Ask[values.Experiment]:
    """One experiment after every change; a stream."""
    request = pb.WatchRequest(name=name, keep_going=keep_going)
    return _control("Watch", request, pb.Experiment, reading.experiment)


def describe(name: str, decisions: int) -> Ask[values.Described]:
    """One experiment with what happened to it."""
    request = pb.DescribeRequest(name=name, decisions=decisions)
    return _control("Describe", request, pb.DescribeResponse, reading.described)


def decisions(name: str, after: int) -> Ask[values.Decision]:
    """The decision log; a stream."""
    request = pb.DecisionsRequest(name=name, after=after)
    return _control("Decisions", request, pb.Decision, reading.decision)


def events(experiment: str) -> Ask[values.Event]:
    """The audit log; a stream."""
    return _control("Events", pb.EventsRequest(experiment=experiment), pb.Event, reading.event)


def request(name: str, verb: str, argument: str) -> Ask[values.Request]:
    """Ask something of an experiment."""
    asked = pb.CommandRequest(name=name, verb=verb, argument=argument)
    return _control("Request", asked, pb.Command, lambda message: reading.request(message, name))


def evidence(name: str, *, all_versions: bool) -> Ask[values.Evidence]:
    """What every tick folded in; a stream."""
    request = pb.EvidenceRequest(name=name, all_versions=all_versions)
    return _control("Evidence", request, pb.EvidenceBody, reading.evidence)


def specs(name: str) -> Ask[values.Spec]:
    """Every document of an experiment; a stream."""
    return _control("Specs", pb.SpecsRequest(name=name), pb.Spec, reading.spec)


def tenures(model: str) -> Ask[values.Tenure]:
    """Who served a model when; a stream."""
    return _control("Tenures", pb.TenuresRequest(model=model), pb.Tenure, reading.tenure)


def verify(name: str) -> Ask[values.Verification]:
    """Recompute every decision on the server."""
    return _control("Verify", pb.VerifyRequest(name=name), pb.Verification, reading.verification)


def variants(model: str) -> Ask[tuple[values.Variant, ...]]:
    """What is served."""
    return _control("Variants", pb.VariantsRequest(model=model), pb.VariantsResponse, reading.variants)


def submit(outcomes: list[feedback_pb2.Outcome]) -> Ask[tuple[values.FeedbackResult, ...]]:
    """Report outcomes, at most `MOST_OUTCOMES`."""

    def read(message: feedback_pb2.SubmitResponse) -> tuple[values.FeedbackResult, ...]:
        return tuple(
            values.FeedbackResult(accepted=each.accepted, problem=each.problem) for each in message.results
        )

    return Ask(
        method=SUBMIT,
        request=feedback_pb2.SubmitRequest(outcomes=outcomes),
        response=feedback_pb2.SubmitResponse,
        read=read,
    )


def _control(name: str, request: Message, response: type[Message], read: Callable[[Any], T]) -> Ask[T]:
    return Ask(method=CONTROL + name, request=request, response=response, read=read)


def _text(document: str | Mapping[str, Any]) -> str:
    return document if isinstance(document, str) else json.dumps(document)
