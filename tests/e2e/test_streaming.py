"""`ModelStreamInfer` as a client meets it, on both wires."""

import queue
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import psutil
import pytest

from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import decode_outputs

Served = Any
Serve = Callable[..., Any]
METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"


@pytest.fixture
def client(shared: Served) -> Iterator[Any]:
    client = shared.client()
    yield client
    client.close()


class Conversation:
    """A stream whose requests are sent when the test says so."""

    def __init__(self, client: Any, **options: Any) -> None:
        self._waiting: queue.Queue[pb.ModelInferRequest | None] = queue.Queue()
        stub = client.channel.stream_stream(
            METHOD,
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        self.call = stub(iter(self._waiting.get, None), **{"timeout": 60, **options})

    def say(self, *requests: pb.ModelInferRequest) -> None:
        for request in requests:
            self._waiting.put(request)

    def hear(self, count: int) -> list[pb.ModelStreamInferResponse]:
        return [next(self.call) for _ in range(count)]

    def half_close(self) -> None:
        self._waiting.put(None)


def test_answers_come_in_the_order_of_the_requests_and_equal_the_unary_ones(client: Any) -> None:
    talk = Conversation(client)
    # Fast and slow variants by turns.
    chosen = ["wide" if number % 3 else "plain" for number in range(200)]
    talk.say(
        *(client.request(number, id=str(number), model_version=name) for number, name in enumerate(chosen))
    )
    talk.half_close()
    answers = [response.infer_response for response in talk.call]
    assert talk.call.code() is grpc.StatusCode.OK
    assert [answer.id for answer in answers] == [str(number) for number in range(200)]
    assert [answer.model_version for answer in answers] == chosen
    for number in (0, 1, 199):
        unary = client.infer(number, model_version=chosen[number]).logits
        assert decode_outputs(answers[number])["logits"] == pytest.approx(unary, abs=1e-4)


def test_a_bad_request_is_answered_by_an_error_and_the_stream_goes_on(client: Any) -> None:
    talk = Conversation(client)
    talk.say(
        client.request(0, id="1"), client.request(0, id="2", model_name="none"), client.request(0, id="3")
    )
    first, second, third = talk.hear(3)
    assert [each.infer_response.id for each in (first, second, third)] == ["1", "2", "3"]
    assert [bool(each.error_message) for each in (first, second, third)] == [False, True, False]
    assert "no model 'none'" in second.error_message
    talk.half_close()
    assert list(talk.call) == []


def test_a_stream_without_requests_ends_well(client: Any) -> None:
    talk = Conversation(client)
    talk.half_close()
    assert list(talk.call) == []
    assert talk.call.code() is grpc.StatusCode.OK


def test_a_streams_deadline_ends_it(client: Any) -> None:
    talk = Conversation(client, timeout=0.2)
    with pytest.raises(grpc.RpcError):
        next(talk.call)
    assert talk.call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert client.infer(0).is_ok


def test_a_server_that_ends_answers_what_it_read_and_ends_the_stream(serve: Serve) -> None:
    served = serve()
    talk = Conversation(served.client())
    talk.say(*(served.client().request(number, id=str(number)) for number in range(20)))
    first = talk.hear(1)
    served.process.terminate()
    rest: list[pb.ModelStreamInferResponse] = []
    with pytest.raises(grpc.RpcError):
        rest.extend(talk.call)
    assert talk.call.code() is grpc.StatusCode.UNAVAILABLE
    assert "send the requests without an answer again" in talk.call.details()
    ids = [response.infer_response.id for response in (*first, *rest)]
    assert ids == [str(number) for number in range(len(ids))]
    assert served.stop() == 0


def test_a_client_that_reads_no_answers_keeps_the_server_small(shared: Served, client: Any) -> None:
    (worker,) = shared.workers()
    heavy = pb.ModelInferRequest(model_name="digits", model_version="plain")
    heavy.CopyFrom(client.request(0, model_version="plain"))
    # A megabyte an answer, by the id that it repeats.
    heavy.id = "x" * (1 << 20)
    before = psutil.Process(worker.pid).memory_info().rss
    sent = 0

    def requests() -> Iterator[pb.ModelInferRequest]:
        nonlocal sent
        for _ in range(400):
            sent += 1
            yield heavy

    stub = client.channel.stream_stream(
        METHOD,
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )
    call = stub(requests(), timeout=120)
    next(call)
    # Each question is a round trip of another call: the stream has had its time.
    for number in range(300):
        assert client.infer(number, model_version="plain").is_ok
    grown = psutil.Process(worker.pid).memory_info().rss - before
    assert sent < 400, "the client was held back"
    assert grown < 192 << 20
    assert 1 + sum(1 for _ in call) == 400
