"""Requests of an experiment whose variants are elsewhere, with a channel that the test answers."""

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest

from anabranch.bandit.snapshot import MirrorPlan
from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import decode_outputs, encode_outputs
from anabranch.router.backends import RemoteBackend
from anabranch.store.records import Flag
from anabranch.variants.batching import Failure, FailureKind, QueueFull, Timing
from anabranch.variants.remote_answer import RemoteAnswer
from anabranch.wire.seam import Status

Bench = Any
TIMING = Timing(0.0, 0.02, 1)


@dataclass
class Sent:
    """One request that went elsewhere."""

    message: bytes
    rows: int
    metadata: list[tuple[str, str | bytes]]
    is_copy: bool
    deadline: float | None
    done: Any
    part: Any = None
    is_cancelled: bool = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def answer(self, scores: tuple[float, ...] = (0.0, 1.0, 0.0), *, is_assigned: bool = False) -> None:
        response = pb.ModelInferResponse(model_name="theirs", id="other")
        encode_outputs(response, {"logits": np.array([scores], np.float32)})
        self.done(RemoteAnswer(response.SerializeToString(), TIMING, is_assigned=is_assigned))

    def fail(self, status: Status, kind: FailureKind = FailureKind.ERROR) -> None:
        self.done(Failure(kind=kind, message="variant a: because", timing=TIMING, status=status))


@dataclass
class FakeRemote:
    """Takes requests as a `RemoteVariant` does."""

    sent: list[Sent] = field(default_factory=list)
    problem: str | None = None
    is_full: bool = False
    lateness: list[float] = field(default_factory=list)

    def unfit(self) -> str | None:
        return self.problem

    def late(self, waited_s: float) -> None:
        self.lateness.append(waited_s)

    def submit(self, message: bytes, rows: int, metadata: Any, **options: Any) -> Sent:
        if self.is_full:
            raise QueueFull("4 requests are in flight, max_requests is 4")
        self.sent.append(Sent(message, rows, metadata, **options))
        return self.sent[-1]

    @property
    def last(self) -> Sent:
        return self.sent[-1]


@pytest.fixture
def remote() -> FakeRemote:
    return FakeRemote()


@pytest.fixture
def split(bench: Bench, remote: FakeRemote) -> Bench:
    """A bench whose every request is assigned to candidate `a`, which is elsewhere."""
    bench.publish(bench.route(0.5, 0.0))
    bench.draws = [0.1] * 100
    bench.backends[("m", "a")] = RemoteBackend(cast(Any, remote))
    return bench


@pytest.fixture
def away(bench: Bench, remote: FakeRemote) -> Bench:
    """A bench whose baseline is elsewhere."""
    bench.publish(bench.route(0.5, 0.0))
    bench.draws = [0.9, 0.0, 0.9] * 30
    bench.backends[("m", "base")] = RemoteBackend(cast(Any, remote))
    return bench


def test_a_remote_answer_is_recorded_and_named_as_any_other(split: Bench, remote: FakeRemote) -> None:
    call = split.infer(split.request(id="mine"), metadata={"x-user-id": "ada"}, deadline=130.0)
    split.now += 0.25
    remote.last.answer((0.0, 0.0, 5.0))
    assert (remote.last.rows, remote.last.is_copy, remote.last.deadline) == (1, False, 130.0)
    response = call.response
    assert (response.model_name, response.model_version, response.id) == ("m", "a", "mine")
    np.testing.assert_array_equal(decode_outputs(response)["logits"], [[0.0, 0.0, 5.0]])
    said = split.ids.open(call.sent["x-assignment-id"])
    assert (said.arm, said.top1) == (1, 2)
    (record,) = split.journal.routed
    assert (record.arm, record.status, record.flags) == (1, Status.OK, Flag.EVIDENCE)
    assert (record.latency_ms, record.compute_ms) == pytest.approx((250.0, 20.0))


def test_only_what_is_meant_for_others_goes_along(split: Bench, remote: FakeRemote) -> None:
    split.infer(
        metadata={"x-user-id": "ada", "authorization": "Bearer s3cret", "traceparent": "00-1", "cookie": "a"}
    )
    assert [name for name, _ in remote.last.metadata] == ["x-user-id", "traceparent"]
    split.infer(metadata={"x-target-variant": "a", "user-agent": "grpc"})
    assert remote.last.metadata == []


@pytest.mark.parametrize(
    "status", [Status.INTERNAL, Status.INVALID_ARGUMENT, Status.NOT_FOUND, Status.UNAVAILABLE]
)
def test_a_failing_remote_candidate_is_masked_and_charged_with_its_own_status(
    split: Bench, remote: FakeRemote, status: Status
) -> None:
    call = split.infer()
    remote.last.fail(status)
    split.dispatcher.last.answer()
    assert call.response.model_version == "base"
    (record,) = split.journal.routed
    assert (record.arm, record.status, record.flags) == (1, status, Flag.EVIDENCE | Flag.MASKED)


def test_a_candidate_that_is_not_fit_is_not_asked_and_charged(split: Bench, remote: FakeRemote) -> None:
    remote.problem = "it is ejected for another 30 s"
    call = split.infer()
    split.dispatcher.last.answer()
    assert remote.sent == []
    assert call.response.model_version == "base"
    assert split.journal.routed[0].status == Status.UNAVAILABLE


def test_a_candidate_without_room_is_masked_and_charged(split: Bench, remote: FakeRemote) -> None:
    remote.is_full = True
    split.infer()
    split.dispatcher.last.answer()
    assert split.journal.routed[0].status == Status.RESOURCE_EXHAUSTED


def test_a_remote_candidate_that_hangs_is_cancelled_and_its_server_hears_of_it(
    split: Bench, remote: FakeRemote
) -> None:
    split.infer(deadline=104.0)
    split.pass_time(3.95)
    split.dispatcher.last.answer()
    assert remote.last.is_cancelled
    assert remote.lateness == [pytest.approx(3.95)]
    assert split.journal.routed[0].status == Status.DEADLINE_EXCEEDED


def test_an_answer_that_cannot_be_read_is_the_candidates_failure(split: Bench, remote: FakeRemote) -> None:
    call = split.infer()
    remote.last.done(RemoteAnswer(b"\xff\xff", TIMING, is_assigned=False))
    split.dispatcher.last.answer()
    assert call.response.model_version == "base"
    assert split.journal.routed[0].status == Status.INTERNAL


def test_without_feedback_to_credit_an_answer_is_not_looked_into(split: Bench, remote: FakeRemote) -> None:
    route = split.route(0.5, 0.0)
    object.__setattr__(route, "feedback", {})
    split.publish(route, version=2)
    call = split.infer()
    remote.last.done(answer := RemoteAnswer(b"\x32\x01x", TIMING, is_assigned=False))
    assert answer._outputs is None
    assert call.replies[0].startswith(b"\x32\x01x")
    assert split.ids.open(call.sent["x-assignment-id"]).top1 == -1


def test_the_baselines_failure_reaches_the_client_with_its_status_and_text(
    away: Bench, remote: FakeRemote
) -> None:
    call = away.infer()
    remote.last.fail(Status.FAILED_PRECONDITION)
    assert call.failures == [(Status.FAILED_PRECONDITION, "variant a: because")]
    assert away.journal.routed[0].status == Status.FAILED_PRECONDITION


def test_the_baseline_is_asked_even_when_it_is_not_fit(away: Bench, remote: FakeRemote) -> None:
    remote.problem = "it is ejected for another 30 s"
    call = away.infer()
    remote.last.answer()
    assert call.response.model_version == "base"


def test_what_the_baseline_refuses_too_is_the_clients_mistake(split: Bench, remote: FakeRemote) -> None:
    call = split.infer()
    remote.last.fail(Status.INVALID_ARGUMENT)
    split.dispatcher.last.fail(FailureKind.INPUT, "text[0] is not UTF-8")
    assert call.failures == [(Status.INVALID_ARGUMENT, "text[0] is not UTF-8")]
    assert split.journal.routed == []


def test_a_remote_baselines_refusal_is_charged_to_nobody(away: Bench, remote: FakeRemote) -> None:
    call = away.infer()
    remote.last.fail(Status.INVALID_ARGUMENT)
    assert call.failures == [(Status.INVALID_ARGUMENT, "variant a: because")]
    assert away.journal.routed == []


def test_a_client_that_hangs_up_frees_the_remote_call(split: Bench, remote: FakeRemote) -> None:
    split.infer().cancel()
    assert remote.last.is_cancelled
    assert remote.lateness == []


def test_copies_between_here_and_elsewhere_are_compared(away: Bench, remote: FakeRemote) -> None:
    away.publish(away.route(0.0, 0.0, mirror=MirrorPlan(fraction=1.0, arms=(1,), noise_floor=0.0)), version=2)
    away.infer()
    remote.last.answer((0.0, 1.0, 0.0))
    away.dispatcher.last.answer((0.0, 1.0, 0.5))
    (pair,) = away.journal.pairs
    assert (pair.agrees, pair.max_abs, pair.baseline_top1, pair.top1) == (True, 0.5, 1, 1)


def test_a_copy_that_cannot_be_read_counts_against_the_candidate(bench: Bench, remote: FakeRemote) -> None:
    bench.backends[("m", "a")] = RemoteBackend(cast(Any, remote))
    bench.publish(bench.route(0.0, 0.0, mirror=MirrorPlan(fraction=1.0, arms=(1,), noise_floor=0.0)))
    bench.draws = [0.9, 0.0, 0.9] * 3
    for finish in (
        lambda: remote.last.done(RemoteAnswer(b"\xff", TIMING, is_assigned=False)),
        lambda: remote.last.fail(Status.NOT_FOUND),
        lambda: remote.last.fail(Status.UNAVAILABLE, FailureKind.REMOVED),
    ):
        bench.infer()
        bench.dispatcher.last.answer()
        assert remote.last.is_copy
        finish()
    assert [pair.status for pair in bench.journal.pairs] == [Status.INTERNAL, Status.NOT_FOUND]
    assert bench.mirror.drops == {"removed": 1}


def test_copies_do_not_go_where_nothing_is_served(bench: Bench, remote: FakeRemote) -> None:
    remote.problem = "it is ejected for another 30 s"
    bench.backends[("m", "a")] = RemoteBackend(cast(Any, remote))
    bench.publish(bench.route(0.0, 0.0, mirror=MirrorPlan(fraction=1.0, arms=(1,), noise_floor=0.0)))
    bench.draws = [0.9, 0.0, 0.9]
    bench.infer()
    bench.dispatcher.last.answer()
    assert bench.mirror.drops == {"not ready": 1}


def test_parts_of_a_remote_answer_go_on_as_they_come_under_the_clients_names(
    split: Bench, remote: FakeRemote, new_call: Any
) -> None:
    parts: list[bytes] = []
    call = new_call()
    split.inference.infer(call, split.request(id="mine").SerializeToString(), parts.append)
    for value in (1.0, 2.0):
        response = pb.ModelInferResponse(model_name="theirs", id="other")
        encode_outputs(response, {"logits": np.full((1, 3), value, np.float32)})
        remote.last.part(RemoteAnswer(response.SerializeToString(), TIMING, is_assigned=False))
    remote.last.answer()
    said = [pb.ModelInferResponse.FromString(message) for message in (*parts, *call.replies)]
    assert [(each.model_name, each.model_version, each.id) for each in said] == [("m", "a", "mine")] * 3
    assert [decode_outputs(each)["logits"][0, 0] for each in said] == [1.0, 2.0, 0.0]
    (record,) = split.journal.routed
    assert (record.arm, record.status) == (1, Status.OK)
