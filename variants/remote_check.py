"""Ask an Open Inference server what it serves, and compare that with what a manifest says."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from anabranch.proto import open_inference_pb2 as pb
from anabranch.variants.errors import VariantError
from anabranch.variants.tensors import Datatype, TensorSpec
from anabranch.wire.client import Channel, Reply
from anabranch.wire.seam import Status

SERVICE = "/inference.GRPCInferenceService"
_HEALTH = "/grpc.health.v1.Health/Check"
# HealthCheckResponse.status = SERVING.
_SERVING = b"\x08\x01"


class RemoteProblem(VariantError):
    """The server cannot be used as it is; the message says what it answered."""


class NotServed(RemoteProblem):
    """The server does not answer, or says that the model is not ready."""


class Served(NamedTuple):
    """What a server says of a model.

    Args:
        server: Its own name and version.
        inputs: What the model takes.
        outputs: What it gives.
        is_decoupled: It may answer a request in parts.
    """

    server: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    is_decoupled: bool = False


class _Message(Protocol):
    def SerializeToString(self) -> bytes: ...  # noqa: N802  # protobuf's name


async def ask(channel: Channel, method: str, message: bytes, timeout_s: float) -> Reply:
    """Make one call and wait for its end."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Reply] = loop.create_future()

    def done(reply: Reply) -> None:
        if not ended.done():
            ended.set_result(reply)

    call = channel.unary(method, message, done=done, deadline=loop.time() + timeout_s)
    try:
        return await ended
    finally:
        call.cancel()


async def find_served(channel: Channel, model: str, version: str, timeout_s: float) -> Served:
    """What the server says of a model.

    Raises:
        RemoteProblem: It does not answer, or not as the protocol says, or in types that cannot be checked.
    """
    request = pb.ModelMetadataRequest(name=model, version=version)
    body = await _answered(channel, "ModelMetadata", request, timeout_s)
    metadata = pb.ModelMetadataResponse.FromString(body)
    if not metadata.inputs or not metadata.outputs:
        raise RemoteProblem(
            f"the server names no {'outputs' if metadata.inputs else 'inputs'} of {model!r}: "
            "declare them there (MLServer: in model-settings.json), or nothing can be checked"
        )
    said = await ask(
        channel, f"{SERVICE}/ServerMetadata", pb.ServerMetadataRequest().SerializeToString(), timeout_s
    )
    server = pb.ServerMetadataResponse.FromString(said.body) if said.status is Status.OK else None
    return Served(
        f"{server.name} {server.version}".strip() if server is not None else "unknown",
        tuple(_spec(tensor) for tensor in metadata.inputs),
        tuple(_spec(tensor) for tensor in metadata.outputs),
        await _answers_in_parts(channel, model, version, timeout_s),
    )


async def _answers_in_parts(channel: Channel, model: str, version: str, timeout_s: float) -> bool:
    """Ask for the transaction policy; servers without Triton's ModelConfig have none."""
    request = pb.ModelConfigRequest(name=model, version=version)
    said = await ask(channel, f"{SERVICE}/ModelConfig", request.SerializeToString(), timeout_s)
    if said.status is not Status.OK:
        return False
    return pb.ModelConfigResponse.FromString(said.body).config.model_transaction_policy.decoupled


async def why_not_ready(channel: Channel, model: str, version: str, timeout_s: float) -> str | None:
    """Why the server does not serve a model now; None when it does.

    A server without the protocol's readiness is asked by `grpc.health.v1`.
    """
    request = pb.ModelReadyRequest(name=model, version=version)
    reply = await ask(channel, f"{SERVICE}/ModelReady", request.SerializeToString(), timeout_s)
    if reply.status is Status.UNIMPLEMENTED:
        reply = await ask(channel, _HEALTH, b"", timeout_s)
        if reply.status is Status.OK:
            return None if reply.body.startswith(_SERVING) else "its health service says it is not serving"
    elif reply.status is Status.OK:
        is_ready = pb.ModelReadyResponse.FromString(reply.body).ready
        return None if is_ready else f"it says that {model!r} is not ready"
    return f"{reply.status.name}: {reply.text or 'no message'}"


def differences(what: str, found: Sequence[TensorSpec], expected: Sequence[TensorSpec]) -> list[str]:
    """How a server's tensors differ from those expected, by name; their order does not matter.

    Args:
        what: `input` or `output`.
        found: The server's.
        expected: The others.
    """
    theirs = {spec.name: spec for spec in found}
    ours = {spec.name: spec for spec in expected}
    problems = [f"{what} {name!r} is missing there" for name in ours if name not in theirs]
    problems += [f"{what} {name!r} is not known here" for name in theirs if name not in ours]
    for name, spec in ours.items():
        other = theirs.get(name, spec)
        if other != spec:
            problems.append(
                f"{what} {name!r} is {other.datatype} {list(other.shape)} there, "
                f"{spec.datatype} {list(spec.shape)} here"
            )
    return problems


async def _answered(channel: Channel, method: str, message: _Message, timeout_s: float) -> bytes:
    reply = await ask(channel, f"{SERVICE}/{method}", message.SerializeToString(), timeout_s)
    if reply.status is not Status.OK:
        raise RemoteProblem(f"{method} ends with {reply.status.name}: {reply.text or 'no message'}")
    return reply.body


def _spec(tensor: pb.ModelMetadataResponse.TensorMetadata) -> TensorSpec:
    try:
        datatype = Datatype(tensor.datatype)
    except ValueError:
        raise RemoteProblem(
            f"tensor {tensor.name!r} has datatype {tensor.datatype!r}, must be one of {', '.join(Datatype)}"
        ) from None
    return TensorSpec(name=tensor.name, datatype=datatype, shape=tuple(tensor.shape))
