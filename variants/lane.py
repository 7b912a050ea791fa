"""One variant's queue in the dispatcher, and what runs of it."""

from asyncio import Future
from collections.abc import Callable
from functools import partial

from anabranch.variants.batch_run import Batch, Infer
from anabranch.variants.batching import BatchPolicy, Placement, Ticket, VariantQueue

OVERDUE_S = 0.1
"""A batch is not overdue before it has run this long, however short its like are."""
_TIMES_THE_MEAN = 5.0


class Lane:
    """One variant.

    Attributes:
        running: Requests in batches that run.
        batches: The batches that run on threads.
        batch_s: Running mean of a batch's compute time, in seconds; 0 before the first.
        done_batches: Batches that have run, copies included.
        done_rows: Rows in them.
        lent: Threads that replace those of its overdue batches.
        cancelled: Takes a waiting ticket out.
        drained: Told when nothing is left, once the variant is being removed.
    """

    __slots__ = (
        "batch_s",
        "batches",
        "cancelled",
        "done_batches",
        "done_rows",
        "drained",
        "infer",
        "lent",
        "placement",
        "queue",
        "running",
    )

    def __init__(
        self,
        infer: Infer,
        policy: BatchPolicy,
        placement: Placement,
        cancelled: Callable[["Lane", Ticket], None],
    ) -> None:
        self.infer = infer
        self.cancelled: Callable[[Ticket], None] = partial(cancelled, self)
        self.placement = placement
        self.queue = VariantQueue(policy)
        self.running = 0
        self.batches: list[Batch] = []
        self.batch_s = 0.0
        self.done_batches = self.done_rows = 0
        self.lent = 0
        self.drained: Future[None] | None = None

    def overdue(self, now: float) -> list[Batch]:
        """The batches that run for too long, and were not said to yet.

        Args:
            now: The time on the clock of the batches.
        """
        limit_s = max(OVERDUE_S, _TIMES_THE_MEAN * self.batch_s)
        return [batch for batch in self.batches if not batch.is_overdue and now - batch.begun_s > limit_s]
