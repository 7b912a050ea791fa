"""What a variant's failure is called in gRPC, and what the client is told of it."""

from __future__ import annotations

from typing import assert_never

from anabranch.variants.batching import Failure, FailureKind
from anabranch.wire.seam import Status


def told(variant: str, failure: Failure) -> tuple[Status, str]:
    """The status of a failure, and the text that a client may see; a remote server's own where there is one."""
    if failure.status is not None:
        return Status(failure.status), failure.message
    match failure.kind:
        case FailureKind.INPUT:
            return Status.INVALID_ARGUMENT, failure.message
        case FailureKind.DEADLINE:
            return Status.DEADLINE_EXCEEDED, "the deadline passed before the model could run"
        case FailureKind.SHED:
            return Status.RESOURCE_EXHAUSTED, "the queue is full of more urgent requests"
        case FailureKind.REMOVED:
            return Status.UNAVAILABLE, "the server is shutting down, try again"
        case FailureKind.ERROR:
            return Status.INTERNAL, f"variant {variant} failed on this request"
    assert_never(failure.kind)
