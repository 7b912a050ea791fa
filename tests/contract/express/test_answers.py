"""Requests that nothing goes wrong with: who answers, what is passed on, what is written down."""

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from anabranch.bandit.assignment import assign, unit_point
from anabranch.bandit.snapshot import FeedbackRule, MirrorPlan
from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import encode_inputs
from anabranch.store.records import Flag, Pair

Router = Any
Start = Callable[..., Any]


def sent(served: Any) -> pb.ModelInferRequest:
    return pb.ModelInferRequest.FromString(served.message)


def test_without_an_experiment_the_baseline_answers(router: Router) -> None:
    request = router.request(id="7")
    router.ask(request)
    with router.takes(3):
        results = [router.ask(request) for _ in range(3)]
    for result in results:
        response = result.response
        assert (response.model_name, response.model_version, response.id) == ("m", "base", "7")
        assert {name: value.string_param for name, value in response.parameters.items()} == {
            "invoked_variant": "base"
        }
        assert (result.initial, result.trailing) == ({"x-invoked-variant": "base"}, {})
    assert router.records() == []
    assert router.counts() == {"answered": 4}
    assert router.metered() == {"base": (4, 0, 0), "cand": (0, 0, 0)}
    assert router.wire.stats.calls == 4
    first, *others = router.servers["base"].seen
    expected = pb.ModelInferRequest.FromString(request)
    expected.model_name, expected.model_version = "theirs", "3"
    assert sent(first) == expected
    for each in others:
        assert (each.message, each.fields) == (first.message, first.fields)


def test_each_unit_stays_with_its_arm(router: Router) -> None:
    route = router.publish(0.3, unit_metadata="x-user-id")
    users = [f"user-{number}" for number in range(200)]
    router.ask(None, ("x-user-id", "somebody"))
    with router.takes(2 * len(users)):
        results = [router.ask(None, ("x-user-id", user)) for user in users for _ in range(2)]
    names = set()
    for number, result in enumerate(results):
        user = users[number // 2].encode()
        arm, propensity = assign(route.layout, unit_point(b"5a17", user))
        names.add(result.variant)
        assert result.variant == result.response.model_version == route.arms[arm]
        parameters = result.response.parameters
        assert parameters["assignment_id"].string_param == result.initial["x-assignment-id"]
        assert parameters["experiment"].string_param == result.initial["x-experiment"] == "exp"
        said, record = router.opened(result), router.record_of(result)
        assert (said.experiment, said.epoch, said.arm, said.lane, said.top1) == (3, route.epoch, arm, 7, -1)
        assert said.flags == record.flags == Flag.EVIDENCE | Flag.STICKY
        assert said.propensity == record.propensity == pytest.approx(propensity)
        assert (record.experiment, record.epoch, record.arm, record.status) == (3, route.epoch, arm, 0)
        assert (record.unit, record.batch_rows, record.queue_ms) == (router.ids.digest(user), 1, 0.0)
        assert record.latency_ms > 0.0
        # The loop's clock counts whole milliseconds, on which Python's own measure stands.
        assert 0.0 <= record.compute_ms <= record.latency_ms + 2.0
    assert names == {"base", "cand"}
    assert len(router.records()) == 401
    assert router.counts() == {"answered": 401}
    assert [dict(each.metadata)[b"x-user-id"] for each in router.servers["cand"].seen]


def test_draws_without_a_unit_are_the_same_on_both_paths(router: Router) -> None:
    route = router.publish(0.4)
    results = [router.ask() for _ in range(150)]
    assert router.taken == (149 if router.has_express else 0)
    draw = random.Random(1).random
    arms = [assign(route.layout, draw())[0] for _ in results]
    assert [router.opened(result).arm for result in results] == arms
    assert [record.arm for record in router.records()] == arms
    assert {record.flags for record in router.records()} == {Flag.EVIDENCE}
    assert {record.unit for record in router.records()} == {bytes(16)}
    latencies = arms.count(0)
    assert latencies > 50
    # The baseline's own latencies are known by now.
    assert router.do(lambda: router.hedge.budget_s("m", "base")) < 0.1


def test_sampled_requests_are_copied(router: Router) -> None:
    route = router.publish(0.3, mirror=MirrorPlan(fraction=0.5, arms=(1,), noise_floor=0.25))
    results = [router.ask() for _ in range(120)]
    router.eventually(lambda: not any(router.left().values()))
    assert router.taken == (119 if router.has_express else 0)
    draw = random.Random(1).random
    arms: list[int] = []
    flags: list[Flag] = []
    copies = 0
    for _ in results:
        arms.append(assign(route.layout, draw())[0])
        is_sampled = draw() < 0.5
        flags.append(Flag.EVIDENCE | Flag.SAMPLED if is_sampled else Flag.EVIDENCE)
        if is_sampled and arms[-1] == 0:
            copies += 2 if draw() < 0.25 else 1
    assert [router.opened(result).arm for result in results] == arms
    assert [router.opened(result).flags for result in results] == flags
    assert [router.record_of(result).flags for result in results] == flags
    pairs = router.records(Pair)
    assert len(pairs) == router.mirror.sent == copies
    assert all(pair.status == 0 and pair.agrees for pair in pairs)
    assert router.counts() == {"answered": 120}


@pytest.mark.parametrize("size", [0, 1, 20 << 10, 200 << 10, 1 << 20])
def test_messages_of_every_size_pass(router: Router, scripted: Any, size: int) -> None:
    router.publish(0.5, unit_metadata="x-user-id")
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    data = data[: len(data) // 12 * 12]
    for server in router.servers.values():
        server.behave = lambda asked: asked.answer(scripted.scores(asked.message, data))
    request = router.request(max(1, size // 8), id="an id")
    for user in ("a", "b", "c", "d"):
        result = router.ask(request, ("x-user-id", user))
        assert result.response.raw_output_contents == [data]
        assert result.response.id == "an id"
        assert router.record_of(result).batch_rows == min(max(1, size // 8), 65535)
    seen = [each for server in router.servers.values() for each in server.seen]
    assert {sent(each).raw_input_contents[0] for each in seen} == {
        pb.ModelInferRequest.FromString(request).raw_input_contents[0]
    }


def test_answers_of_no_bytes_pass(router: Router) -> None:
    router.servers["base"].behave = lambda asked: asked.answer(b"")
    router.ask()
    with router.takes(2):
        for _ in range(2):
            response = router.ask().response
            assert (response.model_name, response.model_version) == ("m", "base")
            assert not response.outputs


def test_a_request_of_no_bytes_is_refused(router: Router, assembly: Any) -> None:
    router.ask()
    call = router.channel.unary_unary(assembly.METHOD).future(b"")
    assert router.end(call).status.name == "NOT_FOUND"


def test_several_raw_tensors_pass(router: Router) -> None:
    request = router.request(3, names=("x", "z"))
    router.ask(request)
    with router.takes(1):
        router.ask(request)
    assert len({each.message for each in router.servers["base"].seen}) == 1
    # Other sizes, and as many bytes in all.
    with router.takes(0):
        router.ask(router.request(2, names=("x", "z")))
        router.ask(router.request(4))


def test_raw_tensors_of_other_sizes_than_described_are_refused(router: Router) -> None:
    router.ask()
    request = pb.ModelInferRequest.FromString(router.request())
    request.raw_input_contents[0] += b"1234"
    with router.takes(0):
        assert router.ask(request.SerializeToString()).status.name == "INVALID_ARGUMENT"


def test_tensors_that_are_not_raw_are_pythons(router: Router) -> None:
    request = pb.ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    tensor.contents.fp32_contents.extend([1.0, 2.0])
    for _ in range(3):
        assert router.ask(request.SerializeToString()).variant == "base"
    assert router.metered()["base"] == (3, 0, 0)


def test_ids_are_told_apart_however_they_are_written(router: Router) -> None:
    router.ask()
    plain = router.request()
    with router.takes(3):
        assert router.ask(router.request(id="u" * 200)).response.id == "u" * 200
        assert router.ask(plain).response.id == ""
        # Of a field that is given twice, protobuf takes the last.
        assert router.ask(b"\x1a\x01a" + plain + b"\x1a\x02bb").response.id == "bb"
    with router.takes(0):
        assert router.ask(router.request(id="ü" * 200)).response.id == "ü" * 200
    with router.takes(1):
        assert router.ask(plain + b"\x1a\x00").response.id == ""
    assert router.ask(plain + b"\x1a\x01\xff").status.name == "INVALID_ARGUMENT"


def test_a_chosen_variant_answers_outside_the_experiment(router: Router) -> None:
    router.publish(0.5)
    router.ask()
    with router.takes(0):
        for _ in range(2):
            assert router.ask(None, ("x-target-variant", "cand")).initial == {"x-invoked-variant": "cand"}
            assert router.ask(router.request(model_version="cand")).initial == {"x-invoked-variant": "cand"}
    assert router.ask(None, ("x-target-variant", "nobody")).status.name == "NOT_FOUND"
    assert len(router.records()) == 1


def test_priorities_and_timeouts_of_the_request_are_pythons(router: Router) -> None:
    urgent = pb.ModelInferRequest.FromString(router.request())
    urgent.parameters["priority"].int64_param = 1
    brief = pb.ModelInferRequest.FromString(router.request())
    brief.parameters["timeout"].int64_param = 300_000
    router.ask()
    with router.takes(0):
        for _ in range(2):
            assert router.ask(urgent.SerializeToString()).variant == "base"
            assert router.ask(None, ("x-priority", "realtime")).variant == "base"
            assert router.ask(brief.SerializeToString()).variant == "base"
        assert router.servers["base"].seen[-1].timeout is not None
        router.servers["base"].behave = lambda asked: None
        assert router.ask(brief.SerializeToString()).status.name == "DEADLINE_EXCEEDED"
        assert router.ask(None, ("x-priority", "vital")).status.name == "INVALID_ARGUMENT"


def test_other_parameters_are_the_servers(router: Router) -> None:
    request = pb.ModelInferRequest.FromString(router.request())
    request.parameters["temperature"].double_param = 0.5
    router.ask(request.SerializeToString())
    with router.takes(1):
        router.ask(request.SerializeToString())
    request.parameters["temperature"].double_param = 0.75
    with router.takes(0):
        router.ask(request.SerializeToString())
    told = [sent(each).parameters["temperature"].double_param for each in router.servers["base"].seen]
    assert told == [0.5, 0.5, 0.75]


def test_experiments_with_feedback_are_answered_by_python(router: Router) -> None:
    router.publish(0.5, feedback={"correct": FeedbackRule()})
    with router.takes(0):
        results = [router.ask() for _ in range(10)]
    # The class that was answered is in the id.
    assert {router.opened(result).top1 for result in results} == {0}


def test_kinds_that_came_once_do_not_keep_out_those_that_come_now(router: Router) -> None:
    for rows in range(1, 261):
        assert router.ask(router.request(rows)).variant == "base"
    late = router.request(300)
    with router.takes(0):
        for _ in range(2):
            assert router.ask(late).variant == "base"
    before, give_up = router.taken, time.monotonic() + 5.0
    while router.has_express and router.taken == before:
        assert time.monotonic() < give_up
        assert router.ask(late).variant == "base"
        time.sleep(0.05)
    data = [sent(each).raw_input_contents[0] for each in router.servers["base"].seen[:260]]
    assert data == [np.arange(2 * rows, dtype=np.float32).tobytes() for rows in range(1, 261)]


def test_many_requests_at_once_are_all_answered(router: Router) -> None:
    router.publish(0.5)
    router.ask()
    calls = [router.begin(router.request(id=str(number))) for number in range(300)]
    results = [router.end(call) for call in calls]
    assert [result.response.id for result in results] == [str(number) for number in range(300)]
    assert len({router.opened(result).sequence for result in results}) == 300
    assert len(router.records()) == 301


def test_an_assignment_of_a_router_behind_is_not_passed_on(router: Router, scripted: Any) -> None:
    def routed(asked: Any) -> None:
        response = pb.ModelInferResponse.FromString(scripted.scores(asked.message))
        response.parameters["assignment_id"].string_param = "theirs"
        response.parameters["experiment"].string_param = "their experiment"
        head = [*scripted.HEAD, (b"x-assignment-id", b"theirs"), (b"x-else", b"1")]
        asked.answer(response.SerializeToString(), head=head)

    router.servers["base"].behave = routed
    router.ask()
    with router.takes(2):
        results = [router.ask() for _ in range(2)]
    for result in results:
        assert result.initial == {"x-invoked-variant": "base"}
        assert result.response.parameters["assignment_id"].string_param == ""
        assert result.response.parameters["experiment"].string_param == ""


def test_what_a_server_says_beside_its_answer_is_its_own(router: Router, scripted: Any) -> None:
    router.servers["base"].behave = lambda asked: asked.answer(
        head=[*scripted.HEAD, (b"x-of-theirs", b"1")],
        trailers=[*scripted.OK, (b"grpc-message", b"fine"), (b"x-too", b"2")],
    )
    router.ask()
    with router.takes(1):
        result = router.ask()
    assert (result.initial, result.trailing) == ({"x-invoked-variant": "base"}, {})


def test_inputs_are_those_of_each_request(router: Router) -> None:
    requests = []
    for number in range(20):
        request = pb.ModelInferRequest(model_name="m", id=str(number))
        encode_inputs(request, {"x": np.full((1, 2), number, np.float32)})
        requests.append(request.SerializeToString())
    for message in requests:
        router.ask(message)
    assert router.taken == (19 if router.has_express else 0)
    for message, seen in zip(requests, router.servers["base"].seen, strict=True):
        assert seen.message.startswith(message)


def test_kinds_that_never_come_again_are_not_kept(router: Router) -> None:
    """A parameter that differs each time makes each request a kind of its own."""
    calls = []
    for number in range(1200):
        request = pb.ModelInferRequest.FromString(router.request())
        request.parameters["tag"].string_param = str(number)
        calls.append(router.begin(request.SerializeToString()))
    assert {router.end(call).variant for call in calls} == {"base"}
    if router.has_express:
        assert router.taken == 0
        kept = [value for value in vars(router.express).values() if hasattr(value, "__len__")]
        assert max(len(value) for value in kept) <= 1024
