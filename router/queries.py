"""Reads requests: what describes one is read once, and later ones that differ in id and bytes alone are read by it.

The tensors of a request stay where they are: arrays are views of the message's bytes.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.outline import split
from anabranch.proto.scan import ScanError
from anabranch.proto.tensors import DTYPES, decode_inputs
from anabranch.router.models import Models, ServedModel, Variant
from anabranch.router.unheeded import unheeded
from anabranch.variants.batching import MIRROR
from anabranch.variants.tensors import Array
from anabranch.wire.seam import Metadata

_MOST_PLANS: Final = 1024
# A longer description is one of many tensors, or of tensors that are not raw: not worth keeping.
_LONGEST_KEPT: Final = 4096


class BadRequest(ValueError):
    """The request cannot be honoured as sent."""


class Plan:
    """What requests with the same description have in common.

    Args:
        parsed: The description; with the tensors, where they are not raw.
        model: The model that it names.
        chosen: The variant that it chooses, if any.

    Raises:
        BadRequest: A parameter is out of its range.
    """

    __slots__ = (
        "chosen",
        "heads",
        "lessons",
        "model",
        "parsed",
        "priority",
        "raw",
        "rows",
        "timeout_s",
        "wanted",
    )

    def __init__(self, parsed: pb.ModelInferRequest, model: ServedModel, chosen: str | None) -> None:
        self.parsed = parsed
        self.model = model
        self.chosen = chosen
        self.wanted = tuple(output.name for output in parsed.outputs)
        self.priority: int | None = None
        """Level that the request's parameter says."""
        self.timeout_s: float | None = None
        if parsed.parameters:
            self._read_parameters(parsed)
        self.rows: dict[str, int] = {}
        """By variant that has checked the description: the rows of such a request."""
        self.heads: dict[str, bytes] = {}
        """By variant: how its answer to such a request begins."""
        self.lessons: object = None
        """What the express path knew when it had learnt all of such requests that it could."""
        self.raw = [
            (tensor.name, DTYPES.get(tensor.datatype), tuple(tensor.shape), _size_bytes(tensor))
            for tensor in parsed.inputs
        ]
        """Name, numpy type, shape and size of each raw tensor; the size is -1 where it cannot be told."""

    def _read_parameters(self, parsed: pb.ModelInferRequest) -> None:
        parameters = parsed.parameters
        if "priority" in parameters:
            self.priority = _whole(parameters["priority"], "priority", 1, MIRROR - 1)
        if "timeout" in parameters:
            self.timeout_s = _whole(parameters["timeout"], "timeout", 1, 2**53) / 1e6

    def refuse_unheeded(self) -> None:
        """Refuse what an in-process variant would have to ignore.

        Raises:
            BadRequest: There is such a parameter.
        """
        if reason := unheeded(self.parsed):
            raise BadRequest(reason)


class Query:
    """One request's content.

    Args:
        message: The serialized ModelInferRequest.
        plan: What it has in common with others.
        id: The client's own id.
        raw: Begin and end of each raw tensor in the message.
        metadata: What the client sent along.
    """

    __slots__ = ("_inputs", "_raw", "id", "message", "metadata", "plan", "rows")

    def __init__(
        self,
        message: bytes,
        plan: Plan,
        id: bytes,
        raw: list[tuple[int, int]],
        metadata: Metadata,
    ) -> None:
        self.message = message
        self.plan = plan
        self.id = id
        self.rows = 0
        self._raw = raw
        self.metadata = metadata
        self._inputs: dict[str, Array] | None = None

    @property
    def inputs(self) -> dict[str, Array]:
        """The arrays by name: views of the message where alignment allows.

        Raises:
            TensorError: One does not agree with its description.
        """
        if self._inputs is None:
            self._inputs = self._decode()
        return self._inputs

    def check_sizes(self) -> None:
        """Refuse raw tensors of other sizes than their descriptions say.

        Raises:
            TensorError: There are such, or more or fewer than descriptions.
        """
        tensors, raw = self.plan.raw, self._raw
        if len(tensors) == len(raw):
            for (_, _, _, size), (start, end) in zip(tensors, raw, strict=True):
                if size != end - start and size >= 0:
                    break
            else:
                return
        self._inputs = self._decode_slowly()

    def _decode(self) -> dict[str, Array]:
        """Requires `check_sizes`."""
        found = views(self.plan, self.message, self._raw)
        return found if len(found) == len(self.plan.raw) else self._decode_slowly()

    def _decode_slowly(self) -> dict[str, Array]:
        view = memoryview(self.message)
        return decode_inputs(self.plan.parsed, [view[start:end] for start, end in self._raw])


def views(plan: Plan, message: bytes, raw: list[tuple[int, int]]) -> dict[str, Array]:
    """The arrays of a request as they lie in its message, up to the first that does not lie there as an array.

    Args:
        plan: Its description.
        message: Its bytes.
        raw: Begin and end of each raw tensor in them, of the described sizes.
    """
    found: dict[str, Array] = {}
    for (name, dtype, shape, size), (start, _) in zip(plan.raw, raw, strict=False):
        if size <= 0:
            break
        array: Array = np.ndarray(shape, dtype, message, start)
        # A message's fields begin anywhere; runtimes read aligned memory.
        found[name] = array if array.flags.aligned else array.copy()
    return found


class Queries:
    """Reads the requests of one worker.

    Args:
        models: What is served.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        self._plans: dict[bytes, Plan] = {}

    def read(self, message: bytes, metadata: Metadata) -> Query:
        """Read a request as far as that needs no variant.

        Raises:
            BadRequest: The message is no ModelInferRequest, or has a parameter out of its range.
            TensorError: A tensor does not agree with its description.
            UnknownModel: No such model or variant is served.
        """
        try:
            description, request_id, raw = split(message)
        except ScanError as error:
            raise BadRequest(f"the message is no ModelInferRequest: {error}") from error
        plan = self._plans.get(description)
        if plan is None:
            plan = self._plan(description, keep=bool(raw))
        query = Query(message, plan, request_id, raw, metadata)
        query.check_sizes()
        return query

    def _plan(self, description: bytes, *, keep: bool) -> Plan:
        try:
            parsed = pb.ModelInferRequest.FromString(description)
        except Exception as error:  # protobuf raises its own DecodeError from C
            raise BadRequest(f"the message is no ModelInferRequest: {error}") from error
        plan = Plan(parsed, *self._models.locate(parsed.model_name, parsed.model_version))
        if keep and len(description) <= _LONGEST_KEPT:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            self._plans[description] = plan
        return plan


def check(query: Query, name: str, variant: Variant) -> None:
    """Refuse what a variant cannot take, and tell the query its rows.

    Args:
        query: The request.
        name: The variant's name.
        variant: The one that is to answer, or that answers in doubt.

    Raises:
        BadRequest: An output is asked for that there is not, or the variant cannot honour a parameter.
        TensorError: A tensor does not agree with its description.
        VariantInputError: The inputs do not fit the variant.
    """
    plan = query.plan
    rows = plan.rows.get(name)
    if rows is None:
        rows = variant.check_inputs(query.inputs)
        _check_outputs(plan, variant)
        if variant.keeps_no_state:
            plan.refuse_unheeded()
        plan.rows[name] = rows
    elif variant.reads_contents:
        variant.check_contents(query.inputs)
    query.rows = rows


def _check_outputs(plan: Plan, variant: Variant) -> None:
    names = [spec.name for spec in variant.outputs]
    for wanted in plan.wanted:
        if wanted not in names:
            raise BadRequest(f"output {wanted!r} is asked for, the model has {', '.join(names)}")


def _size_bytes(tensor: pb.ModelInferRequest.InferInputTensor) -> int:
    """The size of a raw tensor that is read as it lies; -1 where only its bytes tell, or something is unusual."""
    dtype = DTYPES.get(tensor.datatype)
    if (
        dtype is None
        or tensor.datatype in ("BYTES", "BF16")
        or tensor.parameters
        or tensor.HasField("contents")
    ):
        return -1
    size = dtype.itemsize
    for dimension in tensor.shape:
        if dimension <= 0:
            return -1
        size *= dimension
    return size


def _whole(parameter: pb.InferParameter, name: str, low: int, high: int) -> int:
    kind = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else None
    if value is None or not low <= value <= high:
        shown = getattr(parameter, kind) if kind else "nothing"
        raise BadRequest(f"parameter {name} is {shown!r}, must be a whole number from {low} to {high}")
    return int(value)
