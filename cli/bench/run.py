"""Run a load: connect, ask what the model takes, send, sum up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import uvloop

from anabranch.cli.bench.infer_request import build_request
from anabranch.cli.bench.load import INFER, MAX_IN_FLIGHT, Load, Plan
from anabranch.cli.bench.pacing import best_timer
from anabranch.cli.bench.report import LoadReport, load_report
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.client.target import BadTarget, Credentials, parse_target, token_from_environment
from anabranch.proto import open_inference_pb2 as pb
from anabranch.wire.client import Channel, ChannelLimits, ClientTls, Reply, Target
from anabranch.wire.client_channel import GrpcChannel
from anabranch.wire.grpc_framing import encode_metadata
from anabranch.wire.seam import MIB, Metadata, Status

_SERVICE = INFER.rpartition("/")[0]
_CONNECT_S = 5.0
_PROGRESS_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the request is made of; see `anabranch.cli.bench.infer_request.build_request`.

    Attributes:
        file: A serialized ModelInferRequest, sent as it is; the rest is ignored then.
    """

    model: str = ""
    given: dict[str, str]
    text: str | None = None
    tensor_bytes: int | None = None
    file: Path | None = None


def run_load(
    target: str,
    request: Request,
    plan: Plan,
    *,
    connections: int,
    tls: ClientTls | None,
    progress: Callable[[str], None] | None = None,
) -> LoadReport:
    """Load a server.

    Args:
        target: HOST:PORT.
        request: What is sent over and over.
        plan: When; its message is made from `request`.
        connections: Number of connections.
        tls: Absent: plain text.
        progress: Told once a second how it goes.

    Raises:
        CommandFailed: The options are wrong, or the server cannot be reached or does not know the model.
    """
    try:
        address = Target.parse(target)
        encode_metadata([*plan.metadata, *([(plan.unit_field, "unit-0")] if plan.unit_field else [])])
        message = b"" if request.file is None else request.file.read_bytes()
    except ValueError as error:
        raise CommandFailed(ExitCode.BAD_INPUT, str(error)) from error
    except OSError as error:
        raise CommandFailed(ExitCode.NOT_FOUND, f"cannot read {request.file}: {error.strerror}") from error
    return uvloop.run(_run(address, request, replace(plan, message=message), connections, tls, progress))


async def _run(
    address: Target,
    request: Request,
    plan: Plan,
    connections: int,
    tls: ClientTls | None,
    progress: Callable[[str], None] | None,
) -> LoadReport:
    limits = ChannelLimits(
        min_connections=connections,
        max_connections=connections,
        # What the server does not take yet waits, and its latency says so.
        max_pending=MAX_IN_FLIGHT,
        max_buffered_bytes=2048 * MIB,
    )
    try:
        channel = GrpcChannel(address, limits=limits, tls=tls)
    except (OSError, ValueError) as error:
        raise CommandFailed(ExitCode.BAD_INPUT, f"the TLS files cannot be used: {error}") from error
    try:
        try:
            await channel.ready(_CONNECT_S)
        except TimeoutError as error:
            raise CommandFailed(ExitCode.FAILURE, str(error), _connect_advice(str(error), tls)) from error
        if request.file is None:
            plan = replace(plan, message=await _message(channel, request, plan.metadata))
        loop = asyncio.get_running_loop()
        timer = best_timer(loop, time.monotonic)
        load = Load(channel, plan, timer)
        teller = None if progress is None else loop.create_task(_tell(load, progress))
        try:
            outcome = await load.run()
        finally:
            timer.close()
            if teller is not None:
                teller.cancel()
        return load_report(str(address), connections, plan, outcome)
    finally:
        await channel.close()


def with_token(
    metadata: tuple[tuple[str, str], ...], target: str, *, has_tls: bool
) -> tuple[tuple[str, str], ...]:
    """Metadata with the token of the environment, where it names no `authorization` of its own.

    Raises:
        CommandFailed: The token would leave this machine in plain text, or its file cannot be read.
    """
    if any(name == "authorization" for name, _ in metadata):
        return metadata
    try:
        token = token_from_environment()
        if token is None:
            return metadata
        parse_target(f"{'grpcs' if has_tls else 'grpc'}://{target}", Credentials(token=token))
    except BadTarget as error:
        raise CommandFailed(ExitCode.BAD_INPUT, str(error), "or give --tls-ca") from error
    except OSError as error:
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            f"cannot read {error.filename}: {error.strerror}",
            "check ANABRANCH_TOKEN_FILE",
        ) from error
    return (*metadata, ("authorization", f"Bearer {token}"))


def _connect_advice(reason: str, tls: ClientTls | None) -> str:
    """What to look at when no connection opens."""
    if "certificate" in reason:
        return "--tls-ca is the authority of the server's certificate, --tls-server-name a name that is in it"
    if tls is None:
        return "is the server running? where it speaks TLS, give --tls-ca"
    return "is the server running, and does it speak TLS?"


async def _tell(load: Load, progress: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(_PROGRESS_S)
        progress(load.progress())


async def _message(channel: Channel, request: Request, metadata: Metadata) -> bytes:
    """Ask what the model takes, with the same metadata (a token may be among them), and make a request of it."""
    asked = pb.ModelMetadataRequest(name=request.model).SerializeToString()
    reply = await _ask(channel, f"{_SERVICE}/ModelMetadata", asked, metadata)
    if reply.status is not Status.OK:
        raise CommandFailed(
            ExitCode.NOT_FOUND if reply.status is Status.NOT_FOUND else ExitCode.FAILURE,
            f"the server does not describe model {request.model!r}: {reply.status.name} {reply.text}".rstrip(),
            "a token goes along from ANABRANCH_TOKEN or ANABRANCH_TOKEN_FILE"
            if reply.status is Status.UNAUTHENTICATED
            else "give --model as the server names it, or a whole request: --request-file",
        )
    described = pb.ModelMetadataResponse.FromString(reply.body)
    return build_request(
        request.model,
        described.inputs,
        given=request.given,
        text=request.text,
        tensor_bytes=request.tensor_bytes,
    )


async def _ask(channel: Channel, method: str, message: bytes, metadata: Metadata) -> Reply:
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Reply] = loop.create_future()
    channel.unary(
        method, message, done=answered.set_result, metadata=metadata, deadline=loop.time() + _CONNECT_S
    )
    return await answered
