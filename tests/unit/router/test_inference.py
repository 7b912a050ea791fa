"""The request path with a call, a dispatcher and clocks that the test moves."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from anabranch.proto import open_inference_pb2 as pb
from anabranch.store.records import Flag
from anabranch.variants.batching import FailureKind
from anabranch.wire.seam import Status

Bench = Any
MakeCall = Callable[..., Any]


@pytest.fixture
def split(bench: Bench) -> Bench:
    """A bench whose every request is assigned to candidate `a` by the coin."""
    bench.publish(bench.route(0.5, 0.0))
    bench.draws = [0.1] * 100
    return bench


def test_without_an_experiment_the_baseline_answers_and_nothing_is_recorded(bench: Bench) -> None:
    call = bench.infer()
    assert bench.dispatcher.last.name == "m/base"
    bench.dispatcher.last.answer()
    assert call.response.model_version == "base"
    assert call.sent == {"x-invoked-variant": "base"}
    assert bench.journal.routed == []


def test_the_coin_assigns_and_the_reply_and_the_record_agree(split: Bench) -> None:
    call = split.infer(split.request(id="mine"))
    split.now += 0.25
    split.dispatcher.last.answer((0.0, 0.0, 5.0))
    said = split.ids.open(call.sent["x-assignment-id"])
    (record,) = split.journal.routed
    assert (said.arm, said.epoch, said.experiment, said.lane, said.top1) == (1, 9, 3, 7, 2)
    assert (record.arm, record.epoch, record.experiment, record.sequence) == (1, 9, 3, said.sequence)
    assert record.propensity == 0.5
    assert record.flags == Flag.EVIDENCE
    assert record.latency_ms == pytest.approx(250.0)
    assert (record.queue_ms, record.compute_ms, record.batch_rows) == pytest.approx((1.0, 2.0, 4))
    assert record.at_s == 5_000.0
    parameters = {name: value.string_param for name, value in call.response.parameters.items()}
    assert parameters == {
        "invoked_variant": "a",
        "assignment_id": call.sent["x-assignment-id"],
        "experiment": "exp",
    }
    assert call.response.id == "mine"


def test_latency_does_not_stand_still_within_a_turn_of_the_loop(split: Bench, new_call: MakeCall) -> None:
    split.infer(call=new_call())
    split.within_turn = 0.000_4
    split.dispatcher.last.answer()
    assert split.journal.routed[0].latency_ms == pytest.approx(0.4)


def test_the_record_is_made_before_the_reply(split: Bench, new_call: MakeCall) -> None:
    call = new_call()
    seen: list[int] = []
    call.reply = lambda *_, **__: seen.append(len(split.journal.routed))
    split.infer(call=call)
    split.dispatcher.last.answer()
    assert seen == [1]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (FailureKind.ERROR, Status.INTERNAL),
        (FailureKind.SHED, Status.RESOURCE_EXHAUSTED),
        (FailureKind.REMOVED, Status.UNAVAILABLE),
    ],
)
def test_a_failing_candidate_is_masked_by_the_baseline_and_charged(
    split: Bench, kind: FailureKind, status: Status
) -> None:
    call = split.infer(deadline=101.0)
    split.dispatcher.last.fail(kind)
    assert call.failures == []
    assert [work.name for work in split.dispatcher.taken] == ["m/a", "m/base"]
    assert split.dispatcher.last.deadline == 101.0
    split.dispatcher.last.answer()
    assert call.sent["x-invoked-variant"] == "base"
    (record,) = split.journal.routed
    assert (record.arm, record.status) == (1, status)
    assert record.flags == Flag.EVIDENCE | Flag.MASKED
    assert Flag.MASKED in split.ids.open(call.sent["x-assignment-id"]).flags
    assert split.inference.counts["masked"] == 1


def test_a_candidate_whose_queue_is_full_is_masked_and_charged(split: Bench) -> None:
    split.dispatcher.full = {"m/a"}
    call = split.infer()
    split.dispatcher.last.answer()
    assert call.sent["x-invoked-variant"] == "base"
    assert split.journal.routed[0].status == Status.RESOURCE_EXHAUSTED


def test_a_candidate_that_is_not_served_is_masked_and_charged(split: Bench) -> None:
    split.dispatcher.gone = {"m/a"}
    call = split.infer()
    split.dispatcher.last.answer()
    assert call.sent["x-invoked-variant"] == "base"
    assert split.journal.routed[0].status == Status.UNAVAILABLE


def test_a_candidate_that_leaves_out_an_output_is_masked_and_charged(split: Bench) -> None:
    call = split.infer(split.request(outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="extra")]))
    split.dispatcher.last.answer()
    assert split.dispatcher.last.name == "m/base"
    split.dispatcher.last.answer(extra=np.ones((1, 3), np.float32))
    assert [output.name for output in call.response.outputs] == ["extra"]
    (record,) = split.journal.routed
    assert (record.arm, record.status) == (1, Status.INTERNAL)


def test_when_the_baseline_fails_too_the_client_hears_it_and_the_candidate_is_charged_infinity(
    split: Bench,
) -> None:
    call = split.infer()
    split.dispatcher.last.fail(FailureKind.SHED)
    split.dispatcher.last.fail(FailureKind.ERROR, "secret detail")
    assert call.failures == [(Status.INTERNAL, "variant base failed on this request")]
    (record,) = split.journal.routed
    assert (record.arm, record.status, record.latency_ms) == (1, Status.RESOURCE_EXHAUSTED, math.inf)
    assert record.compute_ms == 0.0


def test_a_failing_baseline_is_not_tried_twice(bench: Bench) -> None:
    bench.publish(bench.route(0.5, 0.0))
    bench.draws = [0.9]
    call = bench.infer()
    bench.dispatcher.last.fail(FailureKind.ERROR)
    assert len(bench.dispatcher.taken) == 1
    assert call.failures[0][0] is Status.INTERNAL
    assert bench.journal.routed[0].latency_ms == math.inf


def test_a_deadline_in_the_queue_is_not_retried_and_counts_as_infinite(split: Bench) -> None:
    call = split.infer(deadline=100.5)
    split.dispatcher.last.fail(FailureKind.DEADLINE)
    assert call.failures[0][0] is Status.DEADLINE_EXCEEDED
    (record,) = split.journal.routed
    assert (record.status, record.latency_ms) == (Status.DEADLINE_EXCEEDED, math.inf)
    assert len(split.dispatcher.taken) == 1


@pytest.mark.parametrize(("later_s", "status"), [(0.2, Status.CANCELLED), (0.5, Status.DEADLINE_EXCEEDED)])
def test_a_cancelled_call_frees_its_place_and_counts_as_infinite(
    split: Bench, later_s: float, status: Status
) -> None:
    call = split.infer(deadline=100.5)
    split.now += later_s
    call.cancel()
    assert split.dispatcher.last.is_cancelled
    (record,) = split.journal.routed
    assert (record.status, record.latency_ms) == (status, math.inf)
    split.dispatcher.last.answer()
    assert call.replies == []
    assert len(split.journal.routed) == 1


def test_a_call_that_is_over_on_arrival_never_runs_and_is_recorded_once(
    split: Bench, new_call: MakeCall
) -> None:
    split.dispatcher.full = {"m/a", "m/base"}
    call = split.infer(call=new_call(cancelled=True))
    assert split.dispatcher.taken == []
    assert call.failures == []
    assert len(split.journal.routed) == 1


def test_a_clients_mistake_found_by_the_variant_is_not_charged(split: Bench) -> None:
    call = split.infer()
    split.dispatcher.last.fail(FailureKind.INPUT, "text[0] is not UTF-8")
    assert call.failures == [(Status.INVALID_ARGUMENT, "text[0] is not UTF-8")]
    assert split.journal.routed == []


def test_a_pinned_variant_is_outside_the_split_and_its_failure_is_not_masked(split: Bench) -> None:
    call = split.infer(metadata={"x-target-variant": "b"})
    assert split.dispatcher.last.name == "m/b"
    split.dispatcher.last.fail(FailureKind.ERROR)
    assert call.failures == [(Status.INTERNAL, "variant b failed on this request")]
    assert len(split.dispatcher.taken) == 1
    assert split.journal.routed == []
    assert len(split.draws) == 100


def test_two_different_choices_of_a_variant_are_refused_with_both(bench: Bench) -> None:
    call = bench.infer(bench.request(model_version="a"), metadata={"x-target-variant": "b"})
    message = "x-target-variant is 'b', but the request chooses 'a': send one of them"
    assert call.failures == [(Status.INVALID_ARGUMENT, message)]
    same = bench.infer(bench.request(model_version="a"), metadata={"x-target-variant": "a"})
    bench.dispatcher.last.answer()
    assert same.response.model_version == "a"


def test_a_unit_is_assigned_by_its_hash_and_recorded_by_its_digest(bench: Bench) -> None:
    bench.publish(bench.route(0.5, 0.5, unit="x-user-id"))
    met: dict[str, set[str]] = {}
    for user in ("ada", "bob", "cleo", "dan", "eve", "ada"):
        call = bench.infer(metadata={"x-user-id": user})
        bench.dispatcher.last.answer()
        met.setdefault(user, set()).add(call.sent["x-invoked-variant"])
    assert all(len(variants) == 1 for variants in met.values())
    first, last = bench.journal.routed[0], bench.journal.routed[-1]
    assert first.unit == last.unit == bench.ids.digest(b"ada")
    assert first.flags == Flag.EVIDENCE | Flag.STICKY


@pytest.mark.parametrize("metadata", [{}, {"x-user-id": ""}])
def test_without_its_unit_a_request_is_served_by_the_baseline_and_is_no_evidence(
    bench: Bench, metadata: dict[str, str]
) -> None:
    bench.publish(bench.route(0.5, 0.5, unit="x-user-id"))
    bench.infer(metadata=metadata)
    bench.dispatcher.last.answer()
    (record,) = bench.journal.routed
    assert (record.arm, record.flags) == (0, Flag.NONE)
    assert bench.inference.counts["no unit: baseline"] == 1


def test_while_the_disk_is_full_the_baseline_answers_outside_the_experiment(split: Bench) -> None:
    split.infer()
    split.dispatcher.last.answer()
    split.journal.is_full = True
    split.recorder.commit()
    call = split.infer()
    split.dispatcher.last.answer()
    assert call.sent == {"x-invoked-variant": "base"}
    assert split.inference.counts["unrecordable: baseline"] == 1
    split.journal.is_full = False
    split.recorder.commit()
    split.infer()
    assert split.dispatcher.last.name == "m/a"
    assert len(split.journal.durable) == 1


def test_stale_routes_serve_the_baseline_outside_the_experiment(split: Bench) -> None:
    split.now += 61.0
    call = split.infer()
    split.dispatcher.last.answer()
    assert call.sent == {"x-invoked-variant": "base"}
    assert split.journal.routed == []


@pytest.mark.parametrize(
    ("parameter", "given"),
    [("priority", 0), ("priority", 100), ("timeout", 0), ("timeout", -5), ("timeout", "soon")],
)
def test_a_parameter_out_of_its_range_is_refused_with_the_range(
    bench: Bench, parameter: str, given: object
) -> None:
    request = bench.request()
    if isinstance(given, int):
        request.parameters[parameter].int64_param = given
    else:
        request.parameters[parameter].string_param = str(given)
    call = bench.infer(request)
    ((status, message),) = call.failures
    assert status is Status.INVALID_ARGUMENT
    assert f"parameter {parameter} is {given!r}, must be a whole number from 1 to" in message


def test_priority_and_the_nearer_deadline_reach_the_queue(bench: Bench) -> None:
    request = bench.request(rows=3)
    request.parameters["priority"].int64_param = 4
    request.parameters["timeout"].uint64_param = 250_000
    bench.infer(request, deadline=130.0)
    work = bench.dispatcher.last
    assert (work.priority, work.rows, work.deadline) == (4, 3, 100.25)
    request.parameters["timeout"].uint64_param = 250_000_000
    bench.infer(request, deadline=130.0)
    assert bench.dispatcher.last.deadline == 130.0


def test_by_default_a_request_is_interactive_and_waits_for_ever(bench: Bench) -> None:
    bench.infer()
    assert (bench.dispatcher.last.priority, bench.dispatcher.last.deadline) == (2, None)


def test_only_the_requested_outputs_are_sent(bench: Bench) -> None:
    wanted = pb.ModelInferRequest.InferRequestedOutputTensor(name="extra")
    call = bench.infer(bench.request(outputs=[wanted]))
    bench.dispatcher.last.answer(extra=np.ones((1, 3), np.float32))
    assert [output.name for output in call.response.outputs] == ["extra"]
    call = bench.infer()
    bench.dispatcher.last.answer(extra=np.ones((1, 3), np.float32))
    assert [output.name for output in call.response.outputs] == ["logits", "extra"]


def test_an_unknown_output_is_refused_with_those_there_are(bench: Bench) -> None:
    wanted = pb.ModelInferRequest.InferRequestedOutputTensor(name="scores")
    call = bench.infer(bench.request(outputs=[wanted]))
    expected = "output 'scores' is asked for, the model has logits, extra"
    assert call.failures == [(Status.INVALID_ARGUMENT, expected)]


def test_bytes_that_are_no_request_are_refused(bench: Bench, new_call: MakeCall) -> None:
    call = new_call()
    bench.inference.infer(call, b"\xff\xff\xff")
    ((status, message),) = call.failures
    assert status is Status.INVALID_ARGUMENT
    assert message.startswith("the message is no ModelInferRequest")


def test_inputs_that_do_not_fit_are_refused_before_anything_is_assigned(split: Bench) -> None:
    request = split.request()
    request.inputs[0].name = "y"
    call = split.infer(request)
    assert call.failures == [(Status.INVALID_ARGUMENT, "inputs ['y'] given, must be x")]
    assert split.dispatcher.taken == []
    assert split.recorder.sequence == 0


@pytest.mark.parametrize(
    ("name", "version", "said"),
    [
        ("n", "", "no model 'n'. There are: m"),
        ("m", "c", "model m has no variant 'c'. There are: a, b, base"),
        ("m/c", "", "model m has no variant 'c'. There are: a, b, base"),
        ("m/a", "b", "name 'm/a' and version 'b' choose different variants: send one of them"),
    ],
)
def test_what_is_not_served_is_not_found(bench: Bench, name: str, version: str, said: str) -> None:
    call = bench.infer(bench.request(model_name=name, model_version=version))
    ((status, message),) = call.failures
    assert status is Status.NOT_FOUND
    assert message == said
