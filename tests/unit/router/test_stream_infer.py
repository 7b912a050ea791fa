from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from anabranch.proto import open_inference_pb2 as pb
from anabranch.router import stream_infer
from anabranch.router.oip import SERVICE
from anabranch.router.stream_infer import MOST_HELD_BYTES, MOST_WAITING, StreamInference
from anabranch.variants.batching import FailureKind
from anabranch.wire.seam import Metadata, Status, StreamCall

Bench = Any


@dataclass
class RecordingStream:
    """A stream that the test writes to and reads from."""

    method: str = f"/{SERVICE}/ModelStreamInfer"
    metadata: Metadata = ()
    deadline: float | None = None
    peer: str = "ipv4:127.0.0.1:1"
    peer_identity: str | None = None
    writable: bool = True
    is_paused: bool = False
    sent: list[bytes] = field(default_factory=list)
    end: tuple[Status, str] | None = None
    callbacks: dict[str, Callable[..., None]] = field(default_factory=dict)

    def on_message(self, callback: Callable[[bytes], None]) -> None:
        self.callbacks["message"] = callback

    def on_half_close(self, callback: Callable[[], None]) -> None:
        self.callbacks["half close"] = callback

    def on_drain(self, callback: Callable[[], None]) -> None:
        self.callbacks["drain"] = callback

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self.callbacks["cancel"] = callback

    def send(self, message: bytes) -> None:
        assert self.end is None
        self.sent.append(message)

    def finish(self, status: Status = Status.OK, message: str = "", trailing: Metadata = ()) -> None:
        self.end = self.end or (status, message)

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False

    def happen(self, event: str, *arguments: bytes) -> None:
        self.callbacks[event](*arguments)

    @property
    def responses(self) -> list[pb.ModelStreamInferResponse]:
        return [pb.ModelStreamInferResponse.FromString(message) for message in self.sent]

    @property
    def ids(self) -> list[str]:
        return [response.infer_response.id for response in self.responses]


class Talk:
    """One stream to a worker's request path."""

    def __init__(self, bench: Bench, **fields: Any) -> None:
        self.bench = bench
        self.service = StreamInference(bench.inference.infer)
        self.stream = RecordingStream(**fields)
        handlers = self.service.handlers(SERVICE)
        handlers.stream[f"/{SERVICE}/ModelStreamInfer"](cast(StreamCall, self.stream))

    def say(self, *ids: str, **fields: Any) -> None:
        for request_id in ids:
            message = self.bench.request(id=request_id, **fields).SerializeToString()
            self.stream.happen("message", message)

    def is_read(self) -> bool:
        return not self.stream.is_paused

    @property
    def work(self) -> list[Any]:
        return list(self.bench.dispatcher.taken)


@pytest.fixture
def talk(bench: Bench) -> Talk:
    return Talk(bench)


def test_replies_leave_in_the_order_of_the_requests(talk: Talk) -> None:
    talk.say("1", "2", "3")
    first, second, third = talk.work
    third.answer()
    second.answer()
    assert talk.stream.sent == []
    first.answer()
    assert talk.stream.ids == ["1", "2", "3"]


def test_a_reply_is_the_unary_one_and_says_that_none_follows(bench: Bench) -> None:
    bench.publish(bench.route(0.5, 0.0))
    bench.draws = [0.9]
    talk = Talk(bench)
    talk.say("mine")
    bench.dispatcher.last.answer()
    (response,) = talk.stream.responses
    said = response.infer_response
    assert response.error_message == ""
    assert (said.id, said.model_name, said.outputs[0].name) == ("mine", "m", "logits")
    assert said.parameters["triton_final_response"].bool_param
    assert said.parameters["invoked_variant"].string_param == said.model_version
    assert bench.ids.open(said.parameters["assignment_id"].string_param).experiment == 3


def test_every_request_of_a_stream_is_assigned_and_recorded_by_itself(bench: Bench) -> None:
    bench.publish(bench.route(0.5, 0.0))
    # Candidates own the lower end of [0, 1).
    bench.draws = [0.9, 0.1, 0.9]
    talk = Talk(bench)
    talk.say("1", "2", "3")
    for work in talk.work:
        work.answer()
    arms = [record.arm for record in bench.journal.routed]
    assert len({record.sequence for record in bench.journal.routed}) == 3
    versions = [response.infer_response.model_version for response in talk.stream.responses]
    assert versions == [("base", "a", "b")[arm] for arm in arms]
    assert len(set(arms)) == 2


def test_the_streams_metadata_hold_for_each_request(bench: Bench) -> None:
    talk = Talk(bench, metadata=(("x-target-variant", "b"),))
    talk.say("1", "2")
    assert [work.name for work in talk.work] == ["m/b", "m/b"]


def test_the_streams_deadline_holds_for_each_request(bench: Bench) -> None:
    talk = Talk(bench, deadline=123.5)
    talk.say("1")
    assert talk.work[0].deadline == 123.5


def test_a_request_that_fails_is_an_error_with_its_id_and_the_stream_goes_on(talk: Talk) -> None:
    talk.say("1")
    talk.say("2", model_name="nonsense")
    talk.say("3", "4")
    first, third, fourth = talk.work
    first.answer()
    third.fail(FailureKind.ERROR)
    fourth.answer()
    responses = talk.stream.responses
    assert talk.stream.ids == ["1", "2", "3", "4"]
    assert "no model 'nonsense'" in responses[1].error_message
    assert responses[2].error_message == "variant base failed on this request"
    statuses = [response.infer_response.parameters["status"].string_param for response in responses[1:3]]
    assert statuses == ["NOT_FOUND", "INTERNAL"]
    assert [response.error_message for response in (responses[0], responses[3])] == ["", ""]
    assert talk.stream.end is None


def test_what_is_no_request_is_an_error_without_an_id(talk: Talk) -> None:
    talk.stream.happen("message", b"\xff\xff")
    talk.say("2")
    talk.work[0].answer()
    first, second = talk.stream.responses
    assert "no ModelInferRequest" in first.error_message
    assert (first.infer_response.id, second.infer_response.id) == ("", "2")


def test_an_unforeseen_exception_costs_its_own_request_only(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    talk = Talk(bench)
    taken, bench.dispatcher.taken = bench.dispatcher.taken, None
    talk.say("1")
    bench.dispatcher.taken = taken
    talk.say("2")
    bench.dispatcher.last.answer()
    first, second = talk.stream.responses
    assert first.error_message.startswith("internal error")
    assert (first.infer_response.id, second.infer_response.id) == ("1", "2")
    assert "request '1' of a stream failed" in caplog.text


def test_with_true_statuses_the_first_failure_ends_the_stream_and_cancels_the_rest(bench: Bench) -> None:
    talk = Talk(bench, metadata=(("triton_grpc_error", "true"),))
    talk.say("1", "2")
    first, second = talk.work
    second.fail(FailureKind.ERROR)
    assert talk.stream.end == (Status.INTERNAL, "variant base failed on this request")
    assert first.is_cancelled
    first.answer()
    assert talk.stream.sent == []


def test_a_half_close_ends_the_stream_after_the_last_reply(talk: Talk) -> None:
    talk.say("1")
    talk.stream.happen("half close")
    assert talk.stream.end is None
    talk.work[0].answer()
    assert talk.stream.ids == ["1"]
    assert talk.stream.end == (Status.OK, "")


def test_a_stream_without_requests_ends_with_its_half_close(talk: Talk) -> None:
    talk.stream.happen("half close")
    assert talk.stream.end == (Status.OK, "")


def test_cancelling_the_stream_cancels_its_queued_work_and_records_it(bench: Bench) -> None:
    bench.publish(bench.route(0.5, 0.0))
    bench.draws = [0.9, 0.9]
    talk = Talk(bench)
    talk.say("1", "2")
    talk.work[1].answer()
    talk.stream.happen("cancel")
    assert [work.is_cancelled for work in talk.work] == [True, False]
    assert sorted(record.status for record in bench.journal.routed) == [Status.OK, Status.CANCELLED]


def test_reading_stops_at_the_most_requests_and_goes_on_as_they_are_answered(talk: Talk) -> None:
    talk.say(*(str(number) for number in range(MOST_WAITING - 1)))
    assert talk.is_read()
    talk.say("last")
    assert not talk.is_read()
    talk.work[1].answer()
    assert not talk.is_read(), "its reply waits for the first one"
    talk.work[0].answer()
    assert talk.is_read()


def test_reading_stops_at_the_most_bytes_of_requests_and_of_replies_that_wait(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MOST_HELD_BYTES >= 1 << 20
    size = len(bench.request(id="1").SerializeToString())
    monkeypatch.setattr(stream_infer, "MOST_HELD_BYTES", 2 * size)
    talk = Talk(bench)
    talk.say("1", "2")
    assert talk.is_read()
    talk.say("3")
    assert not talk.is_read()
    for work in reversed(talk.work[1:]):
        work.answer()
    assert not talk.is_read(), "two replies are held"
    talk.work[0].answer()
    assert talk.is_read()


def test_a_client_that_does_not_read_is_not_read_from(talk: Talk) -> None:
    talk.say("1")
    talk.stream.writable = False
    talk.work[0].answer()
    assert not talk.is_read()
    talk.stream.writable = True
    talk.stream.happen("drain")
    assert talk.is_read()


def test_a_shut_down_answers_what_was_read_and_then_ends_the_stream(bench: Bench) -> None:
    talk = Talk(bench)
    talk.say("1")
    talk.service.shut_down()
    assert not talk.is_read()
    talk.work[0].answer()
    assert talk.stream.ids == ["1"]
    assert talk.stream.end is not None
    assert talk.stream.end[0] is Status.UNAVAILABLE


def test_a_shut_down_ends_an_idle_stream_at_once(talk: Talk) -> None:
    talk.service.shut_down()
    assert talk.stream.end is not None
    assert talk.stream.end[0] is Status.UNAVAILABLE


class Speaking:
    """A stream whose answers the test gives, part by part."""

    def __init__(self) -> None:
        self.stream = RecordingStream()
        self.asked: list[tuple[Any, Callable[[bytes], None]]] = []
        service = StreamInference(lambda call, _message, parts: self.asked.append((call, parts)))
        service.serve(cast(StreamCall, self.stream))

    def ask(self, *ids: str) -> None:
        for request_id in ids:
            self.stream.happen("message", pb.ModelInferRequest(id=request_id).SerializeToString())

    def part(self, number: int, size: int = 0) -> None:
        self.asked[number][1](pb.ModelInferResponse(id=f"{number} part" + "x" * size).SerializeToString())

    def reply(self, number: int) -> None:
        self.asked[number][0].reply(pb.ModelInferResponse(id=f"{number}").SerializeToString())


def test_an_answer_in_parts_holds_up_nobody() -> None:
    talk = Speaking()
    talk.ask("0", "1", "2")
    talk.reply(1)
    assert talk.stream.ids == []
    talk.part(0)
    assert talk.stream.ids == ["0 part", "1"]
    talk.reply(2)
    talk.reply(0)
    assert talk.stream.ids == ["0 part", "1", "2", "0"]
    finals = [
        each.infer_response.parameters["triton_final_response"].bool_param for each in talk.stream.responses
    ]
    assert finals == [False, True, True, True]


def test_a_client_that_leaves_too_many_parts_unread_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_infer, "MOST_HELD_BYTES", 10_000)
    talk = Speaking()
    talk.ask("0")
    cancelled: list[bool] = []
    talk.asked[0][0].on_cancel(lambda: cancelled.append(True))
    for _ in range(5):
        talk.part(0, size=4_000)
    assert len(talk.stream.sent) == 5, "it keeps up"
    talk.stream.writable = False
    for _ in range(3):
        talk.part(0, size=4_000)
    assert talk.stream.end is not None
    assert talk.stream.end[0] is Status.RESOURCE_EXHAUSTED
    assert cancelled == [True]
    talk.part(0)
    assert len(talk.stream.sent) == 8
