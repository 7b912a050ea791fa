"""The express path: requests like earlier ones are assigned, sent on, answered and recorded by the compiled module.

The first request of a kind goes through `Inference`, which asks this to learn from it: what such requests look like, and what
holds for all of them until the routes change. `native/express.c` does the rest; where the variant runs in this process, all
but the run. Whatever is unusual about a request on that path, it is handed over: it becomes a `Flight` like any other, with
all that was decided for it.

What is not learnt is answered as ever: variants that generate, requests that choose a variant, a priority or a timeout by
parameter, binary metadata, experiments whose feedback may name the class that a remote variant answered.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from functools import partial
from typing import Any, Final

from anabranch.bandit.snapshot import Route
from anabranch.proto.native import native
from anabranch.proto.outline import split
from anabranch.router.assignment_id import AssignmentIds
from anabranch.router.backends import Done, LocalBackend, Submitted
from anabranch.router.classes import LEVEL
from anabranch.router.express_patterns import Arm, Known, arms_of, fields_of, told_apart
from anabranch.router.express_runs import LocalRun
from anabranch.router.flight import Flight
from anabranch.router.infer import Inference
from anabranch.router.queries import Plan, Query, views
from anabranch.router.recorder import Recorder
from anabranch.router.replies import EXPERIMENT, INVOKED_VARIANT, Replies, assignment_prefix
from anabranch.store.records import Flag
from anabranch.variants.errors import VariantError, VariantInputError
from anabranch.variants.remote import RemoteVariant
from anabranch.wire.express import see_to
from anabranch.wire.grpc_framing import Headers, encode_metadata, parse_timeout
from anabranch.wire.ngh2_calls import NativeCall
from anabranch.wire.ngh2_connection import GrpcConnection
from anabranch.wire.seam import Call, WireStats

HELD_S: Final = 0.100
"""A request that has no answer after this long goes on in Python, whose timers know deadlines and patience."""
LEAST_TIME_S: Final = 0.250
"""A candidate that may take no longer than this is Python's from the start; native/express.c says the same of deadlines."""
CHECKED_S: Final = 1.0
"""Who calls is looked at again after this long, and when tokens or identities change; a full table is emptied as often."""
_LOOK_S: Final = 0.020
_NUMBERS: Final = 1 << 16
_MOST_TRIES: Final = 16
_MOST_PLANS: Final = 1024
_log = logging.getLogger(__name__)


class ExpressPath:
    """The path of one worker.

    Args:
        inference: Answers whatever the path does not.
        recorder: Numbers and records.
        ids: Has the key that assignment ids are signed with.
        stats: Of the wire; counts calls.
        is_guarded: Callers have to prove who they are.

    Attributes:
        table: What requests are looked up in.
        lessons: Of a plan that holds this there is nothing more to learn.
        taken: Requests that took the path, as far as they are settled.
        handed_over: Of them, those that came back.
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
        self.taken = self.handed_over = 0
        self._inference = inference
        self._recorder = recorder
        self._ids = ids
        self._stats = stats
        self._loop = loop
        self._is_guarded = is_guarded
        self._checked_until = 0.0
        self._replies = Replies()
        self._tried: Counter[Plan] = Counter()
        self._kinds: set[object] = set()
        self._is_full = False
        self._renumber()

    # From the routes.

    def forget(self) -> None:
        """Unlearn everything: the routes are others now, or who may call."""
        self.table.forget()
        self._tried.clear()
        self._kinds.clear()
        self._is_full = False
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
        self.taken += taken
        self._stats.calls += taken
        if answered:
            self._inference.counts["answered"] += answered
        if records:
            self._recorder.record_bodies(records)
        for observe, latencies_s in observed:
            observe(latencies_s)
        # Kinds that came once must not keep out those that come now.
        if (self._is_guarded or self._is_full) and self._loop.time() > self._checked_until:
            self.forget()
            self._checked_until = self._loop.time() + CHECKED_S
        if table.sequence_end - table.sequence < _NUMBERS // 2:
            self._renumber()

    def _renumber(self) -> None:
        self.table.sequence, self.table.sequence_end = self._recorder.reserve(_NUMBERS)

    # From the request path.

    def learn(self, call: Call, query: Query, route: Route) -> None:
        """See what requests like this one have in common."""
        if self._loop.time() > self.table.fresh_until:
            # Without news the baseline answers: that ends with the next news, of which nobody is told.
            return
        plan = query.plan
        if self._is_full or self._tried[plan] >= _MOST_TRIES or not self._is_learnable(plan, route):
            plan.lessons = self.lessons
            return
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
        plan = query.plan
        fields = fields_of(call.headers, route, is_guarded=self._is_guarded)
        description, _, raw = split(query.message)
        sizes = tuple(end - start for start, end in raw)
        # Whom a certificate names may be somebody else on another connection.
        identity = (call.peer_identity or "").encode() if self._is_guarded else None
        kind = fields and (description, sizes, told_apart(fields), identity)
        if kind in self._kinds:
            # First requests that come together teach the same.
            return
        if len(self._tried) >= _MOST_PLANS:
            self._tried.clear()
        self._tried[plan] += 1
        arms = arms_of(self._inference.backends, route)
        if fields is None or arms is None:
            return
        variant = plan.model.variant(route.baseline)
        known = Known(
            plan=plan,
            route=route,
            rows=query.rows,
            targets=tuple(arm.target for arm in arms),
            checked=variant if variant.reads_contents else None,
            names_classes=bool(route.experiment_id and route.feedback),
        )
        # A remote answer would have to be decoded for its class.
        if known.names_classes and any(isinstance(target, RemoteVariant) for target in known.targets):
            return
        is_added = self.table.add(
            self._compiled.Pattern(
                hand_over=partial(self._take_over, known),
                description=description,
                sizes=sizes,
                fields=fields,
                arms=tuple(self._arm(known, arm) for arm in arms),
                draw=self._inference.draw,
                observe=partial(self._inference.hedge.observe_all, route.model, route.baseline),
                lane=self._recorder.lane,
                key=self._ids.key,
                rows=known.rows,
                level=LEVEL,
                valid_until=self._loop.time() + CHECKED_S if self._is_guarded else math.inf,
                identity=identity,
                **_decided(route),
            )
        )
        if is_added:
            self._kinds.add(kind)
        else:
            self._is_full = True
            self._checked_until = self._loop.time() + CHECKED_S

    def _arm(self, known: Known, arm: Arm) -> tuple[Any, ...]:
        """An arm as the compiled module takes it."""
        target: Any = self._nowhere
        if isinstance(arm.target, LocalBackend):
            target = partial(self._submit, known, arm.target)
        elif arm.target is not None:
            target = arm.target.upstream
        return (
            target,
            tuple(arm.fixed),
            arm.rename,
            encode_metadata([(INVOKED_VARIANT, arm.variant)])[0],
            self._replies.head(known.plan, arm.variant),
            self._inference.meters[known.route.model][arm.variant].note_row,
            arm.weight,
        )

    # From the compiled module.

    def _wake(self) -> None:
        self._loop.call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        """Take over what has waited for long."""
        table = self.table
        for _, take_over, told in table.overdue(self._loop.time() - HELD_S):
            see_to(take_over, told)
        table.is_watched = table.crossings > 0
        if table.is_watched:
            self._wake()

    def _submit(
        self,
        known: Known,
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
        if run.is_left:
            # Its client took it back in the read that it came in: what takes it over begins it, to be cancelled.
            return
        inputs = views(known.plan, message, raw)
        held = LocalRun(self._replies, known, run)
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

    def _begun(self, known: Known, run: Any) -> Flight:
        """A request that was assigned, and runs nowhere yet."""
        _, _, (*told, _holder, _back, _sent_as, _extra) = run.leave()
        return self._flight(known, *told)

    def _begin(self, known: Known, flight: Flight) -> None:
        """Begin a request that was assigned, as `Inference` would have."""
        try:
            if known.checked is not None:
                known.checked.check_contents(flight.query.inputs)
        except VariantInputError as error:
            flight.refuse(str(error))
        else:
            flight.start()

    def _take_over(self, known: Known, *told: Any) -> None:
        """Go on with a request that runs, or is about to."""
        *decided, held, back, sent_as, extra = told
        flight = self._flight(known, *decided)
        if held is not None:
            flight.take_over(held.hand_over, flight.arrived)
            return
        if back is None:
            self._begin(known, flight)
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

        flight.take_over(sent, flight.arrived)

    def _flight(
        self,
        known: Known,
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
        self.handed_over += 1
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


def _decided(route: Route) -> dict[str, Any]:
    """What of a pattern the route decides."""
    has_experiment = route.experiment_id != 0
    sticky = Flag.NONE if route.unit_metadata is None else Flag.STICKY
    return {
        "experiment": route.experiment_id,
        "epoch": route.epoch,
        "salt": route.salt.encode(),
        "ends": route.layout.ends if has_experiment else (1.0,),
        "owners": route.layout.owners if has_experiment else (0,),
        "flags": int(Flag.EVIDENCE | sticky) if has_experiment else 0,
        "sampled": int(Flag.SAMPLED),
        "mirrored": 0.0 if route.mirror is None else route.mirror.fraction,
        "prefix": assignment_prefix(route.experiment, "-" * AssignmentIds.LETTERS) if has_experiment else b"",
        "experiment_field": encode_metadata([(EXPERIMENT, route.experiment)])[0] if has_experiment else (),
    }
