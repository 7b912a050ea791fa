"""An answer from a server elsewhere: its bytes, which are decoded only where somebody looks into them."""

from __future__ import annotations

from typing import Final

from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.outline import RESPONSE_RAW, split
from anabranch.proto.tensors import decode_outputs
from anabranch.variants.batching import Failure, FailureKind, Timing
from anabranch.variants.tensors import Array
from anabranch.wire.seam import Status

_KINDS: Final = {
    Status.DEADLINE_EXCEEDED: FailureKind.DEADLINE,
    Status.RESOURCE_EXHAUSTED: FailureKind.SHED,
    Status.UNAVAILABLE: FailureKind.REMOVED,
    Status.CANCELLED: FailureKind.REMOVED,
}


def remote_failure(variant: str, status: Status, text: str, timing: Timing) -> Failure:
    """Why a server elsewhere gave no answer.

    Args:
        variant: The variant's name.
        status: What the call ended with.
        text: What the server said.
        timing: Where its time went.
    """
    # A call that the server cancelled is as good as one that it could not take.
    told = Status.UNAVAILABLE if status is Status.CANCELLED else status
    return Failure(
        kind=_KINDS.get(status, FailureKind.ERROR),
        message=f"variant {variant}: {text or told.name}",
        timing=timing,
        status=told,
    )


class RemoteAnswer:
    """One answer.

    Args:
        message: The serialized ModelInferResponse.
        timing: Where its time went: all of it is the remote server's compute.
        is_assigned: The server is a router too, and gave the request an assignment id of its own.
    """

    __slots__ = ("_outputs", "is_assigned", "message", "timing")

    def __init__(self, message: bytes, timing: Timing, *, is_assigned: bool) -> None:
        self.message = message
        self.timing = timing
        self.is_assigned = is_assigned
        self._outputs: dict[str, Array] | None = None

    @property
    def outputs(self) -> dict[str, Array]:
        """The arrays by name.

        Raises:
            ValueError: The message is no ModelInferResponse, or a tensor does not agree with its description.
        """
        if self._outputs is None:
            description, _, raw = split(self.message, RESPONSE_RAW)
            try:
                parsed = pb.ModelInferResponse.FromString(description)
            except Exception as error:  # protobuf raises its own DecodeError from C
                raise ValueError(f"the answer is no ModelInferResponse: {error}") from error
            view = memoryview(self.message)
            self._outputs = decode_outputs(parsed, [view[start:end] for start, end in raw])
        return self._outputs
