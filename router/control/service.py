"""The control service on a wire: reads messages, lets the verbs work on threads, sends what they answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Protocol, Self, TypeVar

from anabranch.proto import control_pb2 as pb
from anabranch.proto.strict import read_strictly
from anabranch.router.access.guard import Guard, NotAllowed
from anabranch.router.control.desk import Desk
from anabranch.router.control.errors import told
from anabranch.router.control.permissions import NEEDS, SERVICE
from anabranch.router.control.verbs import Verbs
from anabranch.router.control.watches import Watches
from anabranch.store.access import Principal
from anabranch.wire.seam import Call, Handlers, Status, StreamCall, StreamHandler, UnaryHandler


class _Message(Protocol):
    @classmethod
    def FromString(cls, data: bytes) -> Self: ...  # noqa: N802  # protobuf's name

    def SerializeToString(self) -> bytes: ...  # noqa: N802  # protobuf's name


_Asked = TypeVar("_Asked", bound=_Message)


class ControlService:
    """The service of one control port.

    Args:
        verbs: What is asked.
        guard: Who may ask.
        loop: The port's event loop.
    """

    def __init__(self, verbs: Verbs, guard: Guard, loop: asyncio.AbstractEventLoop) -> None:
        self._verbs = verbs
        self._guard = guard
        self.desk = Desk(loop)
        self._watches = Watches(self.desk, loop, self._fail_stream)

    def handlers(self) -> Handlers:
        """What a wire serves."""
        verbs = self._verbs
        unary = {
            "WhoAmI": self._unary(pb.WhoAmIRequest, verbs.who_am_i),
            "Apply": self._unary(pb.ApplyRequest, verbs.apply),
            "Diff": self._unary(pb.DiffRequest, verbs.diff),
            "Get": self._unary(pb.GetRequest, verbs.get),
            "Describe": self._unary(pb.DescribeRequest, verbs.describe),
            "Request": self._unary(pb.CommandRequest, verbs.request),
            "Verify": self._unary(pb.VerifyRequest, verbs.verify),
            "Variants": self._unary(pb.VariantsRequest, verbs.variants),
        }
        stream = {
            "List": self._listing(pb.ListRequest, verbs.experiments),
            "Decisions": self._listing(pb.DecisionsRequest, verbs.decisions),
            "Events": self._listing(pb.EventsRequest, verbs.events),
            "Evidence": self._listing(pb.EvidenceRequest, verbs.evidence),
            "Specs": self._listing(pb.SpecsRequest, verbs.specs),
            "Tenures": self._listing(pb.TenuresRequest, verbs.tenures),
            "Watch": self._stream(self._watch),
        }
        return Handlers(
            unary={f"/{SERVICE}/{name}": handler for name, handler in unary.items()},
            stream={f"/{SERVICE}/{name}": handler for name, handler in stream.items()},
        )

    def shut_down(self) -> None:
        """End the streams that a drain would wait for."""
        self._watches.close()

    def close(self) -> None:
        """Take on no more work."""
        self.desk.close()

    def _unary(self, kind: type[_Asked], verb: Callable[[Principal, _Asked], _Message]) -> UnaryHandler:
        def handle(call: Call, message: bytes) -> None:
            principal = self._guard.admit(call, NEEDS[call.method.rpartition("/")[2]])
            if principal is None:
                return
            self.desk.run(
                lambda: verb(principal, read_strictly(kind, message)).SerializeToString(),
                call.reply,
                lambda error: self._fail(call, principal, error),
            )

        return handle

    def _listing(
        self, kind: type[_Asked], verb: Callable[[Principal, _Asked], Iterator[_Message]]
    ) -> StreamHandler:
        """A stream of everything that a verb finds."""

        def answer(call: StreamCall, principal: Principal, message: bytes) -> None:
            self.desk.run(
                lambda: [
                    found.SerializeToString() for found in verb(principal, read_strictly(kind, message))
                ],
                lambda found: _send_all(call, iter(found)),
                lambda error: self._fail(call, principal, error),
            )

        return self._stream(answer)

    def _stream(self, answer: Callable[[StreamCall, Principal, bytes], None]) -> StreamHandler:
        def handle(call: StreamCall) -> None:
            principal = self._guard.admit(call, NEEDS[call.method.rpartition("/")[2]])
            if principal is None:
                return
            asked: list[bytes] = []

            def on_message(message: bytes) -> None:
                if asked:
                    call.fail(Status.INVALID_ARGUMENT, "one message is asked for, a second one came")
                    return
                asked.append(message)
                answer(call, principal, message)

            def on_half_close() -> None:
                if not asked:
                    call.fail(Status.INVALID_ARGUMENT, "one message is asked for, none came")

            call.on_message(on_message)
            call.on_half_close(on_half_close)

        return handle

    def _watch(self, call: StreamCall, principal: Principal, message: bytes) -> None:
        try:
            asked = read_strictly(pb.WatchRequest, message)
        except Exception as error:  # noqa: BLE001  # protobuf raises its own DecodeError from C
            self._fail(call, principal, error)
            return

        def look() -> pb.Experiment:
            # Whoever was let in may be shut out while the stream is open.
            self._guard.check_still(call)
            return self._verbs.get(principal, asked)

        self._watches.open(call, caller=principal.actor, keeps_going=asked.keep_going, look=look)

    def _fail(self, call: Call, principal: Principal, error: Exception) -> None:
        if isinstance(error, NotAllowed):
            self._guard.refuse(call, principal, str(error))
            return
        call.fail(*told(error, call.method))

    def _fail_stream(self, call: StreamCall, error: Exception) -> None:
        call.fail(*told(error, call.method))


def _send_all(call: StreamCall, messages: Iterator[bytes]) -> None:
    """Send messages as fast as the client reads them, then end the call."""
    is_done = False

    def go_on() -> None:
        nonlocal is_done
        while not is_done and not call.cancelled and call.writable:
            message = next(messages, None)
            if message is None:
                is_done = True
                call.finish()
            else:
                call.send(message)

    call.on_drain(go_on)
    go_on()
