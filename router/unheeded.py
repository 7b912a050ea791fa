"""What a request may say that a variant in this process would not heed: refused, and never ignored in silence.

A variant on another server gets every parameter and answers for it. One in this process knows those below; what else a client
says might change the answer it means to get.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

from anabranch.proto import open_inference_pb2 as pb

KNOWN: Final = ("priority", "timeout")
"""Parameters that are honoured."""
_UNASKED: Final = frozenset({"triton_enable_empty_final_response", "content_type", "headers"})
"""Sent by clients of themselves, and right as they are: the last part of an answer is never empty, and MLServer's
describe how its client came to its tensors."""
_NOTE: Final = "x-"
"""Begins a name that is the client's own note."""
_SEQUENCES: Final = frozenset({"sequence_id", "sequence_start", "sequence_end"})
_SHARED_MEMORY: Final = "shared_memory_"
_ELSEWHERE: Final = "or serve the model by a remote variant"


def unheeded(request: pb.ModelInferRequest) -> str:
    """Why a variant in this process cannot honour a request; empty when it can."""
    for name in _strangers(request.parameters):
        if name in _SEQUENCES:
            return (
                f"parameter {name} is given, but a variant in this process keeps no state between requests: "
                f"leave it out, {_ELSEWHERE}"
            )
        near = difflib.get_close_matches(name, KNOWN, n=1)
        meant = f", did you mean {near[0]}?" if near else ""
        return (
            f"parameter {name[:80]!r} is given, a variant in this process knows {', '.join(KNOWN)}{meant}: leave it out, "
            f"begin its name with {_NOTE} if it is a note of your own, {_ELSEWHERE}"
        )
    for tensor in request.inputs:
        for name in _strangers(tensor.parameters):
            # The tensor codec says of shared memory what to do.
            if not name.startswith(_SHARED_MEMORY):
                return f"parameter {name[:80]!r} of input {tensor.name!r} is given, a variant in this process knows none: leave it out, {_ELSEWHERE}"
    for output in request.outputs:
        for name in _strangers(output.parameters):
            if name == "classification":
                return f"classes are asked of output {output.name!r}: ask for its values, and sort them, {_ELSEWHERE}"
            if name.startswith(_SHARED_MEMORY):
                return f"output {output.name!r} is asked for in shared memory, which is not served: take it from the reply"
            return f"parameter {name[:80]!r} of output {output.name!r} is given, a variant in this process knows none: leave it out, {_ELSEWHERE}"
    return ""


def _strangers(names: Iterable[str]) -> list[str]:
    return sorted(
        name for name in names if name not in KNOWN and name not in _UNASKED and not name.startswith(_NOTE)
    )
