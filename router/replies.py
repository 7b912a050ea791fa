"""Writes answers: the protocol's fields by hand around the tensors' bytes, which are copied once.

What the answers to one kind of request have in common is written once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from anabranch.proto.outline import output_field, raw_output_prefix
from anabranch.proto.scan import bytes_field, encode_parameter, override, text_field
from anabranch.proto.tensors import datatype_of, encode_raw
from anabranch.router.queries import Plan, Query
from anabranch.variants.batching import Answer
from anabranch.variants.remote_answer import RemoteAnswer
from anabranch.variants.tensors import Array

INVOKED_VARIANT: Final = "x-invoked-variant"
ASSIGNMENT_ID: Final = "x-assignment-id"
EXPERIMENT: Final = "x-experiment"

PARAMETERS: Final = {
    INVOKED_VARIANT: "invoked_variant",
    ASSIGNMENT_ID: "assignment_id",
    EXPERIMENT: "experiment",
}
"""By metadata, the response's parameter that says the same."""

_NO_ASSIGNMENT: Final = override(parameters={PARAMETERS[ASSIGNMENT_ID]: None, PARAMETERS[EXPERIMENT]: None})
_MOST_KEPT: Final = 4096
# Below this size, a copy of an array's bytes is cheaper than the way around it.
_COPIED_BYTES: Final = 4096


class Replies:
    """Writes the ModelInferResponses of one worker."""

    def __init__(self) -> None:
        self._described: dict[tuple[str, np.dtype[Any], tuple[int, ...]], tuple[bytes, bytes]] = {}
        self._prefixes: dict[tuple[str, int], bytes] = {}

    def local(self, query: Query, variant: str, answer: Answer, identity: Sequence[tuple[str, str]]) -> bytes:
        """Write the answer of an in-process variant.

        Args:
            query: The request.
            variant: Who answered.
            answer: What it answered.
            identity: Metadata of the reply, the variant first; its parameters say the same.

        Raises:
            KeyError: The variant left out an output.
            ValueError: An output is of a type that the protocol lacks.
        """
        plan = query.plan
        parts: list[Any] = [plan.heads.get(variant) or self.head(plan, variant)]
        if query.id:
            parts.append(bytes_field(3, query.id))
        if len(identity) > 1:
            self._assignment(parts, identity)
        return b"".join(parts + self.outputs(plan, answer))

    def outputs(self, plan: Plan, answer: Answer) -> list[Any]:
        """Write what an in-process variant answered, in parts and without its names; raises as `local` does."""
        parts: list[Any] = []
        raws: list[Any] = []
        outputs = answer.outputs
        for name in plan.wanted or outputs:
            array = outputs[name]
            key = (name, array.dtype, array.shape)
            described = self._described.get(key)
            if described is None:
                described = self._describe(name, array)
            parts.append(described[0])
            if not described[1]:
                raws.append(bytes_field(6, encode_raw(f"output '{name}'", "BYTES", array)))
                continue
            raws.append(described[1])
            if array.nbytes > _COPIED_BYTES and array.flags.c_contiguous:
                raws.append(array)
            else:
                raws.append(array.tobytes())
        return parts + raws

    def remote_tail(
        self, query: Query, variant: str, answer: RemoteAnswer, identity: Sequence[tuple[str, str]]
    ) -> bytes:
        """What behind a remote variant's answer gives it the names that the client knows; its tensors stay as they are.

        Of a field that is given twice, protobuf takes the last.

        Args:
            query: The request.
            variant: Who answered.
            answer: What its server answered.
            identity: As for `local`.
        """
        parts: list[Any] = [
            query.plan.heads.get(variant) or self.head(query.plan, variant),
            bytes_field(3, query.id),
        ]
        if len(identity) > 1:
            self._assignment(parts, identity)
        elif answer.is_assigned:
            # A router behind this one gave out an id of its own: feedback with it would be refused here.
            parts.append(_NO_ASSIGNMENT)
        return b"".join(parts)

    def _assignment(self, parts: list[Any], identity: Sequence[tuple[str, str]]) -> None:
        """The parameters of an assignment: the id last, so that what precedes its value is the same each time."""
        _, (_, sealed), (_, experiment) = identity
        key = (experiment, len(sealed))
        prefix = self._prefixes.get(key)
        if prefix is None:
            prefix = assignment_prefix(experiment, sealed)
            _keep(self._prefixes, key, prefix)
        parts += (prefix, sealed.encode())

    def head(self, plan: Plan, variant: str) -> bytes:
        """How the answers of a variant to one kind of request begin."""
        head = plan.heads[variant] = (
            text_field(1, plan.parsed.model_name)
            + text_field(2, variant)
            + encode_parameter(4, PARAMETERS[INVOKED_VARIANT], variant)
        )
        return head

    def _describe(self, name: str, array: Array) -> tuple[bytes, bytes]:
        """The description of an output, and what precedes its bytes; empty where they differ in length."""
        datatype = datatype_of(array.dtype)
        described = (
            output_field(name, datatype, array.shape),
            b"" if datatype == "BYTES" else raw_output_prefix(array.nbytes),
        )
        _keep(self._described, (name, array.dtype, array.shape), described)
        return described


def assignment_prefix(experiment: str, sealed: str) -> bytes:
    """What of the parameters of an assignment precedes its id: the same for ids of the same length."""
    return encode_parameter(4, PARAMETERS[EXPERIMENT], experiment) + encode_parameter(
        4, PARAMETERS[ASSIGNMENT_ID], sealed
    ).removesuffix(sealed.encode())


def _keep(kept: dict[Any, Any], key: object, value: object) -> None:
    if len(kept) >= _MOST_KEPT:
        kept.clear()
    kept[key] = value
