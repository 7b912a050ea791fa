"""One dispatcher a process: it chooses, over all variants, which requests run next on a few threads.

The order is priority, then the earliest deadline, then arrival. A request starts at the end of the loop's tick when a
thread is free; requests that arrive meanwhile share the next batch, so that batches grow with the load and cost
nothing without it. Work past its deadline is refused without running. All methods belong to the loop's thread; only
`infer` runs elsewhere.
"""

import heapq
import math
import time
from asyncio import AbstractEventLoop, TimerHandle
from collections import deque
from collections.abc import Callable

from anabranch.variants.batch_run import Batch, Infer
from anabranch.variants.batching import (
    MIRROR,
    URGENT,
    Answer,
    BatchPolicy,
    Done,
    Failure,
    FailureKind,
    Placement,
    QueueLoad,
    Ticket,
    Timing,
)
from anabranch.variants.errors import VariantError
from anabranch.variants.lane import Lane
from anabranch.variants.tensors import Request
from anabranch.variants.worker_threads import ElasticExecutor, Loop, WorkerThreads

_NEVER = math.inf
# Entries of finished work that are not worth clearing.
_SPARE_EXPIRIES = 64
# Weight of the newest batch in the running mean of compute time.
_NEWEST = 0.2


class Dispatcher:
    """Runs the requests of all variants of a process.

    Args:
        threads: Batches that run at once, at least 1.
        loop: The loop that owns the dispatcher; `done` is called on its thread.
        executor: What runs the batches; threads of its own by default.
        clock: Seconds, for timing and delays; may run on any thread.
    """

    def __init__(
        self,
        threads: int,
        loop: AbstractEventLoop | Loop,
        *,
        executor: ElasticExecutor | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if threads < 1:
            raise VariantError(f"threads is {threads}, must be at least 1")
        self._loop: Loop = loop
        self._clock = clock
        self._executor = executor or WorkerThreads(threads)
        self._free = self._executor.threads
        # Copies leave one thread free, where there are several, for what somebody waits for.
        self._mirror_threads = max(1, self._free - 1)
        self._mirrors_running = 0
        self._lanes: dict[str, Lane] = {}
        self._sequence = 0
        self._finished: deque[tuple[Lane, Batch]] = deque()
        self._wake_pending = False
        self._is_making_room = False
        self._dispatch_pending = False
        self._expiries: list[tuple[float, int, Ticket]] = []
        self._timer: TimerHandle | None = None
        self._timer_at = _NEVER

    def add(
        self,
        name: str,
        infer: Infer,
        policy: BatchPolicy | None = None,
        *,
        placement: Placement = Placement.THREAD,
    ) -> None:
        """Take a variant in.

        Args:
            name: The variant's name; not in use.
            infer: Blocking and thread-safe: one answer a request, in order.
            policy: How its requests share batches.
            placement: Where its batches run.

        Raises:
            VariantError: The name is in use.
        """
        if name in self._lanes:
            raise VariantError(f"variant {name!r} is served already: remove it first")
        self._lanes[name] = Lane(infer, policy or BatchPolicy(), placement, self._cancelled)

    async def remove(self, name: str) -> None:
        """Let a variant go: nothing new is taken, what was taken is answered first.

        Raises:
            VariantError: There is no such variant, or it is being removed.
        """
        lane = self._lane(name)
        lane.drained = self._loop.create_future()
        self._dispatch_soon()
        self._settle(lane)
        try:
            await lane.drained
        finally:
            if self._lanes.get(name) is lane:
                del self._lanes[name]

    async def close(self) -> None:
        """Refuse what waits, let what runs finish, and end the threads."""
        for name in list(self._lanes):
            lane = self._lanes[name]
            for ticket in lane.queue.drain():
                self._fail(ticket, FailureKind.REMOVED, "the dispatcher is closing")
            if lane.drained is None:
                await self.remove(name)
            else:
                self._settle(lane)
                await lane.drained
        if self._timer is not None:
            self._timer.cancel()
        self._executor.close()

    def load(self, name: str) -> QueueLoad:
        """How busy a variant is.

        Raises:
            VariantError: There is no such variant.
        """
        lane = self._lanes.get(name)
        if lane is None:
            raise VariantError(f"variant {name!r} is not served, must be one of {sorted(self._lanes)}")
        return QueueLoad(
            queued=lane.queue.requests,
            running=lane.running,
            batch_s=lane.batch_s,
            batches=lane.done_batches,
            rows=lane.done_rows,
        )

    def overdue(self, name: str) -> None:
        """Somebody was not answered in his time: replace the threads that the variant does not give back.

        A thread inside an engine cannot be stopped. Until it comes back, another one does its work for the other
        variants, and this variant gets no thread at all: what hangs once would hang again.
        """
        lane = self._lanes.get(name)
        if lane is None:
            return
        for batch in lane.overdue(self._clock()):
            batch.is_overdue = True
            lane.lent += 1
            self._free += 1
            self._executor.grow()
            self._dispatch_soon()

    def hangs(self, name: str) -> bool:
        """Whether a variant waits for a thread that does not come back."""
        lane = self._lanes.get(name)
        return lane is not None and lane.lent > 0

    def submit(
        self,
        name: str,
        inputs: Request,
        rows: int,
        *,
        priority: int = URGENT,
        deadline: float | None = None,
        done: Done,
    ) -> Ticket:
        """Queue a request.

        Args:
            name: The variant.
            inputs: Arrays that the variant has checked.
            rows: The request's rows, at least 1.
            priority: 1 is the most urgent level; `MIRROR` and above is work that nobody waits for.
            deadline: When the answer is worth nothing any more, by `loop.time()`; None for never.
            done: Called once on the loop's thread with the answer or the failure; never inside `submit`, and never
                after `cancel`.

        Raises:
            QueueFull: As many requests wait as the policy allows, and none of them is less urgent.
            VariantError: There is no such variant, or it is being removed.
        """
        lane = self._lanes.get(name)
        if lane is None or lane.drained is not None:
            lane = self._lane(name)
        self._sequence += 1
        ticket = Ticket(
            inputs,
            rows,
            priority,
            _NEVER if deadline is None else deadline,
            done,
            self._sequence,
            self._clock(),
            lane.cancelled,
        )
        if priority < MIRROR and lane.placement is Placement.LOOP and lane.queue.is_full:
            self._make_room(lane)
        dropped = lane.queue.push(ticket)
        if dropped is not None:
            self._fail_soon(dropped, FailureKind.SHED, f"made room for priority {priority} in the full queue")
        if deadline is not None:
            heapq.heappush(self._expiries, (deadline, ticket.sequence, ticket))
        if not self._dispatch_pending:
            self._dispatch_soon()
        return ticket

    def _make_room(self, lane: Lane) -> None:
        """Run a batch on the loop's own thread at once.

        A process that had to wait for its core finds more in its sockets than the queue holds, and such a model answers
        sooner than a client could be refused.
        """
        if self._is_making_room:
            # From within a batch's answers: what they submit waits, or is refused.
            return
        self._is_making_room = True
        try:
            batch, late = lane.queue.take(self._loop.time())
            for ticket in late:
                self._fail(ticket, FailureKind.DEADLINE, "the deadline passed in the queue")
            if batch:
                self._run_here(lane, batch)
        finally:
            self._is_making_room = False

    def _dispatch_soon(self) -> None:
        """At the end of this tick, so that requests that arrive together run together."""
        if not self._dispatch_pending:
            self._dispatch_pending = True
            self._loop.call_soon(self._dispatch)

    def _lane(self, name: str) -> Lane:
        lane = self._lanes.get(name)
        if lane is None:
            raise VariantError(f"variant {name!r} is not served, must be one of {sorted(self._lanes)}")
        if lane.drained is not None:
            raise VariantError(f"variant {name!r} is being removed: send to another one")
        return lane

    def _cancelled(self, lane: Lane, ticket: Ticket) -> None:
        lane.queue.discard(ticket)
        self._settle(lane)

    def _dispatch(self) -> None:
        """Start batches while there are threads and ripe work; then set the timer for what has to wait."""
        self._dispatch_pending = False
        ran_here = False
        while True:
            lane, next_ripe = self._choose()
            if lane is None:
                break
            if lane.placement is Placement.LOOP and ran_here:
                # One batch a tick on the loop's own thread: the rest waits until sockets have had their turn.
                self._dispatch_soon()
                break
            batch, late = lane.queue.take(self._loop.time(), self._most_rows(lane))
            for ticket in late:
                self._fail(ticket, FailureKind.DEADLINE, "the deadline passed in the queue")
            if not batch:
                self._settle(lane)
            elif lane.placement is Placement.LOOP:
                ran_here = True
                self._run_here(lane, batch)
            else:
                self._start(lane, batch)
        self._set_timer(next_ripe)

    def _most_rows(self, lane: Lane) -> int | None:
        """On the only thread a copy runs alone, so that a request waits for no more than one of them."""
        head = lane.queue.head()
        only_thread = lane.placement is Placement.THREAD and self._executor.threads == 1
        return 1 if only_thread and head is not None and head.priority >= MIRROR else None

    def _choose(self) -> tuple[Lane | None, float]:
        """The lane whose head is the most urgent of the ripe ones, and when the next unripe one ripens."""
        best: Lane | None = None
        best_key = (0, 0.0, 0)
        next_ripe = _NEVER
        for lane in self._lanes.values():
            if not lane.queue.requests or (
                lane.placement is Placement.THREAD and (not self._free or lane.lent)
            ):
                continue
            head = lane.queue.head()
            if head is None:
                continue
            if (
                head.priority >= MIRROR
                and lane.placement is Placement.THREAD
                and self._mirrors_running >= self._mirror_threads
            ):
                continue
            ripe_at = lane.queue.ripe_at(head)
            if ripe_at > self._clock() and lane.drained is None:
                next_ripe = min(next_ripe, ripe_at)
                continue
            key = (head.priority, head.deadline, head.sequence)
            if best is None or key < best_key:
                best, best_key = lane, key
        return best, next_ripe

    def _start(self, lane: Lane, tickets: list[Ticket]) -> None:
        """On a worker thread."""
        batch = _batch(lane, tickets)
        batch.begun_s = self._clock()
        lane.batches.append(batch)
        self._free -= 1
        lane.running += len(tickets)
        if tickets[0].priority >= MIRROR:
            self._mirrors_running += 1
        self._executor.start(lambda: self._run(lane, batch))

    def _run(self, lane: Lane, batch: Batch) -> None:
        batch.run(self._clock)
        self._finished.append((lane, batch))
        if not self._wake_pending:
            self._wake_pending = True
            self._loop.call_soon_threadsafe(self._collect)

    def _run_here(self, lane: Lane, tickets: list[Ticket]) -> None:
        """On the loop's own thread."""
        batch = _batch(lane, tickets)
        batch.run(self._clock)
        self._hand_out(lane, batch)

    def _collect(self) -> None:
        """On the loop: free the threads of finished batches, start what waits, then hand the answers out."""
        # Cleared before the queue is read: a batch that finishes after the last read wakes the loop again.
        self._wake_pending = False
        finished: list[tuple[Lane, Batch]] = []
        while self._finished:
            lane, batch = self._finished.popleft()
            finished.append((lane, batch))
            # Not by equality, which compares what the batch holds.
            lane.batches = [other for other in lane.batches if other is not batch]
            if batch.is_overdue:
                lane.lent -= 1
                self._executor.shrink()
            else:
                self._free += 1
            lane.running -= len(batch.tickets)
            if batch.tickets[0].priority >= MIRROR:
                self._mirrors_running -= 1
        self._dispatch()
        for lane, batch in finished:
            self._hand_out(lane, batch)

    def _hand_out(self, lane: Lane, batch: Batch) -> None:
        compute_s = batch.results[0].timing.compute_s
        lane.batch_s += (compute_s - lane.batch_s) * (_NEWEST if lane.batch_s else 1.0)
        lane.done_batches += 1
        lane.done_rows += batch.rows
        for ticket, result in zip(batch.tickets, batch.results, strict=True):
            self._deliver(ticket, result)
        self._settle(lane)

    def _deliver(self, ticket: Ticket, result: Answer | Failure) -> None:
        done, ticket.done, ticket.inputs = ticket.done, None, None
        if done is None:
            return
        try:
            done(result)
        except Exception as error:  # noqa: BLE001  # one caller's mistake must not lose its neighbours' answers
            self._loop.call_exception_handler({"message": "a done callback failed", "exception": error})

    def _fail(self, ticket: Ticket, kind: FailureKind, message: str) -> None:
        timing = Timing(self._clock() - ticket.submitted_s, 0.0, 0)
        self._deliver(ticket, Failure(kind=kind, message=message, timing=timing))

    def _fail_soon(self, ticket: Ticket, kind: FailureKind, message: str) -> None:
        self._loop.call_soon(lambda: self._fail(ticket, kind, message))

    def _settle(self, lane: Lane) -> None:
        """Tell whoever removes a lane that nothing is left in it."""
        if (
            lane.drained is not None
            and not lane.running
            and not lane.queue.requests
            and not lane.drained.done()
        ):
            lane.drained.set_result(None)

    def _set_timer(self, next_ripe: float) -> None:
        """One timer, for the next deadline of queued work or the next batch to ripen."""
        # Tickets that have run stay here until their deadline, unless they outnumber those that wait.
        if len(self._expiries) > _SPARE_EXPIRIES + 2 * sum(
            lane.queue.requests for lane in self._lanes.values()
        ):
            self._expiries = [entry for entry in self._expiries if entry[2].queued]
            heapq.heapify(self._expiries)
        while self._expiries and not self._expiries[0][2].queued:
            heapq.heappop(self._expiries)
        now = self._loop.time()
        wait_s = next_ripe - self._clock() if next_ripe != _NEVER else _NEVER
        if self._expiries:
            wait_s = min(wait_s, self._expiries[0][0] - now)
        at = now + max(wait_s, 0.0)
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
            self._timer, self._timer_at = None, _NEVER
        if wait_s != _NEVER:
            self._timer, self._timer_at = self._loop.call_later(max(wait_s, 0.0), self._on_timer), at

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, _NEVER
        now = self._loop.time()
        while self._expiries and (self._expiries[0][0] <= now or not self._expiries[0][2].queued):
            ticket = heapq.heappop(self._expiries)[2]
            if ticket.queued:
                ticket.withdraw()
                self._fail(ticket, FailureKind.DEADLINE, "the deadline passed in the queue")
        self._dispatch()


def _batch(lane: Lane, tickets: list[Ticket]) -> Batch:
    return Batch(infer=lane.infer, tickets=tickets, rows=sum(ticket.rows for ticket in tickets))
