"""A variant on a server elsewhere that speaks the Open Inference Protocol: Triton, KServe, MLServer, another router.

Requests go there as they came, but for the model's name; tensors are neither decoded nor copied more than once. One channel
of few connections, a bound on requests in flight, a look at the server's readiness now and then, and outlier ejection.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from anabranch.proto.scan import override
from anabranch.variants.batching import QueueFull, Timing
from anabranch.variants.errors import ManifestError
from anabranch.variants.manifest import Manifest
from anabranch.variants.outlier import Outlier
from anabranch.variants.remote_answer import RemoteAnswer, remote_failure
from anabranch.variants.remote_check import SERVICE, RemoteProblem, differences, find_served, why_not_ready
from anabranch.variants.remote_stream import RemoteDone, RemotePart, RemoteStream
from anabranch.variants.remote_target import RemoteTarget
from anabranch.variants.tensors import Request, RequestCheck, Signature, TensorSpec
from anabranch.wire.client import Channel, ChannelLimits, ClientCall, Reply
from anabranch.wire.client_calls import Fields
from anabranch.wire.client_channel import GrpcChannel
from anabranch.wire.client_connection import ClientConnection
from anabranch.wire.express import Table, new_upstream
from anabranch.wire.seam import Metadata, Status

METHOD: Final = f"{SERVICE}/ModelInfer"
HEALTH_TIMEOUT_S: Final = 2.0
"""A look at the server that takes longer finds it not ready."""

_log = logging.getLogger(__name__)

OpenChannel = Callable[[RemoteTarget, Path], Channel]


def open_channel(remote: RemoteTarget, folder: Path) -> Channel:
    """Connections to a remote variant's server, on the running event loop.

    Raises:
        OSError: A file of its TLS cannot be read.
    """
    return GrpcChannel(
        remote.address,
        limits=ChannelLimits(
            min_connections=remote.connections, max_connections=max(8, remote.connections), max_pending=1024
        ),
        tls=None if remote.tls is None else remote.tls.client_tls(folder),
    )


class RemoteVariant:
    """One remote variant, in one worker.

    Args:
        manifest: With a remote target.
        folder: The variant's folder.
        open_channel: Connects to it.

    Attributes:
        refused: Requests that were not sent for want of room.
    """

    def __init__(self, manifest: Manifest, folder: Path, *, open_channel: OpenChannel = open_channel) -> None:
        if manifest.remote is None:
            raise ManifestError(f"{folder} has engine {manifest.engine} without a target: add it again")
        self.manifest = manifest
        self.remote = manifest.remote
        self.refused = 0
        self._folder = folder
        self._open_channel = open_channel
        self._check = RequestCheck.of(manifest.signatures)
        # Of a field that is given twice, protobuf takes the last.
        self._rename = override(model_name=self.remote.model, model_version=self.remote.model_version)
        self._outlier = Outlier(self.remote.outliers)
        self._problem: str | None = "it was not looked at yet"
        self._channel: Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch: asyncio.Task[None] | None = None
        self.upstream = new_upstream(self.remote.max_requests)

    @property
    def in_flight(self) -> int:
        """Requests on their way."""
        return self.upstream.in_flight

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.manifest.variant

    @property
    def signatures(self) -> tuple[Signature, ...]:
        """What clients may send; one of them a request."""
        return self.manifest.signatures

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What clients get."""
        return self.manifest.outputs

    @property
    def keeps_no_state(self) -> bool:
        """What a server elsewhere keeps is its own affair."""
        return False

    @property
    def reads_contents(self) -> bool:
        """The server checks what is in the inputs."""
        return False

    @property
    def ejections(self) -> int:
        """How often the server was ejected."""
        return self._outlier.ejections

    def check_inputs(self, request: Request) -> int:
        """Refuse a request that the variant cannot take; return its rows.

        Raises:
            VariantInputError: With what was given and what is allowed.
        """
        return self._check.rows(request)

    def check_contents(self, request: Request) -> None:
        """Nothing: the server does."""

    async def start(self, table: Table | None = None) -> None:
        """Connect, look at the server once, and go on looking.

        Args:
            table: Of the express path, where there is one.
        """
        self._loop = asyncio.get_running_loop()
        self._channel = self._open_channel(self.remote, self._folder)
        if table is not None and isinstance(self._channel, GrpcChannel):
            self._channel.join(self.upstream, table)
        await self.look()
        self._watch = self._loop.create_task(self._go_on_looking())

    async def close(self) -> None:
        """End every call and connection."""
        if self._watch is not None:
            self._watch.cancel()
        if self._channel is not None:
            await self._channel.close()

    def unfit(self) -> str | None:
        """Why a request that somebody else can answer should not go there now; None when it may."""
        if self._problem is not None:
            return self._problem
        assert self._loop is not None
        left_s = self._outlier.left_s(self._loop.time())
        return f"it is ejected for another {left_s:.0f} s" if left_s else None

    def submit(
        self,
        message: bytes,
        rows: int,
        metadata: Metadata,
        *,
        is_copy: bool,
        deadline: float | None,
        done: RemoteDone,
        part: RemotePart | None = None,
    ) -> "RemoteCall | RemoteStream":
        """Send a request.

        Args:
            message: The client's ModelInferRequest.
            rows: Its rows.
            metadata: What is sent along.
            is_copy: Nobody waits for it: it is sent only while half of the room is free.
            deadline: On the event loop's clock; the server is told.
            done: Called once, later, with the answer or the failure.
            part: Called before it with every part but the last of an answer in parts; None: the answer comes whole.

        Raises:
            QueueFull: As many requests are in flight as may be.
        """
        room = self.remote.max_requests // 2 if is_copy else self.remote.max_requests
        upstream = self.upstream
        if upstream.in_flight >= room:
            self.refused += 1
            raise QueueFull(
                f"{upstream.in_flight} requests are in flight, max_requests is {self.remote.max_requests}"
                f"{', of which copies get half' if is_copy else ''}: send less, or raise it"
            )
        assert self._channel is not None
        assert self._loop is not None
        if part is not None and self.remote.is_decoupled:
            stream = RemoteStream(self, self._loop.time(), rows, done, part)
            stream.begin(self._channel, message + self._rename, metadata, deadline)
            upstream.in_flight += 1
            return stream
        call = RemoteCall(self, self._loop.time(), rows, done)
        call.begin(
            self._channel.unary(
                METHOD, message, tail=self._rename, done=call.ended, metadata=metadata, deadline=deadline
            )
        )
        upstream.in_flight += 1
        return call

    def express(self) -> tuple[Fields, bytes] | None:
        """What the express path sends with a request: the fields that all have, and what follows the message.

        None where the variant takes no part in it.
        """
        return (self._channel.fixed(METHOD), self._rename) if isinstance(self._channel, GrpcChannel) else None

    def take_over(
        self,
        message: bytes,
        rows: int,
        extra: Fields,
        connection: ClientConnection,
        stream_id: int,
        *,
        since: float,
        deadline: float | None,
        done: RemoteDone,
    ) -> "RemoteCall":
        """Go on with a request that the express path has sent, and counted as in flight.

        Args:
            message: As for `submit`.
            rows: Likewise.
            extra: The metadata that went along, as fields.
            connection: Where it was sent.
            stream_id: On which stream.
            since: When, on the event loop's clock.
            deadline: As for `submit`.
            done: Likewise.
        """
        assert isinstance(self._channel, GrpcChannel)
        call = RemoteCall(self, since, rows, done)
        call.begin(
            self._channel.take_over(
                METHOD,
                message,
                self._rename,
                extra,
                connection,
                stream_id,
                done=call.ended,
                deadline=deadline,
            )
        )
        return call

    def late(self, waited_s: float) -> None:
        """A request was not waited for any longer."""
        self._heard(Status.DEADLINE_EXCEEDED, waited_s)

    def ended(self, status: Status, since: float) -> float:
        """A request has ended; answers how long it took, in seconds.

        Args:
            status: How.
            since: When it began, on the event loop's clock.
        """
        assert self._loop is not None
        self.upstream.in_flight -= 1
        took_s = self._loop.time() - since
        if status is not Status.OK or self._outlier.is_suspect:
            self._heard(status, took_s)
        return took_s

    def _heard(self, status: Status, waited_s: float) -> None:
        assert self._loop is not None
        now = self._loop.time()
        before = self._outlier.ejections
        self._outlier.heard(status, now, waited_s)
        self._judge()
        if self._outlier.ejections > before:
            _log.warning(
                "%s at %s is ejected for %.0f s: %d failures in a row, the last %s",
                self.manifest.variant,
                self.remote.target,
                self._outlier.left_s(now),
                self.remote.outliers.consecutive_errors,
                status.name,
            )

    async def look(self) -> None:
        """Look at the server's readiness; when it has become ready, at what it serves too."""
        problem = await self._find_problem()
        if _kind(problem) != _kind(self._problem):
            name, target = self.manifest.variant, self.remote.target
            if problem is None:
                _log.info("%s at %s is ready", name, target)
            else:
                _log.warning("%s at %s is not ready: %s", name, target, problem)
        self._problem = problem
        self._judge()

    def _judge(self) -> None:
        """Tell the express path whether there is anything to be careful about: then it is not taken."""
        assert self._loop is not None
        outlier = self._outlier
        is_left_alone = outlier.is_suspect or outlier.left_s(self._loop.time()) > 0
        self.upstream.is_calm = self._problem is None and not is_left_alone

    async def _find_problem(self) -> str | None:
        assert self._channel is not None
        model, version = self.remote.model, self.remote.model_version
        try:
            problem = await why_not_ready(self._channel, model, version, HEALTH_TIMEOUT_S)
            if problem is not None or self._problem is None:
                return problem
            # It may have come back as something else.
            found = await find_served(self._channel, model, version, HEALTH_TIMEOUT_S)
        except RemoteProblem as error:
            return str(error)
        except DecodeError as error:
            return f"it answers what is no message of the protocol: {error}"
        inputs = {spec.name: spec for signature in self.signatures for spec in signature.inputs}
        problems = differences("input", found.inputs, list(inputs.values()))
        problems += differences("output", found.outputs, self.outputs)
        return "; ".join(problems) or None

    async def _go_on_looking(self) -> None:
        while True:
            # Many workers and many routers must not look all at once.
            await asyncio.sleep(self.remote.health_interval_s * random.uniform(0.8, 1.2))
            try:
                await self.look()
            except Exception:  # noqa: BLE001  # whatever a server answers, looking goes on
                _log.exception("looking at %s failed", self.remote.target)
                self._problem = "looking at it failed, the log has the details"
                self._judge()


def _kind(problem: str | None) -> str | None:
    """A problem without what changes from look to look, as the time of the next attempt: what the log tells once."""
    return None if problem is None else problem.partition(":")[0]


class RemoteCall:
    """One request in flight."""

    __slots__ = ("_call", "_done", "_rows", "_since", "_variant")

    def __init__(self, variant: RemoteVariant, since: float, rows: int, done: RemoteDone) -> None:
        self._variant = variant
        self._since = since
        self._rows = rows
        self._done: RemoteDone | None = done
        self._call: ClientCall | None = None

    def begin(self, call: ClientCall) -> None:
        """Remember the wire's call."""
        self._call = call

    def cancel(self) -> None:
        """Forget it, and tell the server."""
        if self._done is not None and self._call is not None:
            self._done = None
            self._variant.upstream.in_flight -= 1
            self._call.cancel()

    def ended(self, reply: Reply) -> None:
        """From the wire."""
        done, self._done = self._done, None
        if done is None:
            return
        took_s = self._variant.ended(reply.status, self._since)
        timing = Timing(0.0, took_s, self._rows)
        if reply.status is Status.OK:
            is_assigned = reply.find(b"x-assignment-id") is not None
            done(RemoteAnswer(reply.body, timing, is_assigned=is_assigned))
            return
        done(remote_failure(self._variant.name, reply.status, reply.text, timing))
