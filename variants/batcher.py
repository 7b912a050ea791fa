"""One dispatcher a process: it chooses, over all variants, which requests run next on a few threads.

The order is priority, then the earliest deadline, then arrival. A request starts at the end of the loop's tick when a
thread is free; requests that arrive meanwhile share the next batch, so that batches grow with the load and cost
nothing without it. Work past its deadline is refused without running. All methods belong to the loop's thread; only
`infer` runs elsewhere.
"""

import heapq
import math
import time
from asyncio import AbstractEventLoop, Future, Handle, TimerHandle
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from anabranch.variants.batching import (
    MIRROR,
    URGENT,
    Answer,
    BatchPolicy,
    Done,
    Failure,
    FailureKind,
    Placement,
    Ticket,
    Timing,
    VariantQueue,
)
from anabranch.variants.errors import VariantError, VariantInputError
from anabranch.variants.tensors import Array, Request
from anabranch.variants.worker_threads import Executor, WorkerThreads

Infer: TypeAlias = Callable[[Sequence[Request]], list[dict[str, Array]]]
_NEVER = math.inf
# Weight of the newest batch in the running mean of compute time.
_NEWEST = 0.2


class Loop(Protocol):
    """What the dispatcher needs of an event loop; asyncio's and uvloop's have it."""

    def time(self) -> float:
        """The clock of deadlines, in seconds."""
        ...

    def call_soon(self, callback: Callable[..., Any]) -> Handle:
        """Call at the end of this tick."""
        ...

    def call_soon_threadsafe(self, callback: Callable[..., Any]) -> Handle:
        """Call from another thread."""
        ...

    def call_later(self, delay: float, callback: Callable[..., Any]) -> TimerHandle:
        """Call after some seconds."""
        ...

    def create_future(self) -> Future[Any]:
        """A future of this loop."""
        ...

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Report an error that nobody awaits."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLoad:
    """How busy a variant is.

    Args:
        queued: Requests that wait.
        running: Requests in batches that run now.
        batch_s: Running mean of a batch's compute time, in seconds; 0 before the first.
    """

    queued: int
    running: int
    batch_s: float


class _Lane:
    """One variant's queue and what runs of it."""

    __slots__ = ("batch_s", "drained", "infer", "placement", "queue", "running")

    def __init__(self, infer: Infer, policy: BatchPolicy, placement: Placement) -> None:
        self.infer = infer
        self.placement = placement
        self.queue = VariantQueue(policy)
        self.running = 0
        self.batch_s = 0.0
        self.drained: Future[None] | None = None


@dataclass(slots=True)
class _Batch:
    """Tickets that run together; filled in by the thread that runs them."""

    lane: _Lane
    tickets: list[Ticket]
    rows: int
    priority: int
    started_s: float
    results: list[Answer | Failure]


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
        executor: Executor | None = None,
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
        self._lanes: dict[str, _Lane] = {}
        self._sequence = 0
        self._finished: deque[_Batch] = deque()
        self._wake_pending = False
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
        self._lanes[name] = _Lane(infer, policy or BatchPolicy(), placement)

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
        return QueueLoad(queued=lane.queue.requests, running=lane.running, batch_s=lane.batch_s)

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
            lambda ticket: self._cancelled(lane, ticket),
        )
        dropped = lane.queue.push(ticket)
        if dropped is not None:
            self._fail_soon(dropped, FailureKind.SHED, f"made room for priority {priority} in the full queue")
        if deadline is not None:
            heapq.heappush(self._expiries, (deadline, ticket.sequence, ticket))
        self._dispatch_soon()
        return ticket

    def _dispatch_soon(self) -> None:
        """At the end of this tick, so that requests that arrive together run together."""
        if not self._dispatch_pending:
            self._dispatch_pending = True
            self._loop.call_soon(self._dispatch)

    def _lane(self, name: str) -> _Lane:
        lane = self._lanes.get(name)
        if lane is None:
            raise VariantError(f"variant {name!r} is not served, must be one of {sorted(self._lanes)}")
        if lane.drained is not None:
            raise VariantError(f"variant {name!r} is being removed: send to another one")
        return lane

    def _cancelled(self, lane: _Lane, ticket: Ticket) -> None:
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
            batch, late = lane.queue.take(self._loop.time())
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

    def _choose(self) -> tuple[_Lane | None, float]:
        """The lane whose head is the most urgent of the ripe ones, and when the next unripe one ripens."""
        best: _Lane | None = None
        best_key = (0, 0.0, 0)
        next_ripe = _NEVER
        for lane in self._lanes.values():
            if not lane.queue.requests or (not self._free and lane.placement is Placement.THREAD):
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

    def _start(self, lane: _Lane, tickets: list[Ticket]) -> None:
        rows = sum(ticket.rows for ticket in tickets)
        priority = tickets[0].priority
        batch = _Batch(lane, tickets, rows, priority, self._clock(), [])
        self._free -= 1
        lane.running += len(tickets)
        if priority >= MIRROR:
            self._mirrors_running += 1
        self._executor.start(lambda: self._run(batch))

    def _run_here(self, lane: _Lane, tickets: list[Ticket]) -> None:
        """On the loop's own thread."""
        batch = _Batch(
            lane, tickets, sum(ticket.rows for ticket in tickets), tickets[0].priority, self._clock(), []
        )
        self._compute(batch)
        self._hand_out(batch)

    def _run(self, batch: _Batch) -> None:
        """On a worker thread."""
        self._compute(batch)
        self._finished.append(batch)
        if not self._wake_pending:
            self._wake_pending = True
            self._loop.call_soon_threadsafe(self._collect)

    def _compute(self, batch: _Batch) -> None:
        """Run the batch, and each request alone when that fails."""
        infer = batch.lane.infer
        requests = [ticket.inputs or {} for ticket in batch.tickets]
        started = self._clock()
        try:
            outputs = infer(requests)
            if len(outputs) != len(requests):
                raise VariantError(f"the variant gave {len(outputs)} answers to {len(requests)} requests")
        except Exception as error:  # noqa: BLE001  # whatever a variant raises is charged to it, not to the process
            batch.results = self._run_alone(batch, error, self._clock() - started)
        else:
            compute_s = self._clock() - started
            batch.results = [
                Answer(output, Timing(started - ticket.submitted_s, compute_s, batch.rows))
                for ticket, output in zip(batch.tickets, outputs, strict=True)
            ]

    def _run_alone(self, batch: _Batch, error: Exception, compute_s: float) -> list[Answer | Failure]:
        first = batch.tickets[0]
        if len(batch.tickets) == 1:
            timing = _timing(first, batch.started_s, compute_s, batch.rows)
            return [_failure(error, timing)]
        results: list[Answer | Failure] = []
        for ticket in batch.tickets:
            started = self._clock()
            try:
                outputs = batch.lane.infer([ticket.inputs or {}])
                if len(outputs) != 1:
                    raise VariantError(f"the variant gave {len(outputs)} answers to 1 request")
            except Exception as own:  # noqa: BLE001  # as above
                timing = _timing(ticket, started, self._clock() - started, ticket.rows)
                results.append(_failure(own, timing))
            else:
                timing = _timing(ticket, started, self._clock() - started, ticket.rows)
                results.append(Answer(outputs[0], timing))
        return results

    def _collect(self) -> None:
        """On the loop: free the threads of finished batches, start what waits, then hand the answers out."""
        # Cleared before the queue is read: a batch that finishes after the last read wakes the loop again.
        self._wake_pending = False
        finished: list[_Batch] = []
        while self._finished:
            batch = self._finished.popleft()
            finished.append(batch)
            lane = batch.lane
            self._free += 1
            lane.running -= len(batch.tickets)
            if batch.priority >= MIRROR:
                self._mirrors_running -= 1
        self._dispatch()
        for batch in finished:
            self._hand_out(batch)

    def _hand_out(self, batch: _Batch) -> None:
        lane = batch.lane
        compute_s = batch.results[0].timing.compute_s
        lane.batch_s += (compute_s - lane.batch_s) * (_NEWEST if lane.batch_s else 1.0)
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
        timing = _timing(ticket, self._clock(), 0.0, 0)
        self._deliver(ticket, Failure(kind=kind, message=message, timing=timing))

    def _fail_soon(self, ticket: Ticket, kind: FailureKind, message: str) -> None:
        self._loop.call_soon(lambda: self._fail(ticket, kind, message))

    def _settle(self, lane: _Lane) -> None:
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
                done = ticket.done
                ticket.cancel()
                ticket.done = done
                self._fail(ticket, FailureKind.DEADLINE, "the deadline passed in the queue")
        self._dispatch()


def _timing(ticket: Ticket, started: float, compute_s: float, rows: int) -> Timing:
    return Timing(started - ticket.submitted_s, compute_s, rows)


def _failure(error: Exception, timing: Timing) -> Failure:
    kind = FailureKind.INPUT if isinstance(error, VariantInputError) else FailureKind.ERROR
    return Failure(kind=kind, message=f"{type(error).__name__}: {error}", timing=timing, error=error)
