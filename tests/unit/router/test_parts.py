"""Answers that come in parts, through the request path."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import decode_outputs
from anabranch.router.backends import Done, Part
from anabranch.router.queries import Query
from anabranch.store.records import Flag
from anabranch.variants.batching import Answer, Failure, FailureKind, Timing
from anabranch.wire.seam import Status

Bench = Any
Call = Any
TIMING = Timing(0.001, 0.002, 1)


@dataclass
class Run:
    """One submitted request, answered by the test."""

    done: Done
    part: Part | None
    is_cancelled: bool = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def say(self, value: float) -> None:
        assert self.part is not None
        self.part(Answer({"logits": np.full((1, 3), value, np.float32)}, TIMING))

    def end(self, value: float, timing: Timing = TIMING) -> None:
        self.done(Answer({"logits": np.full((1, 3), value, np.float32)}, timing))

    def fail(self, kind: FailureKind = FailureKind.ERROR) -> None:
        self.done(Failure(kind=kind, message="it broke", timing=TIMING))


@dataclass
class PartsBackend:
    """Runs nothing by itself."""

    runs: list[Run] = field(default_factory=list)
    waited_s: list[float] = field(default_factory=list)

    def submit(
        self, query: Query, *, priority: int, deadline: float | None, done: Done, part: Part | None = None
    ) -> Run:
        self.runs.append(Run(done, part))
        return self.runs[-1]

    def unfit(self) -> str | None:
        return None

    def late(self, waited_s: float) -> None:
        self.waited_s.append(waited_s)


@dataclass
class Scene:
    """A bench whose variants answer in parts, and one call."""

    bench: Bench
    call: Call
    base: PartsBackend = field(default_factory=PartsBackend)
    candidate: PartsBackend = field(default_factory=PartsBackend)
    parts: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bench.backends[("m", "base")] = self.base
        self.bench.backends[("m", "a")] = self.candidate

    def ask(self, *weights: float, streams: bool = True) -> None:
        if weights:
            self.bench.publish(self.bench.route(*weights))
            self.bench.draws = [0.5]
        parts = self.parts.append if streams else None
        self.bench.inference.infer(self.call, self.bench.request(id="7").SerializeToString(), parts)

    def heard(self) -> list[tuple[str, str, float]]:
        """Id, variant and first number of every part."""
        found = [pb.ModelInferResponse.FromString(part) for part in self.parts]
        return [(each.id, each.model_version, float(decode_outputs(each)["logits"][0, 0])) for each in found]

    def routed(self) -> Any:
        (record,) = self.bench.journal.routed
        return record


@pytest.fixture
def scene(bench: Bench, new_call: Callable[..., Call]) -> Scene:
    return Scene(bench, new_call())


def test_parts_leave_as_they_are_made_and_the_last_one_is_the_reply(scene: Scene) -> None:
    scene.ask()
    (run,) = scene.base.runs
    run.say(1.0)
    run.say(2.0)
    assert scene.heard() == [("7", "base", 1.0), ("7", "base", 2.0)]
    assert scene.call.replies == []
    run.end(3.0)
    assert float(decode_outputs(scene.call.response)["logits"][0, 0]) == 3.0


def test_times_of_tokens_are_recorded_with_the_request(scene: Scene) -> None:
    scene.ask(1.0, 0.0)
    scene.candidate.runs[0].end(1.0, Timing(0.001, 0.5, 1, first_token_s=0.25, token_s=0.125))
    assert (scene.routed().first_token_ms, scene.routed().token_ms) == (250.0, 125.0)


def test_a_client_that_wants_the_answer_whole_is_given_no_parts(scene: Scene) -> None:
    scene.ask(streams=False)
    assert scene.base.runs[0].part is None


def test_parts_name_the_assignment_as_the_reply_does(scene: Scene) -> None:
    scene.ask(1.0, 0.0)
    (run,) = scene.candidate.runs
    run.say(1.0)
    run.end(2.0)
    said = {key: value.string_param for key, value in scene.call.response.parameters.items()}
    part = pb.ModelInferResponse.FromString(scene.parts[0])
    assert {key: value.string_param for key, value in part.parameters.items()} == said
    assert said["invoked_variant"] == "a"
    assert scene.routed().status == Status.OK


def test_a_candidate_that_has_begun_to_answer_is_not_stood_in_for(scene: Scene) -> None:
    scene.ask(1.0, 0.0)
    (run,) = scene.candidate.runs
    run.say(1.0)
    scene.bench.pass_time(60.0)
    assert scene.base.runs == []
    run.end(2.0)
    assert scene.routed().flags == Flag.EVIDENCE


def test_a_candidate_that_fails_before_its_first_part_is_masked(scene: Scene) -> None:
    scene.ask(1.0, 0.0)
    scene.candidate.runs[0].fail()
    (run,) = scene.base.runs
    run.say(1.0)
    run.end(2.0)
    assert [variant for _, variant, _ in scene.heard()] == ["base"]
    assert Flag.MASKED in scene.routed().flags
    assert scene.routed().status == Status.INTERNAL


def test_a_candidate_that_fails_after_its_first_part_fails_the_request(scene: Scene) -> None:
    scene.ask(1.0, 0.0)
    scene.candidate.runs[0].say(1.0)
    scene.candidate.runs[0].fail()
    assert scene.base.runs == []
    assert scene.call.failures == [(Status.INTERNAL, "variant a failed on this request")]
    assert scene.call.sent["x-invoked-variant"] == "a"
    assert scene.routed().status == Status.INTERNAL
    assert scene.routed().latency_ms == float("inf")
    assert Flag.MASKED not in scene.routed().flags


def test_whoever_says_the_first_part_has_the_word(scene: Scene) -> None:
    scene.ask(1.0, 0.0)
    scene.bench.pass_time(11.0)
    (slow,), (stand_in,) = scene.candidate.runs, scene.base.runs
    slow.say(1.0)
    assert stand_in.is_cancelled
    slow.end(2.0)
    assert scene.call.response.model_version == "a"
    assert scene.routed().status == Status.OK


def test_a_candidate_that_the_baseline_overtakes_is_charged(scene: Scene) -> None:
    scene.ask(1.0, 0.0)
    scene.bench.pass_time(11.0)
    (slow,), (stand_in,) = scene.candidate.runs, scene.base.runs
    stand_in.say(1.0)
    assert slow.is_cancelled
    assert scene.candidate.waited_s == [pytest.approx(11.0, abs=0.1)]
    slow.say(9.0)
    stand_in.end(2.0)
    assert [variant for _, variant, _ in scene.heard()] == ["base"]
    assert scene.routed().status == Status.DEADLINE_EXCEEDED
    assert Flag.MASKED in scene.routed().flags


def test_a_part_without_an_output_that_was_asked_for_fails_the_request(scene: Scene) -> None:
    request = scene.bench.request()
    request.outputs.add(name="extra")
    scene.bench.inference.infer(scene.call, request.SerializeToString(), scene.parts.append)
    scene.base.runs[0].say(1.0)
    assert scene.call.failures == [(Status.INTERNAL, "variant base failed on this request")]
    assert scene.base.runs[0].is_cancelled


def test_the_baselines_time_is_learned_from_its_first_part(scene: Scene) -> None:
    scene.bench.publish(scene.bench.route(0.0, 0.0))
    for _ in range(20):
        scene.bench.draws = [0.5]
        scene.ask()
        run = scene.base.runs[-1]
        scene.bench.pass_time(0.5)
        run.say(1.0)
        scene.bench.pass_time(2.0)
        run.end(2.0)
    assert scene.bench.hedge.budget_s("m", "base") == pytest.approx(0.5, rel=0.2)
