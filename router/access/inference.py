"""The inference port's services behind a guard, where callers must prove who they are.

Liveness, health and reflection stay open: whoever probes a server has no token, and they tell nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from anabranch.proto.scan import ScanError, fields
from anabranch.router.access.authenticator import printable
from anabranch.router.access.guard import Guard, NotAllowed
from anabranch.store.access import Permission, Principal
from anabranch.wire.seam import Call, Handlers, StreamCall, StreamHandler, UnaryHandler

_OIP: Final = "/inference.GRPCInferenceService/"

OPEN: Final = frozenset({f"{_OIP}ServerLive", f"{_OIP}ServerReady"})
"""What nobody needs to be known for, beside health and reflection."""

NAMES_A_MODEL: Final[Mapping[str, int]] = {
    f"{_OIP}ModelInfer": 1,
    f"{_OIP}ModelStreamInfer": 1,
    f"{_OIP}ModelReady": 1,
    f"{_OIP}ModelMetadata": 1,
    f"{_OIP}ModelConfig": 1,
}
"""Methods about one model, and the field that names it."""


def guarded(handlers: Handlers, guard: Guard) -> Handlers:
    """The inference service's handlers, each behind the guard if it is not open."""
    return Handlers(
        unary={
            method: handler if method in OPEN else _unary(method, handler, guard)
            for method, handler in handlers.unary.items()
        },
        stream={method: _stream(method, handler, guard) for method, handler in handlers.stream.items()},
    )


def _unary(method: str, handler: UnaryHandler, guard: Guard) -> UnaryHandler:
    field = NAMES_A_MODEL.get(method)

    def handle(call: Call, message: bytes) -> None:
        principal = guard.admit(call, Permission.INFER)
        if principal is None or not _may(principal, field, message, call, guard):
            return
        handler(call, message)

    return handle


def _stream(method: str, handler: StreamHandler, guard: Guard) -> StreamHandler:
    field = NAMES_A_MODEL.get(method)

    def handle(call: StreamCall) -> None:
        principal = guard.admit(call, Permission.INFER)
        if principal is None:
            return

        def may(message: bytes) -> bool:
            # A stream may outlive what it was opened with.
            try:
                guard.check_still(call)
            except NotAllowed as error:
                guard.refuse(call, principal, str(error))
                return False
            return _may(principal, field, message, call, guard)

        handler(_Checked(call, may))

    return handle


class _Checked:
    """A stream whose messages are looked at before its handler sees them.

    Args:
        call: The stream.
        may: Whether a message may pass; it has ended the call when not.
    """

    def __init__(self, call: StreamCall, may: Callable[[bytes], bool]) -> None:
        self._call = call
        self._may = may

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def on_message(self, callback: Callable[[bytes], None]) -> None:
        """Pass on the messages that may pass."""

        def checked(message: bytes) -> None:
            if self._may(message):
                callback(message)

        self._call.on_message(checked)


def _may(principal: Principal, field: int | None, message: bytes, call: Call, guard: Guard) -> bool:
    """Whether a message is about a model of the caller's; the call has ended when not."""
    if not principal.models:
        return True
    if field is None:
        guard.refuse(call, principal, "this lists every model, and the caller is for some only")
        return False
    model = _model(message, field)
    if principal.sees(model):
        return True
    guard.refuse(call, principal, f"model {printable(model)!r} is none of the caller's")
    return False


def _model(message: bytes, field: int) -> str:
    """The model a message names; none where it names two, of which another reader might take the other."""
    try:
        found = [message[start:end] for number, _, start, end in fields(message) if number == field]
    except ScanError:
        return ""
    return found[0].decode("utf-8", "replace").partition("/")[0] if len(found) == 1 else ""
