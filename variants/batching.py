"""The words of batching: what may share a batch, what comes back, and the queue of one variant.

The queue is plain data: it never reads a clock, starts a thread or calls back.
"""

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from anabranch.variants.errors import VariantError
from anabranch.variants.tensors import Array, Request

# The most urgent level, and the level of copies that nobody waits for.
URGENT = 1
MIRROR = 100


class QueueFull(VariantError):
    """The variant's queue takes no more work of this priority."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPolicy:
    """How a variant's requests share batches.

    Args:
        max_batch_size: Most rows of one batch; a single request may have more.
        preferred_batch_size: Rows worth starting with before the delay is over, ascending.
        max_queue_delay_microseconds: How long a request may wait for company when a thread is free.
        max_queue_size: Most requests that wait; more are refused.
    """

    max_batch_size: int = 16
    preferred_batch_size: tuple[int, ...] = ()
    max_queue_delay_microseconds: int = 0
    max_queue_size: int = 256

    def __post_init__(self) -> None:
        if self.max_batch_size < 1 or self.max_queue_size < 1 or self.max_queue_delay_microseconds < 0:
            raise VariantError(
                f"max_batch_size {self.max_batch_size} and max_queue_size {self.max_queue_size} must be at least 1, "
                f"max_queue_delay_microseconds {self.max_queue_delay_microseconds} at least 0"
            )
        sizes = self.preferred_batch_size
        if list(sizes) != sorted(set(sizes)) or any(not 1 <= size <= self.max_batch_size for size in sizes):
            raise VariantError(
                f"preferred_batch_size {list(sizes)} must ascend within 1..{self.max_batch_size} (max_batch_size)"
            )


class FailureKind(StrEnum):
    """Why work was not answered."""

    DEADLINE = "deadline"
    SHED = "shed"
    REMOVED = "removed"
    INPUT = "input"
    ERROR = "error"


class Placement(StrEnum):
    """Where a variant's batches run.

    `thread` leaves the loop free; the hand-over costs about 60 µs. `loop` runs on the loop's own thread: for models
    whose batches take less time than that.
    """

    THREAD = "thread"
    LOOP = "loop"


# Named tuples, for one of each is made a request: a frozen dataclass takes four times as long to make.
class Timing(NamedTuple):
    """Where a request's time went.

    Args:
        queue_s: From `submit` to the start of its batch, in seconds.
        compute_s: The batch's run, in seconds; 0 for work that never ran.
        batch_rows: Rows of the batch that it ran in; 0 for work that never ran.
        first_token_s: From `submit` to the first token of a generated answer, in seconds; None where there is none.
        token_s: Mean time of every further token, in seconds; None where there is none.
    """

    queue_s: float
    compute_s: float
    batch_rows: int
    first_token_s: float | None = None
    token_s: float | None = None


class Answer(NamedTuple):
    """A request's outputs by name, and where its time went."""

    outputs: dict[str, Array]
    timing: Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a request has no outputs.

    Args:
        kind: DEADLINE, SHED and REMOVED never ran; INPUT is the client's mistake, ERROR the variant's.
        message: For logs; an ERROR's text is not for clients.
        timing: Where its time went.
        error: What was raised, where something was.
        status: The gRPC status that a remote variant's server gave, which is for clients, as its message is.
    """

    kind: FailureKind
    message: str
    timing: Timing
    error: Exception | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLoad:
    """How busy a variant is.

    Args:
        queued: Requests that wait.
        running: Requests in batches that run now.
        batch_s: Running mean of a batch's compute time, in seconds; 0 before the first.
        batches: Batches that have run, copies included.
        rows: Rows in them.
    """

    queued: int
    running: int
    batch_s: float
    batches: int
    rows: int


Done: TypeAlias = Callable[[Answer | Failure], None]


class Ticket:
    """One submitted request. Only its dispatcher changes it."""

    __slots__ = (
        "_cancel",
        "deadline",
        "done",
        "inputs",
        "priority",
        "queued",
        "rows",
        "sequence",
        "submitted_s",
    )

    def __init__(
        self,
        inputs: Request,
        rows: int,
        priority: int,
        deadline: float,
        done: Done,
        sequence: int,
        submitted_s: float,
        cancel: Callable[["Ticket"], None],
    ) -> None:
        self.inputs: Request | None = inputs
        self.rows = rows
        self.priority = priority
        self.deadline = deadline
        self.done: Done | None = done
        self.sequence = sequence
        self.submitted_s = submitted_s
        self.queued = True
        self._cancel = cancel

    def cancel(self) -> bool:
        """Forget the request: `done` will not be called. Call on the loop's thread.

        Returns:
            Whether it was still queued; work that runs already runs to its end, unheard.
        """
        was_queued = self.queued
        self.done = None
        if was_queued:
            self.withdraw()
        return was_queued

    def withdraw(self) -> None:
        """Leave the queue; for its dispatcher, which then calls `done` itself."""
        self._cancel(self)


class VariantQueue:
    """Waiting tickets of one variant: by priority, then earliest deadline, then arrival.

    Cancelled tickets stay in their heap, empty, until they reach its top or outnumber the living.
    """

    def __init__(self, policy: BatchPolicy) -> None:
        self.policy = policy
        self._most = policy.max_queue_size
        self.requests = 0
        self._levels: dict[int, list[tuple[float, int, Ticket]]] = {}
        self._rows: dict[int, int] = {}
        self._dead = 0

    @property
    def is_full(self) -> bool:
        """A further ticket is refused, or drops a less urgent one."""
        return self.requests >= self._most

    def push(self, ticket: Ticket) -> Ticket | None:
        """Add a ticket; when the queue is full, less urgent work makes room.

        Returns:
            The ticket that was dropped for it, if any.

        Raises:
            QueueFull: Everything that waits is as urgent as this.
        """
        dropped: Ticket | None = None
        if self.requests >= self._most:  # as `is_full` says, without its call
            dropped = self._least_urgent()
            if dropped is None or dropped.priority <= ticket.priority:
                raise QueueFull(
                    f"{self.requests} requests wait, max_queue_size is {self.policy.max_queue_size}: "
                    "send less, or raise it"
                )
            self.discard(dropped)
        priority = ticket.priority
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = []
            self._rows[priority] = 0
        heapq.heappush(level, (ticket.deadline, ticket.sequence, ticket))
        self._rows[priority] += ticket.rows
        self.requests += 1
        return dropped

    def discard(self, ticket: Ticket) -> None:
        """Take a waiting ticket out of account."""
        ticket.queued = False
        ticket.inputs = None
        self.requests -= 1
        self._rows[ticket.priority] -= ticket.rows
        self._dead += 1
        if self._dead > 16 and self._dead > self.requests:
            self._compact()

    def head(self) -> Ticket | None:
        """The most urgent ticket."""
        for priority in sorted(self._levels):
            level = self._levels[priority]
            while level and not level[0][2].queued:
                heapq.heappop(level)
                self._dead -= 1
            if level:
                return level[0][2]
            del self._levels[priority], self._rows[priority]
        return None

    def ripe_at(self, head: Ticket) -> float:
        """When the head's batch should start, on the clock of `submitted_s`; minus infinity for at once."""
        delay_s = self.policy.max_queue_delay_microseconds / 1e6
        if delay_s == 0:
            return -math.inf
        rows = self._rows[head.priority]
        enough = (
            self.policy.preferred_batch_size[0]
            if self.policy.preferred_batch_size
            else self.policy.max_batch_size
        )
        if rows >= enough:
            return -math.inf
        return min(ticket.submitted_s for ticket in self._living(head.priority)) + delay_s

    def take(self, now: float, most: int | None = None) -> tuple[list[Ticket], list[Ticket]]:
        """Take the next batch: tickets of one level only, so that copies never slow what somebody waits for.

        Args:
            now: The time on the deadlines' clock.
            most: Rows that the batch may have, where that is less than the policy allows.

        Returns:
            The batch, and tickets whose deadline has passed.
        """
        head = self.head()
        if head is None:
            return [], []
        level = self._levels[head.priority]
        limit = most or self._limit(self._rows[head.priority])
        batch: list[Ticket] = []
        late: list[Ticket] = []
        rows = 0
        while level:
            ticket = level[0][2]
            if not ticket.queued:
                heapq.heappop(level)
                self._dead -= 1
                continue
            if ticket.deadline <= now:
                late.append(ticket)
            elif batch and rows + ticket.rows > limit:
                break
            else:
                batch.append(ticket)
                rows += ticket.rows
            heapq.heappop(level)
            ticket.queued = False
            self.requests -= 1
            self._rows[head.priority] -= ticket.rows
        return batch, late

    def drain(self) -> list[Ticket]:
        """Take everything out."""
        tickets = [ticket for priority in sorted(self._levels) for ticket in self._living(priority)]
        for ticket in tickets:
            ticket.queued = False
        self._levels.clear()
        self._rows.clear()
        self.requests = self._dead = 0
        return tickets

    def _limit(self, waiting: int) -> int:
        if waiting >= self.policy.max_batch_size:
            return self.policy.max_batch_size
        fitting = [size for size in self.policy.preferred_batch_size if size <= waiting]
        return fitting[-1] if fitting else self.policy.max_batch_size

    def _living(self, priority: int) -> Iterator[Ticket]:
        return (entry[2] for entry in self._levels.get(priority, ()) if entry[2].queued)

    def _least_urgent(self) -> Ticket | None:
        for priority in sorted(self._levels, reverse=True):
            living = list(self._living(priority))
            if living:
                return max(living, key=lambda ticket: (ticket.deadline, ticket.sequence))
        return None

    def _compact(self) -> None:
        for priority, level in self._levels.items():
            self._levels[priority] = [entry for entry in level if entry[2].queued]
            heapq.heapify(self._levels[priority])
        self._dead = 0
