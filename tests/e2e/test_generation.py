"""Generated text as clients get it, on both wires: token by token, whole, cancelled, too late, and compared."""

import itertools
import json
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import numpy as np
import pytest

from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import decode_outputs, encode_inputs
from anabranch.store.records import Pair, Routed

Served = Any
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
# An answer of this many tokens takes seconds even of a tiny model; the tests end it long before.
LONG = 8_000


@pytest.fixture(scope="module")
def language_models(
    load_module: Callable[[Path], ModuleType], models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The digits, and a tiny language model beside them."""
    root = tmp_path_factory.mktemp("language")
    shutil.copytree(models / "digits", root / "digits")
    tiny = load_module(Path(__file__).parents[1] / "data" / "tiny_language_model.py")
    tiny.build_tiny(root, context=8_192)
    return root


@pytest.fixture(scope="module", params=["ngh2", "grpcio"])
def served(request: pytest.FixtureRequest, language_models: Path, serve_all: Callable[..., Served]) -> Served:
    return serve_all(models=language_models, state=f"generation-{request.param}", wire=request.param)


@pytest.fixture
def client(served: Served) -> Iterator[Any]:
    client = served.client()
    yield client
    client.close()


def asked(text: str = "the other thing", id: str = "", **fields: Any) -> pb.ModelInferRequest:
    """A request for an answer; fields beyond the message's own are sampling parameters."""
    own: dict[str, Any] = {
        name: fields.pop(name) for name in ("model_name", "model_version", "parameters") if name in fields
    }
    request = pb.ModelInferRequest(**{"model_name": "tiny", "id": id, **own})
    parameters = json.dumps({"max_tokens": 12, **fields}).encode()
    encode_inputs(
        request,
        {
            "text_input": np.array([text.encode()], np.object_),
            "sampling_parameters": np.array([parameters], np.object_),
        },
    )
    return request


def outputs(response: pb.ModelInferResponse) -> tuple[bytes, list[int], bytes]:
    """Text, tokens and the reason of the end."""
    arrays = decode_outputs(response)
    return arrays["text_output"][0], arrays["token_ids"].tolist(), arrays["finish_reason"][0]


def whole(client: Any, request: pb.ModelInferRequest, **options: Any) -> pb.ModelInferResponse:
    response: pb.ModelInferResponse = client.call("ModelInfer", request, pb.ModelInferResponse, **options)
    return response


def is_final(response: pb.ModelStreamInferResponse) -> bool:
    return bool(response.infer_response.parameters["triton_final_response"].bool_param)


EXAMPLE = Path(__file__).parents[2] / "examples" / "stream_text.py"


class Conversation:
    """A stream that is open as long as the test wants."""

    def __init__(self, client: Any) -> None:
        self._waiting: queue.Queue[pb.ModelInferRequest | None] = queue.Queue()
        stub = client.channel.stream_stream(
            STREAM,
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        self.call = stub(iter(self._waiting.get, None), timeout=60)

    def say(self, *requests: pb.ModelInferRequest | None) -> None:
        for request in requests:
            self._waiting.put(request)

    def until_final(self) -> list[pb.ModelStreamInferResponse]:
        heard: list[pb.ModelStreamInferResponse] = []
        while not heard or not is_final(heard[-1]):
            heard.append(next(self.call))
        return heard


def test_tokens_come_one_by_one_and_joined_are_the_whole_answer(client: Any) -> None:
    text, tokens, finish = outputs(whole(client, asked()))
    talk = Conversation(client)
    talk.say(asked(id="7"))
    heard = talk.until_final()
    parts = [outputs(response.infer_response) for response in heard]
    assert (len(tokens), finish) == (12, b"length")
    assert [part[1] for part in parts] == [[token] for token in tokens]
    assert b"".join(part[0] for part in parts) == text
    assert [part[2] for part in parts] == [b""] * 11 + [b"length"]
    assert {response.infer_response.id for response in heard} == {"7"}
    assert [is_final(response) for response in heard] == [False] * 11 + [True]
    talk.say(None)
    assert list(talk.call) == []
    assert talk.call.code() is grpc.StatusCode.OK


def test_a_standard_client_prints_the_tokens_as_they_come(served: Served, client: Any) -> None:
    # In a process of its own: Triton's messages and ours cannot be in one.
    options = ["the other thing", "--model", "tiny", "--max-tokens", "12"]
    ran = subprocess.run(
        [sys.executable, str(EXAMPLE), served.address, *options], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.encode() == outputs(whole(client, asked()))[0] + b"\n"
    first, last = ran.stderr.splitlines()
    assert first.startswith("onnx-fp32: ")
    assert last == "length"


def test_a_client_that_wants_no_stream_gets_one_reply(client: Any) -> None:
    request = asked()
    encode_inputs(request, {"stream": np.array([False])})
    talk = Conversation(client)
    talk.say(request)
    (heard,) = talk.until_final()
    assert len(outputs(heard.infer_response)[1]) == 12


def test_answers_on_one_stream_do_not_wait_for_each_other(
    language_models: Path, serve_all: Callable[..., Served]
) -> None:
    client = serve_all(models=language_models, state="two-threads", threads=2).client()
    talk = Conversation(client)
    talk.say(asked(id="long", max_tokens=LONG), *(asked(id=str(number)) for number in range(3)))
    finals: list[str] = []
    while len(finals) < 3:
        heard = next(talk.call)
        if is_final(heard):
            finals.append(heard.infer_response.id)
    assert sorted(finals) == ["0", "1", "2"]
    talk.call.cancel()
    client.close()


def test_a_cancelled_generation_ends_and_frees_its_thread(served: Served, language_models: Path) -> None:
    # One thread runs models: a second answer comes only when the first one's work has ended.
    client = served.client()
    talk = Conversation(client)
    talk.say(asked(max_tokens=LONG))
    next(talk.call)
    talk.call.cancel()
    assert len(outputs(whole(client, asked(), timeout=30))[1]) == 12
    client.close()


def test_a_deadline_ends_a_generation_between_two_tokens(client: Any) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        whole(client, asked(max_tokens=LONG), timeout=0.3)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    # The thread is free again long before eight thousand tokens could have been made.
    assert len(outputs(whole(client, asked(), timeout=30))[1]) == 12


def test_a_timeout_of_the_request_ends_it_on_a_stream_that_goes_on(client: Any) -> None:
    late = asked(id="late", max_tokens=LONG)
    late.parameters["timeout"].int64_param = 300_000
    talk = Conversation(client)
    talk.say(late)
    told = next(response.error_message for response in talk.call if response.error_message)
    assert "deadline" in told
    talk.say(asked(id="next"))
    assert outputs(talk.until_final()[-1].infer_response)[2] == b"length"


def test_other_models_answer_while_text_is_generated(served: Served) -> None:
    client = served.client()
    talk = Conversation(client)
    talk.say(asked(max_tokens=LONG))
    next(talk.call)
    answers = [client.infer(number).is_ok for number in range(50)]
    # Still at it: the fifty answers came in between.
    assert not is_final(next(talk.call))
    assert all(answers)
    talk.call.cancel()
    client.close()


def test_a_chosen_variant_answers_and_says_so(client: Any) -> None:
    response = whole(client, asked(model_version="onnx-kv-int8"))
    assert response.model_version == "onnx-kv-int8"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0, must be at least 1"),
        ({"max_tokens": 9_000}, "the context leaves room for"),
        ({"best_of": 3}, "allowed are"),
        ({"text": ""}, "the prompt is empty"),
    ],
)
def test_what_cannot_be_answered_is_refused(client: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        whole(client, asked(**fields))
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in (failed.value.details() or "")


def test_the_model_says_that_it_answers_in_parts(client: Any) -> None:
    config = client.call("ModelConfig", pb.ModelConfigRequest(name="tiny"), pb.ModelConfigResponse).config
    assert config.model_transaction_policy.decoupled
    digits = client.call("ModelConfig", pb.ModelConfigRequest(name="digits"), pb.ModelConfigResponse).config
    assert not digits.model_transaction_policy.decoupled


def test_copies_are_scored_on_what_the_baseline_said(
    served: Served, experiment: Callable[..., dict[str, Any]], wait_until: Callable[..., None]
) -> None:
    close, far = "onnx-kv-int8", "onnx-kv-sinks"
    document = experiment("tokens", [close, far], [{"mirror": {"percent": 100, "maxDuration": "10m"}}])
    document["spec"] |= {"model": "tiny", "baseline": "onnx-fp32"}
    served.apply(document)
    client = served.client()
    texts = itertools.cycle(["the fox", "over the other", "quick brown thing", "naïve café"])
    stop = threading.Event()

    def pairs() -> dict[int, list[Pair]]:
        found: dict[int, list[Pair]] = {1: [], 2: []}
        for _, record in served.records():
            if isinstance(record, Pair) and record.arm:
                found[record.arm].append(record)
        return found

    def talk() -> None:
        for seed in itertools.count():
            if stop.is_set():
                return
            whole(client, asked(next(texts), max_tokens=24, temperature=1.0, seed=seed))

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        wait_until(lambda: min(map(len, pairs().values())) >= 40, "pairs of both candidates")
    finally:
        stop.set()
        talker.join()
    found = pairs()
    served.cli("abort", "tokens")
    client.close()
    agreement = {arm: np.mean([pair.agrees for pair in records]) for arm, records in found.items()}
    # Eight bits change a token now and then (2 % here); a window of eight tokens changes two in five.
    assert agreement[1] > 0.8
    assert agreement[2] < agreement[1] - 0.1
    generated = [record for _, record in served.records() if isinstance(record, Routed)]
    assert len(generated) >= 40
    assert all(record.first_token_ms and record.token_ms for record in generated)
    assert all(pair.status == 0 for records in found.values() for pair in records)
