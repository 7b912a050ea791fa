"""The inference service behind a guard: what reaches it, as whom, about which model."""

from collections.abc import Callable
from typing import Any

import pytest

from anabranch.proto import open_inference_pb2 as pb
from anabranch.router.access.authenticator import Authenticator, Rules, Unauthenticated
from anabranch.router.access.guard import Guard, Refusals
from anabranch.router.access.inference import NAMES_A_MODEL, OPEN, guarded
from anabranch.store.access import Principal, Role
from anabranch.wire.seam import Call, Handlers, Status

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
INDEX = "/inference.GRPCInferenceService/RepositoryIndex"
LIVE = "/inference.GRPCInferenceService/ServerLive"


class Gate(Authenticator):
    """Lets one principal in, until it is shut."""

    def __init__(self, principal: Principal) -> None:
        super().__init__(Rules(), lambda: 0.0)
        self.principal: Principal | None = principal

    def authenticate(self, call: Call) -> Principal:
        if self.principal is None:
            raise Unauthenticated("the token is not valid here", "revoked", "x")
        return self.principal


class Stream:
    """A stream whose messages a test sends."""

    def __init__(self) -> None:
        self.method = STREAM
        self.failures: list[Status] = []
        self.send_to: Callable[[bytes], None] = lambda _: None

    def on_message(self, callback: Callable[[bytes], None]) -> None:
        self.send_to = callback

    def fail(self, status: Status, message: str) -> None:
        self.failures.append(status)


@pytest.fixture
def seen() -> list[bytes]:
    return []


def behind(gate: Gate, seen: list[bytes]) -> Handlers:
    def unary(call: Any, message: bytes) -> None:
        seen.append(message)

    def stream(call: Any) -> None:
        call.on_message(seen.append)

    guard = Guard(gate, Refusals(lambda *_: None, lambda: 0.0))
    return guarded(Handlers(unary={INFER: unary, INDEX: unary, LIVE: unary}, stream={STREAM: stream}), guard)


def of(*models: str) -> Gate:
    return Gate(Principal(actor="token:x", role=Role.FEEDBACK, models=frozenset(models)))


def asked(model: str) -> bytes:
    return pb.ModelInferRequest(model_name=model).SerializeToString()


def test_a_caller_reaches_its_models_and_their_variants(seen: list[bytes], new_call: Any) -> None:
    handlers = behind(of("mine"), seen)
    for model in ("mine", "mine/onnx-fp32"):
        handlers.unary[INFER](new_call(method=INFER), asked(model))
    assert len(seen) == 2


@pytest.mark.parametrize(
    "message",
    [
        asked("theirs"),
        asked(""),
        asked("mine") + asked("theirs"),  # another reader might take the other name
        asked("theirs") + asked("mine"),
        asked("mine\x00"),
        asked("MINE"),
        b"\x0a\x7f",
        b"\xff" * 20,
    ],
)
def test_whatever_else_is_named_reaches_nothing(seen: list[bytes], new_call: Any, message: bytes) -> None:
    call = new_call(method=INFER)
    behind(of("mine"), seen).unary[INFER](call, message)
    assert seen == []
    assert call.failures[0][0] is Status.PERMISSION_DENIED


def test_a_list_of_all_models_is_not_for_a_caller_of_some(seen: list[bytes], new_call: Any) -> None:
    call = new_call(method=INDEX)
    behind(of("mine"), seen).unary[INDEX](call, b"")
    assert call.failures[0][0] is Status.PERMISSION_DENIED
    behind(of(), seen).unary[INDEX](new_call(method=INDEX), b"")
    assert seen == [b""]


def test_a_probe_is_answered_to_everybody(seen: list[bytes], new_call: Any) -> None:
    gate = of("mine")
    gate.principal = None
    handlers = behind(gate, seen)
    handlers.unary[LIVE](new_call(method=LIVE), b"")
    assert seen == [b""]
    call = new_call(method=INFER)
    handlers.unary[INFER](call, asked("mine"))
    assert call.failures[0][0] is Status.UNAUTHENTICATED


def test_a_stream_is_over_with_the_first_message_after_its_token(seen: list[bytes]) -> None:
    gate, stream = of(), Stream()
    behind(gate, seen).stream[STREAM](stream)  # type: ignore[arg-type]  # as much of a stream as is needed
    stream.send_to(asked("any"))
    assert len(seen) == 1
    gate.principal = None
    stream.send_to(asked("any"))
    assert len(seen) == 1
    assert stream.failures == [Status.PERMISSION_DENIED]


def test_every_method_of_the_service_is_open_or_guarded_with_its_model() -> None:
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for method in service.methods:
        path = f"/inference.GRPCInferenceService/{method.name}"
        fields = method.input_type.fields_by_name
        named = next((fields[name].number for name in ("model_name", "name") if name in fields), None)
        if path in NAMES_A_MODEL:
            assert NAMES_A_MODEL[path] == named, method.name
        elif path not in OPEN:
            # Not served, or about every model: refused to callers of some.
            assert method.name in (
                "ServerMetadata",
                "RepositoryIndex",
                "ModelStatistics",
                "RepositoryModelLoad",
                "RepositoryModelUnload",
            )
