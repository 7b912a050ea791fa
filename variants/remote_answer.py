"""An answer from a server elsewhere: its bytes, which are decoded only where somebody looks into them."""

from __future__ import annotations

from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.outline import RESPONSE_RAW, split
from anabranch.proto.tensors import decode_outputs
from anabranch.variants.batching import Timing
from anabranch.variants.tensors import Array


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
