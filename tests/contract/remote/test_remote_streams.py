"""Answers in parts from a server elsewhere, which a test makes one by one."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import encode_outputs
from anabranch.variants.batching import Failure, FailureKind
from anabranch.variants.remote_add import add_remote
from anabranch.variants.remote_target import RemoteTarget
from anabranch.wire.seam import Status

Use = Callable[..., Any]


def part(value: float, **parameters: bool) -> bytes:
    """One answer on a stream."""
    response = pb.ModelInferResponse(model_name="theirs")
    encode_outputs(response, {"y": np.full((1, 3), value, np.float32)})
    for name, flag in parameters.items():
        response.parameters[name].bool_param = flag
    return pb.ModelStreamInferResponse(infer_response=response).SerializeToString()


def error(text: str, status: str = "") -> bytes:
    response = pb.ModelInferResponse(id="7")
    if status:
        response.parameters["status"].string_param = status
    return pb.ModelStreamInferResponse(error_message=text, infer_response=response).SerializeToString()


def values(answers: list[Any]) -> list[float]:
    return [float(answer.outputs["y"][0, 0]) for answer in answers]


async def ask(client: Any, message: bytes, **options: Any) -> tuple[list[Any], Any]:
    """The parts before the last, and how it ended."""
    parts: list[Any] = []
    last = await client.ask(message, part=parts.append, **options)
    assert client.variant.in_flight == 0
    return parts, last


@pytest.mark.parametrize("flagged", [False, True])
def test_parts_come_as_they_are_made_and_the_last_one_is_the_answer(
    fake: Any, use: Use, request_bytes: bytes, flagged: bool
) -> None:
    def stream(_request: bytes, _context: Any) -> Iterator[bytes]:
        yield part(1.0)
        yield part(2.0)
        yield part(3.0, **({"triton_final_response": True} if flagged else {}))

    fake.stream = stream
    parts, last = use(lambda client: ask(client, request_bytes), is_decoupled=True)
    assert values(parts) == [1.0, 2.0]
    assert values([last]) == [3.0]
    ((sent, _, _),) = fake.seen
    request = pb.ModelInferRequest.FromString(sent)
    assert (request.model_name, request.model_version, request.id) == ("theirs", "3", "7")


def test_the_first_part_is_given_out_while_the_last_is_not_made_yet(
    fake: Any, use: Use, request_bytes: bytes
) -> None:
    heard = threading.Event()

    def stream(_request: bytes, _context: Any) -> Iterator[bytes]:
        yield part(1.0)
        yield part(2.0)
        assert heard.wait(20)
        yield part(3.0)

    async def work(client: Any) -> Any:
        return await client.ask(request_bytes, part=lambda _: heard.set())

    fake.stream = stream
    assert values([use(work, is_decoupled=True)]) == [3.0]


def test_an_empty_last_answer_is_the_answer(fake: Any, use: Use, request_bytes: bytes) -> None:
    def stream(_request: bytes, _context: Any) -> Iterator[bytes]:
        yield part(1.0)
        response = pb.ModelInferResponse()
        response.parameters["triton_final_response"].bool_param = True
        yield pb.ModelStreamInferResponse(infer_response=response).SerializeToString()

    fake.stream = stream
    parts, last = use(lambda client: ask(client, request_bytes), is_decoupled=True)
    assert values(parts) == [1.0]
    assert last.outputs == {}


@pytest.mark.parametrize(
    ("said", "status"), [("NOT_FOUND", Status.NOT_FOUND), ("", Status.UNKNOWN), ("nonsense", Status.UNKNOWN)]
)
def test_an_error_on_the_stream_is_a_failure_with_its_status(
    fake: Any, use: Use, request_bytes: bytes, said: str, status: Status
) -> None:
    fake.stream = lambda _request, _context: iter([part(1.0), error("no such thing", said)])
    parts, last = use(lambda client: ask(client, request_bytes), is_decoupled=True)
    assert parts == []
    assert isinstance(last, Failure)
    assert last.status is status
    assert "no such thing" in last.message


@pytest.mark.parametrize("answers", [[], [b"\xff\xff"]])
def test_a_stream_without_an_answer_is_a_failure(
    fake: Any, use: Use, request_bytes: bytes, answers: list[bytes]
) -> None:
    fake.stream = lambda _request, _context: iter(answers)
    parts, last = use(lambda client: ask(client, request_bytes), is_decoupled=True)
    assert parts == []
    assert isinstance(last, Failure)
    assert (last.kind, last.status) == (FailureKind.ERROR, Status.INTERNAL)


def test_a_stream_that_breaks_keeps_what_was_said_and_fails(
    fake: Any, use: Use, request_bytes: bytes
) -> None:
    def stream(_request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield part(1.0)
        yield part(2.0)
        context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    fake.stream = stream
    parts, last = use(lambda client: ask(client, request_bytes), is_decoupled=True)
    assert values(parts) == [1.0]
    assert isinstance(last, Failure)
    assert last.status is Status.UNAVAILABLE


def test_the_deadline_goes_along_and_ends_the_stream(fake: Any, use: Use, request_bytes: bytes) -> None:
    ended = threading.Event()

    def stream(_request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(ended.set)
        yield part(1.0)
        ended.wait(20)

    async def work(client: Any) -> Any:
        return await ask(client, request_bytes, deadline=asyncio.get_running_loop().time() + 0.3)

    fake.stream = stream
    _, last = use(work, is_decoupled=True)
    assert isinstance(last, Failure)
    assert last.kind is FailureKind.DEADLINE
    assert ended.wait(20)
    assert 0 < fake.seen[0][2] <= 0.3


def test_a_cancellation_reaches_the_server(
    fake: Any, use: Use, request_bytes: bytes, wait_until: Any
) -> None:
    ended = threading.Event()

    def stream(_request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(ended.set)
        yield part(1.0)
        yield part(2.0)
        ended.wait(20)

    async def work(client: Any) -> None:
        parts: list[Any] = []
        call, answer = client.send(request_bytes, part=parts.append)
        await wait_until(lambda: parts)
        call.cancel()
        assert client.variant.in_flight == 0
        await wait_until(ended.is_set)
        assert not answer.done()

    fake.stream = stream
    use(work, is_decoupled=True)


def test_who_takes_no_parts_asks_for_the_whole(fake: Any, use: Use, request_bytes: bytes) -> None:
    answer = use(lambda client: client.ask(request_bytes), is_decoupled=True)
    np.testing.assert_array_equal(answer.outputs["y"], [[0.0, 1.0, 0.0]])


@pytest.mark.parametrize("is_decoupled", [False, True])
def test_taking_a_server_in_notes_whether_it_answers_in_parts(
    fake: Any, tmp_path: Path, is_decoupled: bool
) -> None:
    fake.stream = (lambda _request, _context: iter([])) if is_decoupled else None
    target = RemoteTarget(target=f"127.0.0.1:{fake.port}", model="theirs")
    manifest = asyncio.run(add_remote(tmp_path, "m", "away", target))
    assert manifest.remote is not None
    assert manifest.remote.is_decoupled is is_decoupled
