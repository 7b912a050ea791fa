"""What Triton's own Python clients can do with a server of `digits`: each check by its name, and "ok" or what went wrong.

    python triton_checks.py ADDRESS

A program of its own, since tritonclient and Anabranch's messages cannot be loaded into one process.
"""

import asyncio
import json
import queue
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

ROWS = np.random.default_rng(4).random((8, 64), np.float32)


def pixels(array: Any = ROWS) -> list[Any]:
    tensor = triton.InferInput("pixels", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    return [tensor]


def failure(call: Callable[[], Any]) -> InferenceServerException:
    try:
        call()
    except InferenceServerException as error:
        return error
    raise AssertionError("the call did not fail")


def describe(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert not client.is_model_ready("nonsense")
    assert client.get_server_metadata().name == "anabranch"
    assert "plain" in client.get_model_metadata("digits").versions
    assert client.get_model_config("digits").config.input[0].name == "pixels"
    assert {model.version for model in client.get_model_repository_index().models} >= {"plain", "wide"}


def infer(client: Any) -> None:
    outputs = [triton.InferRequestedOutput("logits")]
    result = client.infer("digits", pixels(), outputs=outputs, request_id="mine")
    assert result.as_numpy("logits").shape == (8, 10)
    assert result.get_response().id == "mine"
    assert result.get_response().parameters["invoked_variant"].string_param == "wide"


def read_statistics(client: Any) -> None:
    client.infer("digits", pixels(), model_version="plain")
    names = {stats.version for stats in client.get_inference_statistics("digits").model_stats}
    assert names >= {"plain", "wide"}
    (plain,) = client.get_inference_statistics("digits", "plain").model_stats
    assert plain.execution_count >= 1
    assert plain.inference_count >= 8, "rows, as Triton counts them"


def infer_with_headers_and_parameters(client: Any) -> None:
    chosen = client.infer(
        "digits", pixels(), headers={"x-target-variant": "plain"}, priority=3, timeout=9_000_000
    )
    assert chosen.get_response().model_version == "plain"
    error = failure(lambda: client.infer("digits", pixels(), priority=1000))
    assert "priority" in error.message()


def compression(client: Any) -> None:
    plain = client.infer("digits", pixels()).as_numpy("logits")
    for algorithm in ("gzip", "deflate"):
        found = client.infer("digits", pixels(), compression_algorithm=algorithm).as_numpy("logits")
        assert np.allclose(plain, found, atol=1e-4)


def errors(client: Any) -> None:
    error = failure(lambda: client.infer("digits", pixels(), model_version="none"))
    assert error.status() == "StatusCode.NOT_FOUND"
    assert "no variant 'none'" in error.message()
    error = failure(lambda: client.infer("digits", pixels(ROWS[:, :63].copy())))
    assert error.status() == "StatusCode.INVALID_ARGUMENT"


def client_timeout(client: Any) -> None:
    heavy = pixels(np.zeros((20_000, 64), np.float32))
    error = failure(lambda: client.infer("digits", heavy, client_timeout=0.05))
    assert error.status() == "StatusCode.DEADLINE_EXCEEDED"
    assert client.infer("digits", pixels()) is not None


def async_infer(client: Any) -> None:
    done: queue.Queue[Any] = queue.Queue()
    for number in range(100):
        client.async_infer(
            "digits",
            pixels(),
            callback=lambda result, error: done.put((result, error)),
            request_id=str(number),
        )
    found = [done.get(timeout=60) for _ in range(100)]
    assert not any(error for _, error in found)
    assert {result.get_response().id for result, _ in found} == {str(number) for number in range(100)}


def cancelled_async_infer(client: Any) -> None:
    done: queue.Queue[Any] = queue.Queue()
    heavy = pixels(np.zeros((20_000, 64), np.float32))
    call = client.async_infer("digits", heavy, callback=lambda result, error: done.put(error))
    call.cancel()
    assert done.get(timeout=60).status() == "StatusCode.CANCELLED"
    assert client.infer("digits", pixels()) is not None


def stream(client: Any) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: heard.put((result, error)))
    versions = ["wide", "plain", "none"]
    for number in range(60):
        client.async_stream_infer(
            "digits",
            pixels(),
            request_id=str(number),
            model_version=versions[number % 3],
            enable_empty_final_response=number % 2 == 0,
        )
    found = [heard.get(timeout=60) for _ in range(60)]
    client.stop_stream()
    for number, (result, error) in enumerate(found):
        if number % 3 == 2:
            assert "no variant 'none'" in error.message()
            continue
        assert error is None
        response = result.get_response()
        assert response.id == str(number)
        assert response.model_version == versions[number % 3]
        assert response.parameters["triton_final_response"].bool_param


def cancelled_stream(client: Any) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: heard.put(error))
    for _ in range(200):
        client.async_stream_infer("digits", pixels(np.zeros((500, 64), np.float32)))
    client.stop_stream(cancel_requests=True)
    last = heard.get(timeout=60)
    while last is None:
        last = heard.get(timeout=60)
    assert last.status() == "StatusCode.CANCELLED"
    assert client.infer("digits", pixels()) is not None


def stream_with_true_statuses(client: Any) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: heard.put(error), headers={"triton_grpc_error": "true"})
    client.async_stream_infer("digits", pixels(), model_version="none")
    assert heard.get(timeout=60).status() == "StatusCode.NOT_FOUND"
    client.stop_stream()


def stream_timeout(client: Any) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: heard.put(error), stream_timeout=0.3)
    assert heard.get(timeout=60).status() == "StatusCode.DEADLINE_EXCEEDED"
    client.stop_stream()


def aio(client: Any) -> None:
    async def talk() -> None:
        other = triton_aio.InferenceServerClient(client._channel_address)
        assert await other.is_server_live()
        results = await asyncio.gather(*(other.infer("digits", pixels()) for _ in range(50)))
        assert all(result.as_numpy("logits").shape == (8, 10) for result in results)

        async def requests() -> Any:
            for number in range(20):
                yield {"model_name": "digits", "inputs": pixels(), "request_id": str(number)}

        ids = []
        async for result, error in other.stream_infer(requests()):
            assert error is None
            ids.append(result.get_response().id)
        assert ids == [str(number) for number in range(20)]
        await other.close()

    asyncio.run(talk())


def checks() -> Iterator[Callable[[Any], None]]:
    yield from (describe, infer, infer_with_headers_and_parameters, compression, errors, client_timeout)
    yield read_statistics
    yield from (async_infer, cancelled_async_infer, stream, cancelled_stream, stream_with_true_statuses)
    yield from (stream_timeout, aio)


def main(address: str) -> None:
    found = {}
    for check in checks():
        keepalive = triton.KeepAliveOptions(keepalive_time_ms=10_000)
        client = triton.InferenceServerClient(address, keepalive_options=keepalive)
        client._channel_address = address
        try:
            check(client)
            found[check.__name__] = "ok"
        except Exception:  # noqa: BLE001  # whatever it was is the finding
            found[check.__name__] = traceback.format_exc()
        client.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
