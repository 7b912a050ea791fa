"""The request path: read, check, assign, run, answer, record. Callback style; no request waits for anything else.

Whatever goes wrong with the experiment, the client gets the baseline's answer: a candidate that fails is charged
with the failure, and the request goes to the baseline within its deadline.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from anabranch.bandit.assignment import assign, unit_point
from anabranch.bandit.snapshot import Route
from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import TensorError, decode_inputs, encode_outputs
from anabranch.router.assignment_id import Assignment, AssignmentIds
from anabranch.router.compare import top1
from anabranch.router.mirror import Mirror, Original
from anabranch.router.models import Models, ServedModel, UnknownModel
from anabranch.router.recorder import Recorder
from anabranch.router.routes import Routes
from anabranch.store.records import Flag, Routed
from anabranch.variants.batcher import Dispatcher
from anabranch.variants.batching import MIRROR, URGENT, Answer, Failure, FailureKind, QueueFull, Ticket
from anabranch.variants.errors import VariantError, VariantInputError
from anabranch.variants.tensors import Array, TensorSpec
from anabranch.wire.seam import Call, Status

TARGET_VARIANT = "x-target-variant"
INVOKED_VARIANT = "x-invoked-variant"
ASSIGNMENT_ID = "x-assignment-id"
EXPERIMENT = "x-experiment"
_NO_UNIT = bytes(16)
_log = logging.getLogger(__name__)


class BadRequest(ValueError):
    """The request cannot be honoured as sent."""


@dataclass(slots=True)
class Request:
    """One request on its way.

    Attributes:
        arm: Number of the assigned arm.
        variant: Name of the variant that is running it now.
        failure: Status of the assigned candidate, once it has failed.
    """

    call: Call
    model: ServedModel
    message: pb.ModelInferRequest
    inputs: Mapping[str, Array]
    rows: int
    route: Route
    arm: int
    propensity: float
    flags: Flag
    unit: bytes
    variant: str
    priority: int
    deadline: float | None
    arrived: float
    sequence: int = 0
    failure: Status | None = None
    ticket: Ticket | None = None
    is_over: bool = False


def queue_name(model: str, variant: str) -> str:
    """The dispatcher's name of a variant's queue."""
    return f"{model}/{variant}"


class Inference:
    """Answers `ModelInfer` in one worker.

    Attributes:
        counts: Requests by what became of them.
    """

    def __init__(
        self,
        *,
        models: Models,
        routes: Routes,
        dispatcher: Dispatcher,
        recorder: Recorder,
        mirror: Mirror,
        ids: AssignmentIds,
        loop_time: Callable[[], float],
        wall_clock: Callable[[], float],
        stopwatch: Callable[[], float],
        draw: Callable[[], float],
    ) -> None:
        self._models = models
        self._routes = routes
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._mirror = mirror
        self._ids = ids
        self._loop_time = loop_time
        self._wall_clock = wall_clock
        # The event loop's clock stands still within a turn and counts whole milliseconds: it is for deadlines.
        self._stopwatch = stopwatch
        self._draw = draw
        self.counts: Counter[str] = Counter()

    def infer(self, call: Call, message: bytes) -> None:
        """Handle one call."""
        try:
            request = self._admit(call, message)
        except UnknownModel as error:
            call.fail(Status.NOT_FOUND, str(error))
            return
        except (BadRequest, TensorError, VariantInputError) as error:
            call.fail(Status.INVALID_ARGUMENT, str(error))
            return
        call.on_cancel(lambda: self._cancelled(request))
        if not request.is_over:
            self._submit(request)

    def _admit(self, call: Call, message: bytes) -> Request:
        arrived = self._stopwatch()
        try:
            parsed = pb.ModelInferRequest.FromString(message)
        except Exception as error:  # protobuf raises its own DecodeError from C
            raise BadRequest(f"the message is no ModelInferRequest: {error}") from error
        metadata = dict(call.metadata)
        model, chosen = self._models.locate(parsed.model_name, parsed.model_version)
        target = metadata.get(TARGET_VARIANT)
        if isinstance(target, str) and target:
            model.variant(target)
            if chosen not in (None, target):
                raise BadRequest(
                    f"{TARGET_VARIANT} is {target!r}, but the request chooses {chosen!r}: send one of them"
                )
            chosen = target
        route = self._routes.route(model.name)
        inputs = decode_inputs(parsed)
        rows = model.variant(chosen or route.baseline).check_inputs(inputs)
        _check_outputs(parsed, model.variant(chosen or route.baseline).manifest.outputs)
        priority, deadline = _admission(parsed, call.deadline, self._loop_time())
        request = Request(
            call=call,
            model=model,
            message=parsed,
            inputs=inputs,
            rows=rows,
            route=route,
            arm=0,
            propensity=1.0,
            flags=Flag.NONE,
            unit=_NO_UNIT,
            variant=route.baseline,
            priority=priority,
            deadline=deadline,
            arrived=arrived,
        )
        if chosen is not None:
            request.variant, request.flags = chosen, Flag.PINNED
        elif route.experiment_id:
            self._assign(request, metadata)
        return request

    def _assign(self, request: Request, metadata: Mapping[str, str | bytes]) -> None:
        route = request.route
        if not self._recorder.is_able():
            self.counts["unrecordable: baseline"] += 1
            return
        request.sequence = self._recorder.next_sequence()
        request.flags = Flag.EVIDENCE
        if route.unit_metadata is None:
            point = self._draw()
        else:
            unit = metadata.get(route.unit_metadata)
            if not unit:
                # Without a unit nothing can be assigned for good: serve the baseline, outside the split.
                self.counts["no unit: baseline"] += 1
                request.flags = Flag.NONE
                return
            data = unit if isinstance(unit, bytes) else unit.encode()
            point = unit_point(route.salt.encode(), data)
            request.unit = self._ids.digest(data)
            request.flags |= Flag.STICKY
        request.arm, request.propensity = assign(route.layout, point)
        request.variant = route.arms[request.arm]
        if route.mirror is not None and self._draw() < route.mirror.fraction:
            request.flags |= Flag.SAMPLED

    def _submit(self, request: Request) -> None:
        try:
            request.ticket = self._dispatcher.submit(
                queue_name(request.model.name, request.variant),
                request.inputs,
                request.rows,
                priority=request.priority,
                deadline=request.deadline,
                done=lambda result: self._done(request, result),
            )
        except QueueFull as error:
            self._failed(
                request, Status.RESOURCE_EXHAUSTED, f"{request.variant} is busy, try again later: {error}"
            )
        except VariantError as error:
            _log.warning("variant %s cannot take work: %s", request.variant, error)
            self._failed(request, Status.UNAVAILABLE, f"{request.variant} is not served now, try again later")

    def _done(self, request: Request, result: Answer | Failure) -> None:
        if request.is_over:
            return
        if isinstance(result, Answer):
            self._answer(request, result)
            return
        match result.kind:
            case FailureKind.INPUT:
                request.is_over = True
                request.call.fail(Status.INVALID_ARGUMENT, result.message)
            case FailureKind.DEADLINE:
                self._over(
                    request, Status.DEADLINE_EXCEEDED, "the deadline passed before the model could run"
                )
            case FailureKind.SHED:
                self._failed(request, Status.RESOURCE_EXHAUSTED, "the queue is full of more urgent requests")
            case FailureKind.REMOVED:
                self._failed(request, Status.UNAVAILABLE, "the server is shutting down, try again")
            case FailureKind.ERROR:
                _log.warning("variant %s failed: %s", request.variant, result.message)
                self._failed(request, Status.INTERNAL, f"variant {request.variant} failed on this request")

    def _failed(self, request: Request, status: Status, message: str) -> None:
        """A variant failed: a candidate's request goes to the baseline, the failure stays with the candidate."""
        is_candidate = request.arm != 0 and request.variant != request.route.baseline
        if not is_candidate:
            self._over(request, status, message)
            return
        self.counts["masked"] += 1
        request.failure = status
        request.flags |= Flag.MASKED
        request.variant = request.route.baseline
        self._submit(request)

    def _over(self, request: Request, status: Status, message: str) -> None:
        """Nothing answered: tell the client, and charge the assigned arm with an infinite latency."""
        request.is_over = True
        self.counts[f"failed: {status.name}"] += 1
        self._record(request, request.failure or status, math.inf, None)
        request.call.fail(status, message, self._identity(request, -1))

    def _cancelled(self, request: Request) -> None:
        if request.is_over:
            return
        request.is_over = True
        if request.ticket is not None:
            request.ticket.cancel()
        deadline = request.call.deadline
        is_late = deadline is not None and self._loop_time() >= deadline
        status = Status.DEADLINE_EXCEEDED if is_late else Status.CANCELLED
        self.counts[f"failed: {status.name}"] += 1
        self._record(request, request.failure or status, math.inf, None)

    def _answer(self, request: Request, answer: Answer) -> None:
        klass = top1(answer.outputs)
        identity = self._identity(request, klass)
        try:
            message = _response(request, answer, identity)
        except (KeyError, ValueError) as error:
            _log.warning("variant %s breaks its manifest: %r", request.variant, error)
            self._failed(request, Status.INTERNAL, f"variant {request.variant} failed on this request")
            return
        request.is_over = True
        self.counts["answered"] += 1
        latency_ms = 1000.0 * (self._stopwatch() - request.arrived)
        self._record(request, request.failure or Status.OK, latency_ms, answer)
        request.call.reply(message, identity)
        self._copy(request, answer)

    def _copy(self, request: Request, answer: Answer) -> None:
        plan = request.route.mirror
        if plan is None or request.arm != 0 or Flag.SAMPLED not in request.flags:
            return
        noise = self._draw() < plan.noise_floor
        self._mirror.copy(
            Original(
                route=request.route,
                inputs=request.inputs,
                rows=request.rows,
                outputs=answer.outputs,
                sequence=request.sequence,
            ),
            (*plan.arms, 0) if noise else plan.arms,
        )

    def _identity(self, request: Request, klass: int) -> list[tuple[str, str]]:
        """What tells the client which variant answered and how to refer to the answer."""
        found = [(INVOKED_VARIANT, request.variant)]
        if request.sequence:
            assignment = Assignment(
                experiment=request.route.experiment_id,
                epoch=request.route.epoch,
                arm=request.arm,
                flags=request.flags,
                lane=self._recorder.lane,
                sequence=request.sequence,
                top1=klass,
                propensity=request.propensity,
            )
            found += [(ASSIGNMENT_ID, self._ids.seal(assignment)), (EXPERIMENT, request.route.experiment)]
        return found

    def _record(self, request: Request, status: Status, latency_ms: float, answer: Answer | None) -> None:
        if not request.sequence:
            return
        self._recorder.record(
            Routed(
                at_s=self._wall_clock(),
                experiment=request.route.experiment_id,
                epoch=request.route.epoch,
                arm=request.arm,
                flags=request.flags,
                status=status,
                latency_ms=latency_ms,
                queue_ms=1000.0 * answer.timing.queue_s if answer else 0.0,
                compute_ms=1000.0 * answer.timing.compute_s if answer else 0.0,
                batch_rows=answer.timing.batch_rows if answer else 0,
                propensity=request.propensity,
                sequence=request.sequence,
                unit=request.unit,
            )
        )


def _response(request: Request, answer: Answer, identity: Sequence[tuple[str, str]]) -> bytes:
    """The serialized answer.

    Raises:
        KeyError: If the variant left out an output.
        ValueError: If an output is of a type that the protocol lacks.
    """
    response = pb.ModelInferResponse(
        model_name=request.message.model_name, model_version=request.variant, id=request.message.id
    )
    for name, value in identity:
        response.parameters[name.removeprefix("x-").replace("-", "_")].string_param = value
    wanted = [output.name for output in request.message.outputs] or list(answer.outputs)
    encode_outputs(response, {name: answer.outputs[name] for name in wanted})
    return response.SerializeToString()


def _check_outputs(request: pb.ModelInferRequest, known: Sequence[TensorSpec]) -> None:
    """Refuse a requested output that the model does not have."""
    names = [spec.name for spec in known]
    for output in request.outputs:
        if output.name not in names:
            raise BadRequest(f"output {output.name!r} is asked for, the model has {', '.join(names)}")


def _admission(request: pb.ModelInferRequest, deadline: float | None, now: float) -> tuple[int, float | None]:
    """Priority and deadline of a request, from its parameters and the call's deadline.

    Raises:
        BadRequest: If a parameter is out of its range.
    """
    priority = URGENT
    if "priority" in request.parameters:
        priority = _whole(request.parameters["priority"], "priority", 1, MIRROR - 1)
    if "timeout" in request.parameters:
        timeout_us = _whole(request.parameters["timeout"], "timeout", 1, 2**53)
        until = now + timeout_us / 1e6
        deadline = until if deadline is None else min(deadline, until)
    return priority, deadline


def _whole(parameter: pb.InferParameter, name: str, low: int, high: int) -> int:
    kind = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else None
    if value is None or not low <= value <= high:
        shown = getattr(parameter, kind) if kind else "nothing"
        raise BadRequest(f"parameter {name} is {shown!r}, must be a whole number from {low} to {high}")
    return int(value)
