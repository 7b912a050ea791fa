from collections.abc import Callable
from typing import Any

import pytest

from anabranch.proto import feedback_pb2 as pb
from anabranch.router import feedback as module
from anabranch.router.access.authenticator import Authenticator, Rules
from anabranch.router.access.guard import Guard, Refusals
from anabranch.router.access.rates import Rates
from anabranch.router.assignment_id import Assignment
from anabranch.router.feedback import FeedbackService
from anabranch.store.access import Principal, Role
from anabranch.store.records import Flag
from anabranch.wire.seam import Call, Status

Bench = Any
MakeCall = Callable[..., Any]


@pytest.fixture
def service(bench: Bench) -> FeedbackService:
    bench.publish(bench.route(0.5, 0.0))
    return FeedbackService(
        ids=bench.ids, routes=bench.routes, recorder=bench.recorder, wall_clock=lambda: bench.wall
    )


@pytest.fixture
def sealed(bench: Bench) -> Callable[..., str]:
    def seal(*, top1: int = 2, experiment: int = 3) -> str:
        return str(
            bench.ids.seal(
                Assignment(
                    experiment=experiment,
                    epoch=9,
                    arm=1,
                    flags=Flag.EVIDENCE,
                    lane=4,
                    sequence=11,
                    top1=top1,
                    propensity=0.5,
                )
            )
        )

    return seal


@pytest.fixture
def submit(service: FeedbackService, new_call: MakeCall) -> Callable[..., Any]:
    def send(*outcomes: pb.Outcome) -> Any:
        call = new_call()
        service.submit(call, pb.SubmitRequest(outcomes=outcomes).SerializeToString())
        return call

    return send


def results(call: Any) -> list[pb.Result]:
    return list(pb.SubmitResponse.FromString(call.replies[0]).results)


def test_an_outcome_is_recorded_for_the_assignment_that_its_id_says(
    bench: Bench, submit: Callable[..., Any], sealed: Callable[..., str]
) -> None:
    call = submit(pb.Outcome(assignment_id=sealed(), label=2))
    assert results(call)[0].accepted
    (record,) = bench.journal.durable
    assert (record.experiment, record.epoch, record.arm, record.flags) == (3, 9, 1, Flag.EVIDENCE)
    assert (record.lane, record.sequence, record.top1) == (4, 11, 2)
    assert (record.metric, record.is_label, record.value, record.at_s) == ("correct", True, 2.0, 5_000.0)


def test_a_field_of_a_newer_client_is_refused_and_nothing_is_counted(
    bench: Bench, service: FeedbackService, sealed: Callable[..., str], new_call: MakeCall
) -> None:
    outcome = pb.Outcome(assignment_id=sealed(), label=2).SerializeToString() + bytes([0x98, 0x06, 1])
    call = new_call()
    service.submit(call, bytes([0x0A, len(outcome)]) + outcome)
    status, told = call.failures[0]
    assert status is Status.INVALID_ARGUMENT
    assert "does not know" in told
    assert bench.journal.durable == []


@pytest.mark.parametrize(
    ("fields", "metric", "value"),
    [
        ({"correct": True}, "correct", 1.0),
        ({"correct": False}, "correct", 0.0),
        ({"value": 1.0}, "correct", 1.0),
        ({"metric": "stars", "value": 1.0}, "stars", 1.0),
        ({"metric": "stars", "value": 3.5}, "stars", 3.5),
    ],
)
def test_every_kind_of_outcome_is_taken(
    bench: Bench,
    submit: Callable[..., Any],
    sealed: Callable[..., str],
    fields: dict[str, Any],
    metric: str,
    value: float,
) -> None:
    assert results(submit(pb.Outcome(assignment_id=sealed(), **fields)))[0].accepted
    assert (bench.journal.durable[0].metric, bench.journal.durable[0].value) == (metric, value)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "the outcome is empty: set correct, label or value"),
        (
            {"metric": "mood", "correct": True},
            "metric 'mood' is not one of the experiment's: it uses correct, stars",
        ),
        (
            {"metric": "stars", "value": 0.5},
            "stars is 0.5, must be from 1 to 5: widen range in the experiment",
        ),
        (
            {"metric": "stars", "value": float("nan")},
            "stars is nan, no number to count: leave the outcome out",
        ),
        (
            {"metric": "stars", "value": float("inf")},
            "stars is inf, no number to count: leave the outcome out",
        ),
        ({"label": -1}, "label is -1, classes count from 0: leave out an outcome whose class is not known"),
        ({"assignment_id": "", "label": 1}, "assignment_id is empty: an answer has one only where"),
        ({"metric": "stars", "correct": True}, "metric 'stars' takes a value from 1 to 5"),
        ({"metric": "stars", "label": 4}, "metric 'stars' takes a value from 1 to 5"),
        ({"value": 0.5}, "correct is 0.5, must be 0 or 1: declare range for a graded metric"),
        ({"value": 2.0}, "correct is 2, must be from 0 to 1: declare range for a graded metric"),
        ({"metric": "Stars!", "value": 2.0}, "metric 'Stars!' must be 1 to 64 lower-case letters"),
        ({"metric": "x" * 70_000, "value": 2.0}, "must be 1 to 64 lower-case letters"),
    ],
)
def test_an_outcome_that_cannot_be_counted_is_refused_with_the_reason(
    bench: Bench,
    submit: Callable[..., Any],
    sealed: Callable[..., str],
    fields: dict[str, Any],
    problem: str,
) -> None:
    (result,) = results(submit(pb.Outcome(**{"assignment_id": sealed(), **fields})))
    assert not result.accepted
    assert problem in result.problem
    assert bench.journal.durable == []


def test_a_label_for_an_answer_without_a_class_is_refused(
    submit: Callable[..., Any], sealed: Callable[..., str]
) -> None:
    (result,) = results(submit(pb.Outcome(assignment_id=sealed(top1=-1), label=1)))
    assert result.problem == "the answer had no class to compare the label with: send correct or value"


def test_a_forged_id_is_refused_and_its_neighbours_are_taken(
    bench: Bench, service: FeedbackService, submit: Callable[..., Any], sealed: Callable[..., str]
) -> None:
    good = sealed()
    call = submit(
        pb.Outcome(assignment_id=good, correct=True),
        pb.Outcome(assignment_id=good[::-1], correct=True),
        pb.Outcome(correct=True),
    )
    assert [result.accepted for result in results(call)] == [True, False, False]
    assert service.counts == {"accepted": 1, "refused": 2}
    assert len(bench.journal.durable) == 1


def test_late_feedback_of_an_experiment_that_is_over_is_still_taken(
    submit: Callable[..., Any], sealed: Callable[..., str]
) -> None:
    assert results(submit(pb.Outcome(assignment_id=sealed(experiment=99), correct=True)))[0].accepted


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_refused_also_after_the_end(
    bench: Bench, submit: Callable[..., Any], sealed: Callable[..., str], value: float
) -> None:
    (result,) = results(submit(pb.Outcome(assignment_id=sealed(experiment=99), value=value)))
    assert "no number to count" in result.problem
    assert bench.journal.durable == []


def test_what_is_acknowledged_is_durable(
    bench: Bench, submit: Callable[..., Any], sealed: Callable[..., str]
) -> None:
    bench.journal.is_full = True
    call = submit(pb.Outcome(assignment_id=sealed(), correct=True))
    message = "feedback cannot be written now, send it again later"
    assert call.failures == [(Status.UNAVAILABLE, message)]
    assert submit(pb.Outcome(assignment_id=sealed(), correct=True)).failures == call.failures
    bench.journal.is_full = False
    bench.recorder.commit()
    assert results(submit(pb.Outcome(assignment_id=sealed(), correct=True)))[0].accepted


def test_too_many_outcomes_in_one_call_are_refused_with_both_numbers(
    submit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_OUTCOMES", 2)
    call = submit(*[pb.Outcome()] * 3)
    message = "3 outcomes in one call, at most 2 are taken: split them"
    assert call.failures == [(Status.INVALID_ARGUMENT, message)]


def test_bytes_that_are_no_request_are_refused(service: FeedbackService, new_call: MakeCall) -> None:
    call = new_call()
    service.submit(call, b"\xff\xff\xff")
    assert call.failures[0][0] is Status.INVALID_ARGUMENT


class Ci(Authenticator):
    """Everybody is the same program, for some models."""

    def __init__(self, models: frozenset[str]) -> None:
        super().__init__(Rules(), lambda: 0.0)
        self._principal = Principal(actor="token:ci", role=Role.FEEDBACK, models=models)

    def authenticate(self, call: Call) -> Principal:
        return self._principal


def guarded(bench: Bench, *, models: frozenset[str] = frozenset(), **given: Any) -> FeedbackService:
    """A service whose callers are somebody."""
    authenticator = Ci(models)
    guard = Guard(authenticator, Refusals(lambda *_: None, lambda: 0.0))
    return FeedbackService(
        ids=bench.ids,
        routes=bench.routes,
        recorder=bench.recorder,
        wall_clock=lambda: bench.wall,
        guard=guard,
        **given,
    )


def sent(service: FeedbackService, new_call: MakeCall, *ids: str) -> Any:
    call = new_call()
    request = pb.SubmitRequest(outcomes=[pb.Outcome(assignment_id=each, correct=True) for each in ids])
    service.submit(call, request.SerializeToString())
    return call


def test_a_token_for_other_models_reports_nothing(
    bench: Bench, new_call: MakeCall, sealed: Callable[..., str]
) -> None:
    bench.publish(bench.route(0.5, 0.0))
    model = bench.route(0.5, 0.0).model
    (mine,) = results(sent(guarded(bench, models=frozenset({model})), new_call, sealed()))
    (theirs,) = results(sent(guarded(bench, models=frozenset({"another"})), new_call, sealed()))
    (over,) = results(sent(guarded(bench, models=frozenset({model})), new_call, sealed(experiment=99)))
    assert mine.accepted
    assert not theirs.accepted
    assert "none of the caller's" in theirs.problem
    assert not over.accepted


def test_more_than_a_caller_may_report_is_refused_and_counted(
    bench: Bench, new_call: MakeCall, sealed: Callable[..., str]
) -> None:
    bench.publish(bench.route(0.5, 0.0))
    rates = Rates(per_s=1.0, burst=3.0)
    now = 0.0
    service = guarded(bench, may_report=lambda caller, outcomes: rates.take(caller, outcomes, now))
    assert len(results(sent(service, new_call, sealed(), sealed(), sealed()))) == 3
    refused = sent(service, new_call, sealed())
    assert refused.failures[0][0] is Status.RESOURCE_EXHAUSTED
    assert service.counts["over rate"] == 1
    now = 2.0
    assert len(results(sent(service, new_call, sealed(), sealed()))) == 2
