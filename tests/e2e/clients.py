"""Clients of a running server: one that asks once, and many that go on asking. Load this file by its path."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
import numpy as np
from numpy.typing import NDArray

from anabranch.proto import feedback_pb2
from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import decode_outputs, encode_inputs

SERVICE = "/inference.GRPCInferenceService/"
_PAUSE = threading.Event()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a client was answered.

    Attributes:
        code: gRPC's status.
        detail: The error's text.
        sent: Number of the digit that was sent.
    """

    code: grpc.StatusCode
    detail: str = ""
    sent: int = -1
    variant: str = ""
    assignment_id: str = ""
    experiment: str = ""
    logits: NDArray[np.float32] | None = None

    @property
    def is_ok(self) -> bool:
        return self.code is grpc.StatusCode.OK


class Client:
    """A connection of its own to the inference port."""

    def __init__(self, address: str, pixels: NDArray[np.float32]) -> None:
        self._pixels = pixels
        self.channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])

    def call(self, method: str, request: Any, response: type[Any], **options: Any) -> Any:
        """One unary call of the inference service."""
        path = method if method.startswith("/") else SERVICE + method
        stub: grpc.UnaryUnaryMultiCallable[Any, Any] = self.channel.unary_unary(
            path,
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=response.FromString,
        )
        return stub(request, **{"timeout": 30, **options})

    def request(self, sent: int = 0, **fields: Any) -> pb.ModelInferRequest:
        """A request for the class of one digit."""
        request = pb.ModelInferRequest(**{"model_name": "digits", **fields})
        encode_inputs(request, {"pixels": self._pixels[sent % len(self._pixels)][None]})
        return request

    def infer(
        self, sent: int = 0, *, metadata: Mapping[str, str] | None = None, timeout: float = 30, **fields: Any
    ) -> Reply:
        """Ask for the class of one digit; a failure is a reply too."""
        try:
            response = self.call(
                "ModelInfer",
                self.request(sent, **fields),
                pb.ModelInferResponse,
                metadata=list((metadata or {}).items()),
                timeout=timeout,
            )
        except grpc.RpcError as error:
            failed = cast("grpc.Call", error)
            return Reply(code=failed.code(), detail=failed.details() or "", sent=sent)
        said = {name: value.string_param for name, value in response.parameters.items()}
        return Reply(
            code=grpc.StatusCode.OK,
            sent=sent,
            variant=said["invoked_variant"],
            assignment_id=said.get("assignment_id", ""),
            experiment=said.get("experiment", ""),
            logits=decode_outputs(response)["logits"],
        )

    def give_feedback(self, outcomes: Sequence[feedback_pb2.Outcome]) -> list[feedback_pb2.Result]:
        """Report outcomes."""
        response = self.call(
            "/anabranch.v1.FeedbackService/Submit",
            feedback_pb2.SubmitRequest(outcomes=outcomes),
            feedback_pb2.SubmitResponse,
        )
        return list(response.results)

    def close(self) -> None:
        self.channel.close()


@dataclass(slots=True)
class Traffic:
    """Clients that ask again as soon as they are answered, and report the true classes some answers later.

    Attributes:
        replies: Every reply, in the order of arrival.
        unit: The user of a request, by the request's number; None sends none.
        labels_after: Labels of this many answers are reported together.
    """

    address: str
    pixels: NDArray[np.float32]
    labels: Sequence[int]
    clients: int = 3
    unit: Callable[[int], str] | None = None
    labels_after: int = 20
    replies: list[Reply] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Traffic":
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads), "a client never got an answer"

    def answered(self) -> list[Reply]:
        return [reply for reply in list(self.replies) if reply.is_ok]

    def _run(self, number: int) -> None:
        client = Client(self.address, self.pixels)
        waiting: list[Reply] = []
        sent = number
        while not self._stop.is_set():
            metadata = {"x-user-id": self.unit(sent)} if self.unit else {}
            reply = client.infer(sent, metadata=metadata)
            self.replies.append(reply)
            waiting += [reply] if reply.assignment_id else []
            if len(waiting) >= self.labels_after:
                self._label(client, waiting)
                waiting = []
            if not reply.is_ok:
                _PAUSE.wait(0.02)
            sent += self.clients
        client.close()

    def _label(self, client: Client, replies: list[Reply]) -> None:
        outcomes = [
            feedback_pb2.Outcome(
                assignment_id=reply.assignment_id, label=self.labels[reply.sent % len(self.labels)]
            )
            for reply in replies
        ]
        try:
            results = client.give_feedback(outcomes)
        except grpc.RpcError:
            return
        self.problems += [result.problem for result in results if not result.accepted]
