"""The express path: requests like earlier ones are assigned, sent on, answered and recorded by the compiled module.

The first request of a kind goes through `Inference`, which asks this to learn from it: what such requests look like, and what
holds for all of them until the routes change. `native/express.c` does the rest; where the variant runs in this process, all
but the run. Whatever is unusual about a request on that path, it is handed over: it becomes a `Flight` like any other, with
all that was decided for it.

What is not learnt is answered as ever: variants that generate, requests that choose a variant, a priority or a timeout by
parameter, binary metadata, experiments whose feedback may name the class that a remote variant answered, callers known by a
certificate.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any, Final

from anabranch.bandit.snapshot import Route
from anabranch.proto.native import native
from anabranch.proto.outline import split
from anabranch.router.assignment_id import AssignmentIds
from anabranch.router.backends import KEPT_BACK, Answered, Done, LocalBackend, RemoteBackend, Submitted
from anabranch.router.classes import LEVEL, PRIORITY
from anabranch.router.compare import top1
from anabranch.router.flight import Flight
from anabranch.router.infer import TARGET_VARIANT, Inference
from anabranch.router.models import Variant
from anabranch.router.queries import Plan, Query, views
from anabranch.router.recorder import Recorder
from anabranch.router.replies import EXPERIMENT, INVOKED_VARIANT, Replies, assignment_prefix
from anabranch.store.records import Flag
from anabranch.variants.batching import Answer, Failure
from anabranch.variants.errors import VariantError, VariantInputError
from anabranch.variants.remote import RemoteVariant
from anabranch.wire.grpc_framing import Headers, encode_metadata, parse_timeout
from anabranch.wire.ngh2_calls import NativeCall
from anabranch.wire.ngh2_connection import GrpcConnection
from anabranch.wire.seam import Call, WireStats

HELD_S: Final = 0.100
"""A request that has no answer after this long goes on in Python, whose timers know deadlines and patience."""
LEAST_TIME_S: Final = 0.250
"""A candidate that may take no longer than this is Python's from the start; native/express.c says the same of deadlines."""
CHECKED_S: Final = 1.0
"""A caller's token is looked at again after this long, and when tokens change."""
_LOOK_S: Final = 0.020
_NUMBERS: Final = 1 << 16
_MOST_KINDS: Final = 16
_TIMEOUT: Final = b"grpc-timeout"
_AUTHORIZATION: Final = b"authorization"
_RESERVED: Final = frozenset({b"te", b"content-type", b"connection", b"transfer-encoding", b"content-length"})
_OURS: Final = frozenset({TARGET_VARIANT.encode(), PRIORITY.encode()})
_log = logging.getLogger(__name__)
_KEPT_BACK: Final = frozenset(name.encode() for name in KEPT_BACK)


class Kind(IntEnum):
    """What becomes of a field of a request, as native/express.c numbers it."""

    DROPPED = 0
    PASSED = 1
    UNIT = 2
    TIMEOUT = 3
    REQUIRED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What requests of one kind have in common.

    Attributes:
        rows: Of each.
        targets: By arm, what answers; None where nobody is asked.
        checked: The variant that looks into the inputs of each, where one does.
        names_classes: An assignment id tells the class that was answered, as feedback may ask for it.
    """

    plan: Plan
    route: Route
    rows: int
    targets: tuple[RemoteVariant | LocalBackend | None, ...]
    checked: Variant | None
    names_classes: bool


class _LocalRun:
    """A request that runs in this process: on the path until it is handed over, then a flight's.

    Args:
        path: Its worker's path.
        known: What it has in common with others.
        run: The compiled module's side.
    """

    __slots__ = ("_done", "_known", "_path", "_run", "submitted")

    def __init__(self, path: ExpressPath, known: _Known, run: Any) -> None:
        self._path, self._known, self._run = path, known, run
        self._done: Done | None = None
        self.submitted: Submitted | None = None
        run.holder = self

    def hand_over(self, done: Done) -> Submitted:
        """From now on it is a flight that hears of the end."""
        self._done = done
        assert self.submitted is not None
        return self.submitted

    def ended(self, result: Answered | Failure) -> None:
        """From the dispatcher."""
        if self._done is not None:
            self._done(result)
            return
        path, known = self._path, self._known
        if isinstance(result, Answer):
            outputs, timing = result
            klass = top1(outputs) if known.names_classes else -1
            with suppress(KeyError, ValueError):
                written = b"".join(path.replies.outputs(known.plan, result))
                if self._run.answer(written, klass, timing.queue_s, timing.compute_s, timing.batch_rows):
                    return
        # There is something to be looked at.
        _, take_over, told = self._run.leave()
        take_over(*told)
        self._tell(result)

    def _tell(self, result: Answered | Failure) -> None:
        assert self._done is not None, "what takes over asks to hear of the end"
        self._done(result)


class ExpressPath:
    """The path of one worker.

    Args:
        inference: Answers whatever the path does not.
        recorder: Numbers and records.
        ids: Has the key that assignment ids are signed with.
        stats: Of the wire; counts calls.
        is_guarded: Callers have to prove who they are, by a token that is a field of the request.

    Attributes:
        table: What requests are looked up in.
        replies: Writes answers of variants in this process.
        lessons: Of a plan that holds this there is nothing more to learn.
    """

    def __init__(
        self,
        *,
        inference: Inference,
        recorder: Recorder,
        ids: AssignmentIds,
        stats: WireStats,
        loop: asyncio.AbstractEventLoop,
        is_guarded: bool,
    ) -> None:
        compiled = native()
        assert compiled is not None
        self._compiled: Any = compiled
        self.table: Any = compiled.Express(self._wake)
        self._nowhere: Any = compiled.Upstream(0)
        self.lessons: object = object()
        self._inference = inference
        self._recorder = recorder
        self._ids = ids
        self._stats = stats
        self._loop = loop
        self._is_guarded = is_guarded
        self._checked_until = 0.0
        self.replies = Replies()
        self._learnt: Counter[Plan] = Counter()
        self._renumber()

    # From the routes.

    def forget(self) -> None:
        """Unlearn everything: the routes are others now, or who may call."""
        self.table.forget()
        self._learnt.clear()
        self.lessons = object()

    def trust(self, until: float) -> None:
        """What was learnt holds until a time, on the event loop's clock."""
        self.table.fresh_until = until

    # From the wire.

    def commit(self) -> None:
        """Make everything recorded durable; called before the replies of a loop turn leave."""
        self.settle()
        self._recorder.commit()
        self.table.is_able = self._recorder.is_able()

    def settle(self) -> None:
        """Count and record what was done since the last time."""
        table = self.table
        taken, answered, records, observed = table.settle()
        self._stats.calls += taken
        if answered:
            self._inference.counts["answered"] += answered
        if records:
            self._recorder.record_bodies(records)
        for observe, latencies_s in observed:
            observe(latencies_s)
        if self._is_guarded and self._loop.time() > self._checked_until:
            self.forget()
            self._checked_until = self._loop.time() + CHECKED_S
        if table.sequence_end - table.sequence < _NUMBERS // 2:
            self._renumber()

    def _renumber(self) -> None:
        self.table.sequence, self.table.sequence_end = self._recorder.reserve(_NUMBERS)

    # From the request path.

    def learn(self, call: Call, query: Query, route: Route) -> None:
        """See what requests like this one have in common."""
        plan = query.plan
        if self._learnt[plan] >= _MOST_KINDS or not self._is_learnable(plan, route):
            plan.lessons = self.lessons
            return
        self._learnt[plan] += 1
        try:
            self._learn(call, query, route)
        except Exception:  # noqa: BLE001  # whatever is wrong with it, the request itself is answered without
            plan.lessons = self.lessons
            _log.exception("a request of %s was not learnt from", route.model)

    def _is_learnable(self, plan: Plan, route: Route) -> bool:
        if (
            plan.priority is not None
            or plan.timeout_s is not None
            or any(size <= 0 for _, _, _, size in plan.raw)
        ):
            return False
        return not route.experiment_id or self._inference.hedge.candidate_timeout_s > LEAST_TIME_S

    def _learn(self, call: Call, query: Query, route: Route) -> None:
        if not isinstance(call, NativeCall):
            return
        fields = self._fields(call.headers, route)
        arms = self._arms(query.plan, route)
        if fields is None or arms is None:
            return
        variant = query.plan.model.variant(route.baseline)
        known = _Known(
            plan=query.plan,
            route=route,
            rows=query.rows,
            targets=tuple(target for _, target in arms),
            checked=variant if variant.reads_contents else None,
            names_classes=bool(route.experiment_id and route.feedback),
        )
        # A remote answer would have to be decoded for its class.
        if known.names_classes and any(isinstance(target, RemoteVariant) for target in known.targets):
            return
        description, _, raw = split(query.message)
        has_experiment = route.experiment_id != 0
        flags = Flag.NONE
        if has_experiment:
            flags = Flag.EVIDENCE if route.unit_metadata is None else Flag.EVIDENCE | Flag.STICKY
        self.table.add(
            self._compiled.Pattern(
                hand_over=partial(self._take_over, known),
                description=description,
                sizes=tuple(end - start for start, end in raw),
                fields=fields,
                arms=tuple(
                    (
                        partial(self._submit, known, target)
                        if isinstance(target, LocalBackend)
                        else upstream,
                        *arm,
                    )
                    for (upstream, *arm), target in arms
                ),
                ends=route.layout.ends if has_experiment else (1.0,),
                owners=route.layout.owners if has_experiment else (0,),
                draw=self._inference.draw,
                observe=partial(self._inference.hedge.observe_all, route.model, route.baseline),
                experiment=route.experiment_id,
                epoch=route.epoch,
                lane=self._recorder.lane,
                key=self._ids.key,
                salt=route.salt.encode(),
                flags=int(flags),
                sampled=int(Flag.SAMPLED),
                mirrored=0.0 if route.mirror is None else route.mirror.fraction,
                rows=known.rows,
                level=LEVEL,
                prefix=assignment_prefix(route.experiment, "-" * AssignmentIds.LETTERS)
                if has_experiment
                else b"",
                experiment_field=encode_metadata([(EXPERIMENT, route.experiment)])[0]
                if has_experiment
                else (),
                valid_until=self._loop.time() + CHECKED_S if self._is_guarded else float("inf"),
            )
        )

    def _fields(self, headers: Headers, route: Route) -> tuple[tuple[bytes, bytes, int], ...] | None:
        """What becomes of each field; None where there is one that has to be looked at each time."""
        names = [name for name, _ in headers]
        unit = (
            None if route.unit_metadata is None or not route.experiment_id else route.unit_metadata.encode()
        )
        if len(set(names)) < len(names) or not _OURS.isdisjoint(names):
            return None
        if (unit is not None and (unit not in names or unit in _KEPT_BACK)) or (
            self._is_guarded and _AUTHORIZATION not in names
        ):
            return None
        found: list[tuple[bytes, bytes, int]] = []
        for name, value in headers:
            if name == _TIMEOUT:
                kind = Kind.TIMEOUT
            elif name == unit:
                kind = Kind.UNIT
            elif name.startswith((b":", b"grpc-")) or name in _RESERVED:
                kind = Kind.DROPPED
            elif name.endswith(b"-bin"):
                return None
            elif name in _KEPT_BACK:
                kind = Kind.REQUIRED if self._is_guarded and name == _AUTHORIZATION else Kind.DROPPED
            else:
                kind = Kind.PASSED
            found.append((name, value, int(kind)))
        return tuple(found)

    def _arms(
        self, plan: Plan, route: Route
    ) -> list[tuple[tuple[Any, ...], RemoteVariant | LocalBackend | None]] | None:
        """What is sent where for each arm, and what answers; None where an arm that gets requests is of another kind."""
        meters = self._inference.meters[route.model]
        found: list[tuple[tuple[Any, ...], RemoteVariant | LocalBackend | None]] = []
        names = route.arms if route.experiment_id else route.arms[:1]
        weights = route.layout.weights if route.experiment_id else (1.0,)
        for name, weight in zip(names, weights, strict=True):
            backend = self._inference.backends.get((route.model, name))
            target: RemoteVariant | LocalBackend | None = None
            upstream, rename = self._nowhere, b""
            fixed: tuple[tuple[bytes, bytes], ...] = ()
            if isinstance(backend, LocalBackend):
                target = backend
            elif isinstance(backend, RemoteBackend) and (sent := backend.variant.express()) is not None:
                target, upstream = backend.variant, backend.variant.upstream
                fixed, rename = tuple(sent[0]), sent[1]
            elif weight > 0.0:
                return None
            invoked = encode_metadata([(INVOKED_VARIANT, name)])[0]
            head = self.replies.head(plan, name)
            found.append(((upstream, fixed, rename, invoked, head, meters[name].note_row, weight), target))
        return found

    # From the compiled module.

    def _wake(self) -> None:
        self._loop.call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        """Take over what has waited for long."""
        table = self.table
        for _, take_over, told in table.overdue(self._loop.time() - HELD_S):
            take_over(*told)
        table.is_watched = table.crossings > 0
        if table.is_watched:
            self._wake()

    def _submit(
        self,
        known: _Known,
        backend: LocalBackend,
        run: Any,
        message: bytes,
        raw: list[tuple[int, int]],
        deadline: float,
        arm: int,
    ) -> None:
        """Queue a request that was assigned to a variant in this process.

        Args:
            known: What it has in common with others.
            backend: The variant.
            run: The compiled module's side of it.
            message: The serialized ModelInferRequest.
            raw: Begin and end of each raw tensor in it.
            deadline: On the loop's clock; 0 for none.
            arm: The variant's.
        """
        inputs = views(known.plan, message, raw)
        held = _LocalRun(self, known, run)
        try:
            if known.checked is not None:
                known.checked.check_contents(inputs)
            if arm and (reason := backend.unfit()) is not None:
                raise VariantError(reason)
            held.submitted = backend.queue(
                inputs, known.rows, priority=LEVEL, deadline=deadline or None, done=held.ended
            )
        except VariantInputError as error:
            self._begun(known, run).refuse(str(error))
        except VariantError:
            # Asked again it says so again, to a flight, which knows what to do about it.
            self._begun(known, run).start()

    def _begun(self, known: _Known, run: Any) -> Flight:
        """A request that was assigned, and runs nowhere yet."""
        _, _, (*told, _holder, _back, _sent_as, _extra) = run.leave()
        return self._flight(known, *told)

    def _take_over(self, known: _Known, *told: Any) -> None:
        """Go on with a request that runs."""
        *decided, held, back, sent_as, extra = told
        flight = self._flight(known, *decided)
        if held is not None:
            flight.take_over(held.hand_over)
            return
        target = known.targets[flight.arm]
        assert isinstance(target, RemoteVariant)

        def sent(done: Done) -> Submitted:
            return target.take_over(
                flight.query.message,
                known.rows,
                extra,
                back.receiver,
                sent_as,
                since=flight.arrived,
                deadline=flight.deadline,
                done=done,
            )

        flight.take_over(sent)

    def _flight(
        self,
        known: _Known,
        front: Any,
        stream_id: int,
        headers: Headers,
        timeout: bytes | None,
        message: bytes,
        arm: int,
        flags: int,
        sequence: int,
        unit: bytes,
        propensity: float,
        arrived: float,
    ) -> Flight:
        """A request as it would be by now, had it not been on the express path."""
        connection: GrpcConnection = front.receiver
        timeout_s = None if timeout is None else parse_timeout(timeout)
        call = connection.take_over(stream_id, headers, timeout_s, arrived)
        _, request_id, raw = split(message)
        query = Query(message, known.plan, request_id, raw, call.metadata)
        query.rows = known.rows
        variant = known.route.arms[arm]
        flight = Flight(self._inference, call, query, known.route, variant, call.deadline, arrived)
        flight.arm, flight.propensity = arm, propensity
        flight.flags = Flag(flags)
        flight.sequence, flight.unit = sequence, unit
        call.on_cancel(flight.cancel)
        return flight
