"""One measurement: check that a server answers rightly, then run the generator against it on the other core."""

import base64
import dataclasses
import json
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import decode_outputs
from bench.dataplane.load_plan import Dialect, LoadPlan, LoadResult
from bench.dataplane.messages import Array, Message
from bench.dataplane.peers import Running
from bench.dataplane.places import OUR_PYTHON, REPOSITORY
from bench.dataplane.processes import LOAD_CORE

_GRACE_S = 60.0


class MeasurementFailed(RuntimeError):
    """The generator could not measure, or a server answers something else than it should."""


def measure(running: Running, message: Message, **options: Any) -> LoadResult:
    """Load a running server.

    Args:
        running: The server.
        message: What it is sent.
        options: Fields of LoadPlan.

    Raises:
        MeasurementFailed: If the generator ends with an error or nothing is answered.
    """
    body = message.grpc if running.dialect is Dialect.GRPC else message.json
    plan = LoadPlan(
        port=running.port,
        path=running.path,
        body=base64.b64encode(body).decode(),
        needle=base64.b64encode(message.needle).decode(),
        server_pid=running.tree.pid,
        dialect=running.dialect,
        **options,
    )
    done = subprocess.run(
        ["taskset", "--cpu-list", str(LOAD_CORE), OUR_PYTHON, "-m", "bench.dataplane.generate"],
        input=json.dumps(dataclasses.asdict(plan)),
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=plan.warm_up_s + plan.seconds + _GRACE_S,
        check=False,
    )
    if done.returncode:
        raise MeasurementFailed(f"the generator ended with {done.returncode}: {done.stderr[-1500:]}")
    result = LoadResult(**json.loads(done.stdout.splitlines()[-1]))
    if not result.answered:
        raise MeasurementFailed("nothing was answered")
    return result


def check_answer(running: Running, message: Message, expected: Array, metadata: Mapping[str, str]) -> None:
    """Ask until the server answers, and compare the first output with what it must be.

    Raises:
        MeasurementFailed: If it does not answer within a minute, or answers something else.
    """
    give_up = time.monotonic() + _GRACE_S
    while True:
        try:
            if running.dialect is Dialect.GRPC:
                got = ask_grpc(running, message, metadata).output
            else:
                got = _ask_json(running, message)
            break
        except (grpc.RpcError, OSError) as error:
            # Some servers listen before their model is loaded.
            if time.monotonic() > give_up:
                raise MeasurementFailed(f"no answer within {_GRACE_S:g} s: {error}") from error
            time.sleep(0.1)
    if got.shape != expected.shape or not np.allclose(got, expected, rtol=1e-3, atol=1e-4):
        raise MeasurementFailed(f"answered {got.ravel()[:4]} ..., must be {expected.ravel()[:4]} ...")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One answer over gRPC: its first output, and its initial metadata."""

    output: Array
    headers: Mapping[str, str]


def ask_grpc(running: Running, message: Message, metadata: Mapping[str, str]) -> Answered:
    """Ask once, as any client does.

    Raises:
        grpc.RpcError: If the answer is no success.
    """
    # A subchannel of its own, so that no backoff of an earlier attempt holds it up.
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{running.port}", options=options) as channel:
        infer: Any = channel.unary_unary(
            running.path, request_serializer=bytes, response_deserializer=pb.ModelInferResponse.FromString
        )
        response, call = infer.with_call(message.grpc, timeout=30, metadata=list(metadata.items()))
        headers = {key: value for key, value in call.initial_metadata() if isinstance(value, str)}
    if response.raw_output_contents:
        # MLServer sends empty typed contents beside the raw ones.
        for output in response.outputs:
            output.ClearField("contents")
    return Answered(output=next(iter(decode_outputs(response).values())), headers=headers)


def _ask_json(running: Running, message: Message) -> Array:
    request = urllib.request.Request(
        f"http://127.0.0.1:{running.port}{running.path}", message.json, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        output = json.load(reply)["outputs"][0]
    return np.array(output["data"], np.float32).reshape(output["shape"])
