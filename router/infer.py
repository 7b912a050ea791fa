"""The request path: read, check, assign, run, answer, record. Callback style; no request waits for anything else.

Whatever goes wrong with the experiment, the client gets the baseline's answer: a candidate that fails, or takes the
baseline's time too, is charged with it, and the request goes to the baseline within its deadline.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from anabranch.bandit.assignment import assign, unit_point
from anabranch.bandit.snapshot import Route
from anabranch.proto.native import native
from anabranch.proto.tensors import TensorError
from anabranch.router.assignment_id import AssignmentIds
from anabranch.router.backends import Answered, Backends
from anabranch.router.classes import LEVEL_OF, PRIORITY, TARGETS_MS
from anabranch.router.compare import top1
from anabranch.router.complaints import Complaints
from anabranch.router.flight import Flight
from anabranch.router.hedge import Hedge
from anabranch.router.metrics.meter import Meters
from anabranch.router.mirror import Mirror, Original
from anabranch.router.models import Models, UnknownModel
from anabranch.router.queries import BadRequest, Queries, Query, check
from anabranch.router.recorder import Recorder
from anabranch.router.replies import ASSIGNMENT_ID, EXPERIMENT, INVOKED_VARIANT, Replies
from anabranch.router.routes import Routes
from anabranch.store.records import Flag, Routed, routed_body
from anabranch.variants.batching import Answer, Timing
from anabranch.variants.errors import VariantInputError
from anabranch.variants.remote_answer import RemoteAnswer
from anabranch.wire.deadlines import DeadlineWheel
from anabranch.wire.seam import Call, Status

TARGET_VARIANT = "x-target-variant"
_NOTHING = Timing(0.0, 0.0, 0)
# Bound once: an attribute of an enum, and an operation on its members, cost a request what a hash does.
_EVIDENCE, _PINNED, _SAMPLED = Flag.EVIDENCE, Flag.PINNED, Flag.SAMPLED
_STICKY = Flag.EVIDENCE | Flag.STICKY
_OF_SAMPLED = {flags: flags | Flag.SAMPLED for flags in (_EVIDENCE, _STICKY)}


class Learner(Protocol):
    """The express path, as the path that it leaves out sees it."""

    lessons: object
    """Of a plan that holds this there is nothing more to learn."""
    taken: int
    """Requests that took it."""
    handed_over: int
    """Of them, those that came back."""

    def learn(self, call: Call, query: Query, route: Route) -> None:
        """See what requests like this one have in common."""


class Inference:
    """Answers `ModelInfer` in one worker.

    Attributes:
        counts: Requests by what became of them.
        meters: What is told of them to Prometheus.
        express: Learns from requests how to do without this; None: it answers all.
    """

    def __init__(
        self,
        *,
        models: Models,
        routes: Routes,
        backends: Backends,
        recorder: Recorder,
        mirror: Mirror,
        ids: AssignmentIds,
        hedge: Hedge,
        wheel: DeadlineWheel,
        loop_time: Callable[[], float],
        wall_clock: Callable[[], float],
        stopwatch: Callable[[], float],
        draw: Callable[[], float],
        targets_ms: Mapping[str, float] = TARGETS_MS,
    ) -> None:
        self._queries = Queries(models)
        self._replies = Replies()
        self._routes = routes
        self._recorder = recorder
        self._mirror = mirror
        self._ids = ids
        self._wheel = wheel
        self._wall_clock = wall_clock
        self.draw = draw
        compiled = native()
        self._unit_point: Callable[[bytes, bytes], float] = (
            unit_point if compiled is None else compiled.unit_point
        )
        self._complaints = Complaints(loop_time)
        self.backends = backends
        self.hedge = hedge
        # Attributes, for a method of its own would cost a request a call.
        self.loop_time = loop_time
        # The event loop's clock stands still within a turn and counts whole milliseconds: it is for deadlines.
        self.stopwatch = stopwatch
        self.counts: Counter[str] = Counter()
        self.express: Learner | None = None
        self.meters = Meters(models, targets_ms)

    def infer(self, call: Call, message: bytes, parts: Callable[[bytes], None] | None = None) -> None:
        """Handle one call.

        Args:
            call: Gets the answer, or the last part of one that comes in parts.
            message: The serialized ModelInferRequest.
            parts: Takes the other parts, each a serialized ModelInferResponse; None: the answer comes whole.
        """
        try:
            flight = self._admit(call, message)
            flight.parts = parts
        except UnknownModel as error:
            self.counts["refused: NOT_FOUND"] += 1
            call.fail(Status.NOT_FOUND, str(error))
            return
        except (BadRequest, TensorError, VariantInputError) as error:
            self.counts["refused: INVALID_ARGUMENT"] += 1
            call.fail(Status.INVALID_ARGUMENT, str(error))
            return
        call.on_cancel(flight.cancel)
        if not flight.is_over:
            flight.start()

    def _admit(self, call: Call, message: bytes) -> Flight:
        arrived = self.stopwatch()
        sent = call.metadata
        query = self._queries.read(message, sent)
        plan = query.plan
        model, chosen = plan.model, plan.chosen
        route = self._routes.route(model.name)
        metadata = dict(sent)
        target = metadata.get(TARGET_VARIANT)
        if isinstance(target, str) and target:
            model.variant(target)
            if chosen not in (None, target):
                raise BadRequest(
                    f"{TARGET_VARIANT} is {target!r}, but the request chooses {chosen!r}: send one of them"
                )
            chosen = target
        reference = chosen or route.baseline
        check(query, reference, model.variant(reference))
        if self.express is not None and chosen is None and plan.lessons is not self.express.lessons:
            self.express.learn(call, query, route)
        deadline = call.deadline
        if plan.timeout_s is not None:
            until = self.loop_time() + plan.timeout_s
            deadline = until if deadline is None else min(deadline, until)
        flight = Flight(self, call, query, route, reference, deadline, arrived)
        if plan.priority is not None:
            flight.level = plan.priority
        if PRIORITY in metadata:
            flight.level = _level(metadata[PRIORITY], plan.priority)
        if chosen is not None:
            flight.flags = _PINNED
        elif route.experiment_id:
            self._assign(flight, route, metadata)
        return flight

    def _assign(self, flight: Flight, route: Route, metadata: Mapping[str, str | bytes]) -> None:
        if not self._recorder.is_able():
            self.counts["unrecordable: baseline"] += 1
            return
        flight.sequence = self._recorder.next_sequence()
        flags = _EVIDENCE
        if route.unit_metadata is None:
            point = self.draw()
        else:
            unit = metadata.get(route.unit_metadata)
            if not unit:
                # Without a unit nothing can be assigned for good: serve the baseline, outside the split.
                self.counts["no unit: baseline"] += 1
                return
            data = unit if isinstance(unit, bytes) else unit.encode()
            point = self._unit_point(route.salt.encode(), data)
            flight.unit = self._ids.digest(data)
            flags = _STICKY
        flight.arm, flight.propensity = assign(route.layout, point)
        flight.variant = route.arms[flight.arm]
        if route.mirror is not None and self.draw() < route.mirror.fraction:
            flags = _OF_SAMPLED[flags]
        flight.flags = flags

    # From a flight.

    def watch(self, flight: Flight, since: float | None = None) -> int:
        """Have `flight.expire` called when its candidate has used its time.

        Args:
            flight: The request.
            since: When its candidate was asked, on the event loop's clock; None: now.
        """
        if since is None:
            since = self.loop_time()
        left_s = None if flight.deadline is None else flight.deadline - since
        return self._wheel.add(
            flight, since + self.hedge.patience_s(flight.model, flight.route.baseline, left_s)
        )

    def unwatch(self, flight: Flight, tick: int) -> None:
        """Forget a flight that has ended."""
        self._wheel.discard(flight, tick)

    def complain(self, variant: str, what: str) -> None:
        """Log that a variant failed, once an interval."""
        self._complaints.say(f"variant {variant}", what)

    def reply(
        self, flight: Flight, variant: str, answer: Answered
    ) -> tuple[bytes, bytes, list[tuple[str, str]]]:
        """The serialized answer in two parts, of which the second may be empty, and the metadata that goes with it.

        Raises:
            KeyError: The variant left out an output.
            ValueError: An output is of a type that the protocol lacks, or a remote answer cannot be decoded.
        """
        # The class is of use to feedback only; looking for it decodes a remote answer.
        klass = top1(answer.outputs) if flight.sequence and flight.route.feedback else -1
        identity = self.identity(flight, variant, klass)
        if isinstance(answer, Answer):
            return self._replies.local(flight.query, variant, answer, identity), b"", identity
        assert isinstance(answer, RemoteAnswer)
        tail = self._replies.remote_tail(flight.query, variant, answer, identity)
        return answer.message, tail, identity

    def identity(self, flight: Flight, variant: str, klass: int) -> list[tuple[str, str]]:
        """What tells the client which variant answered and how to refer to the answer."""
        if not flight.sequence:
            return [(INVOKED_VARIANT, variant)]
        route = flight.route
        sealed = self._ids.give_out(
            route.experiment_id,
            route.epoch,
            flight.arm,
            flight.flags,
            self._recorder.lane,
            flight.sequence,
            klass,
            flight.propensity,
        )
        return [(INVOKED_VARIANT, variant), (ASSIGNMENT_ID, sealed), (EXPERIMENT, route.experiment)]

    def answered(self, flight: Flight, answer: Answered) -> None:
        """Count an answer that was sent, and copy its request where it was drawn for that."""
        self.counts["answered"] += 1
        plan = flight.route.mirror
        if plan is None or flight.arm != 0 or _SAMPLED not in flight.flags:
            return
        noise = self.draw() < plan.noise_floor
        self._mirror.copy(
            Original(route=flight.route, query=flight.query, answer=answer, sequence=flight.sequence),
            (*plan.arms, 0) if noise else plan.arms,
        )

    def lost(self, flight: Flight, status: Status) -> None:
        """Count and record a request that nobody answered: infinitely slow for the arm it was assigned to."""
        self.counts[f"failed: {status.name}"] += 1
        self.record(flight, flight.failure or status, math.inf, _NOTHING)

    def record(self, flight: Flight, status: Status, latency_ms: float, timing: Timing) -> None:
        """Count a request that has ended, and write it down if it was assigned."""
        self.meters[flight.model][flight.variant].note(flight, status, latency_ms, timing)
        if not flight.sequence:
            return
        route = flight.route
        if timing.first_token_s is not None:
            self._record_generated(flight, status, latency_ms, timing, timing.first_token_s)
            return
        self._recorder.record_body(
            routed_body(
                self._wall_clock(),
                route.experiment_id,
                route.epoch,
                flight.arm,
                flight.flags,
                status,
                latency_ms,
                1000.0 * timing.queue_s,
                1000.0 * timing.compute_s,
                timing.batch_rows,
                flight.propensity,
                flight.sequence,
                flight.unit,
            )
        )

    def _record_generated(
        self, flight: Flight, status: Status, latency_ms: float, timing: Timing, first_token_s: float
    ) -> None:
        self._recorder.record(
            Routed(
                at_s=self._wall_clock(),
                experiment=flight.route.experiment_id,
                epoch=flight.route.epoch,
                arm=flight.arm,
                flags=flight.flags,
                status=status,
                latency_ms=latency_ms,
                queue_ms=1000.0 * timing.queue_s,
                compute_ms=1000.0 * timing.compute_s,
                batch_rows=timing.batch_rows,
                propensity=flight.propensity,
                sequence=flight.sequence,
                unit=flight.unit,
                first_token_ms=1000.0 * first_token_s,
                token_ms=None if timing.token_s is None else 1000.0 * timing.token_s,
            )
        )


def _level(named: str | bytes, said: int | None) -> int:
    """The level of the class that a request names.

    Args:
        named: What its metadata says.
        said: What its parameter says, if anything.

    Raises:
        BadRequest: There is no such class, or the parameter says another level.
    """
    level = LEVEL_OF.get(named) if isinstance(named, str) else None
    if level is None:
        raise BadRequest(f"{PRIORITY} is {named!r}: there are {', '.join(LEVEL_OF)}")
    if said is not None and said != level:
        raise BadRequest(
            f"{PRIORITY} is {named!r}, which is priority {level}, but the parameter priority is {said}: send one of them"
        )
    return level
