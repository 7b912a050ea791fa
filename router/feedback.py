"""The feedback service: outcomes of earlier answers, checked, written to the journal, then acknowledged."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable

from anabranch.bandit.snapshot import FeedbackRule
from anabranch.proto import feedback_pb2 as pb
from anabranch.proto.strict import UnknownField, read_strictly
from anabranch.router.access.guard import Guard
from anabranch.router.assignment_id import AssignmentIds, ForgedAssignment
from anabranch.router.recorder import Recorder
from anabranch.router.routes import Routes
from anabranch.store.access import Permission
from anabranch.store.records import Feedback
from anabranch.wire.seam import Call, Handlers, Status

SUBMIT = "/anabranch.v1.FeedbackService/Submit"
MOST_OUTCOMES = 10_000
_DEFAULT_METRIC = "correct"
# As in an experiment's document.
_METRIC = re.compile(r"[a-z0-9_]{1,64}")


class UnusableOutcome(ValueError):
    """The outcome cannot be counted as sent."""


class FeedbackService:
    """Takes feedback in one worker.

    Args:
        ids: Reads assignment ids.
        routes: Which experiments go on, and what they take.
        recorder: Makes feedback durable.
        wall_clock: Seconds since 1970.
        guard: Who may report; None lets everybody.
        may_report: Whether a caller may report so many outcomes now.
        caller_of: Whom a call is counted to that nobody has proven to make.

    Attributes:
        counts: Outcomes by what became of them.
    """

    def __init__(
        self,
        *,
        ids: AssignmentIds,
        routes: Routes,
        recorder: Recorder,
        wall_clock: Callable[[], float],
        guard: Guard | None = None,
        may_report: Callable[[str, int], bool] = lambda _caller, _outcomes: True,
        caller_of: Callable[[Call], str] = lambda call: call.peer.rpartition(":")[0],
    ) -> None:
        self._ids = ids
        self._routes = routes
        self._recorder = recorder
        self._wall_clock = wall_clock
        self._guard = guard
        self._may_report = may_report
        self._caller_of = caller_of
        self.counts: Counter[str] = Counter()

    def handlers(self) -> Handlers:
        """What a wire serves."""
        return Handlers(unary={SUBMIT: self.submit})

    def submit(self, call: Call, message: bytes) -> None:
        """Handle one call: every outcome is answered for itself."""
        principal = None
        if self._guard is not None and (principal := self._guard.admit(call, Permission.FEEDBACK)) is None:
            return
        models = frozenset[str]() if principal is None else principal.models
        caller = self._caller_of(call) if principal is None else principal.actor
        try:
            request = read_strictly(pb.SubmitRequest, message)
        except UnknownField as error:
            call.fail(Status.INVALID_ARGUMENT, str(error))
            return
        except Exception as error:  # noqa: BLE001  # protobuf raises its own DecodeError from C
            call.fail(Status.INVALID_ARGUMENT, f"the message is no SubmitRequest: {error}")
            return
        if len(request.outcomes) > MOST_OUTCOMES:
            call.fail(
                Status.INVALID_ARGUMENT,
                f"{len(request.outcomes)} outcomes in one call, at most {MOST_OUTCOMES} are taken: split them",
            )
            return
        if not self._may_report(caller, len(request.outcomes)):
            self.counts["over rate"] += len(request.outcomes)
            call.fail(
                Status.RESOURCE_EXHAUSTED,
                "more feedback comes from you than is taken a second: send it again later, and slower",
            )
            return
        if not self._recorder.is_able():
            # Acknowledged means durable: what cannot be written is not acknowledged.
            call.fail(Status.UNAVAILABLE, "feedback cannot be written now, send it again later")
            return
        response = pb.SubmitResponse()
        for outcome in request.outcomes:
            result = response.results.add()
            try:
                self._recorder.record(self._read(outcome, models))
            except (ForgedAssignment, UnusableOutcome) as error:
                result.problem = str(error)
                self.counts["refused"] += 1
            else:
                result.accepted = True
                self.counts["accepted"] += 1
        self._recorder.commit()
        if not self._recorder.is_able():
            call.fail(Status.UNAVAILABLE, "feedback cannot be written now, send it again later")
            return
        call.reply(response.SerializeToString())

    def _read(self, outcome: pb.Outcome, models: frozenset[str]) -> Feedback:
        assignment = self._ids.open(outcome.assignment_id)
        metric = outcome.metric or _DEFAULT_METRIC
        if not _METRIC.fullmatch(metric):
            raise UnusableOutcome(
                f"metric {metric[:80]!r} must be 1 to 64 lower-case letters, digits and _: send the name after feedback."
            )
        kind = outcome.WhichOneof("outcome")
        if kind is None:
            raise UnusableOutcome("the outcome is empty: set correct, label or value")
        value = float(getattr(outcome, kind))
        if not math.isfinite(value):
            raise UnusableOutcome(f"{metric} is {value:g}, no number to count: leave the outcome out")
        if kind == "label" and value < 0:
            raise UnusableOutcome(
                f"label is {value:g}, classes count from 0: leave out an outcome whose class is not known"
            )
        route = self._routes.active().get(assignment.experiment)
        if models and (route is None or route.model not in models):
            raise UnusableOutcome("the assignment is of a model that is none of the caller's")
        if route is not None:
            _check(route.feedback.get(metric), metric, kind, value, sorted(route.feedback))
        if kind == "label" and assignment.top1 < 0:
            raise UnusableOutcome("the answer had no class to compare the label with: send correct or value")
        return Feedback(
            at_s=self._wall_clock(),
            experiment=assignment.experiment,
            epoch=assignment.epoch,
            arm=assignment.arm,
            flags=assignment.flags,
            lane=assignment.lane,
            sequence=assignment.sequence,
            top1=assignment.top1,
            is_label=kind == "label",
            value=value,
            metric=metric,
        )


def _check(rule: FeedbackRule | None, metric: str, kind: str, value: float, known: list[str]) -> None:
    """Refuse a metric that the experiment does not use, and a value outside its range."""
    if rule is None:
        names = ", ".join(known) or "no feedback"
        raise UnusableOutcome(f"metric {metric!r} is not one of the experiment's: it uses {names}")
    if kind != "value":
        if rule.is_graded:
            raise UnusableOutcome(f"metric {metric!r} takes a value from {rule.low:g} to {rule.high:g}")
        return
    if not rule.low <= value <= rule.high:
        advice = "widen range in the experiment" if rule.is_graded else "declare range for a graded metric"
        raise UnusableOutcome(f"{metric} is {value:g}, must be from {rule.low:g} to {rule.high:g}: {advice}")
    if not rule.is_graded and value not in (0.0, 1.0):
        raise UnusableOutcome(f"{metric} is {value:g}, must be 0 or 1: declare range for a graded metric")
