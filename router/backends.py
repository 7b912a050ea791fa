"""The seam between the request path and what runs a variant: this process's dispatcher, or a server elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

from anabranch.router.queries import Query
from anabranch.variants.batcher import Dispatcher
from anabranch.variants.batching import MIRROR, Failure, Timing
from anabranch.variants.remote import RemoteVariant
from anabranch.variants.tensors import Array, Request


class Answered(Protocol):
    """A variant's answer, wherever it ran."""

    @property
    def outputs(self) -> Mapping[str, Array]:
        """Arrays by name, in the order in which the variant gave them; a remote answer is decoded for it.

        Raises:
            ValueError: A remote answer cannot be decoded.
        """

    @property
    def timing(self) -> Timing:
        """Where the time went."""


Done = Callable[[Answered | Failure], None]
Part = Callable[[Answered], None]
"""Takes a part of an answer; `Done` gets the last one."""


class Submitted(Protocol):
    """A request that a backend has taken."""

    def cancel(self) -> object:
        """Forget it: `done` is not called any more."""


class Load(NamedTuple):
    """How busy a variant is, and what it has run, copies included; of a server elsewhere only it knows."""

    queued: int
    running: int
    batches: int = 0
    rows: int = 0


class Backend(Protocol):
    """Runs one variant."""

    def submit(
        self, query: Query, *, priority: int, deadline: float | None, done: Done, part: Part | None = None
    ) -> Submitted:
        """Take a request.

        Args:
            query: The request.
            priority: 1 is the most urgent level; `MIRROR` and above is work that nobody waits for.
            deadline: When the answer is worth nothing any more, on the event loop's clock; None for never.
            done: Called once, later and on the loop's thread, with the answer or the failure.
            part: Called before it, on the loop's thread, with every part but the last of an answer that comes in parts;
                None: the answer comes whole.

        Raises:
            QueueFull: As many requests wait or run as may.
            VariantError: The variant takes no work now.
        """

    def unfit(self) -> str | None:
        """Why a request that somebody else can answer should not go there now; None when it may."""

    def late(self, waited_s: float, /) -> None:
        """A request has used its time, and somebody else is asked too.

        Args:
            waited_s: How long it waited.
        """


Backends = Mapping[tuple[str, str], Backend]
"""By model and variant."""


KEPT_BACK: Final = frozenset({"authorization", "cookie", "host", "user-agent", "x-target-variant"})
"""Metadata that is meant for this server, and not sent to another one."""


def queue_name(model: str, variant: str) -> str:
    """The dispatcher's name of a variant's queue."""
    return f"{model}/{variant}"


class LocalBackend:
    """A variant in this process.

    Args:
        dispatcher: Has the variant's queue.
        name: The queue's name.
    """

    __slots__ = ("_dispatcher", "_name")

    def __init__(self, dispatcher: Dispatcher, name: str) -> None:
        self._dispatcher = dispatcher
        self._name = name

    def submit(
        self,
        query: Query,
        *,
        priority: int,
        deadline: float | None,
        done: Done,
        part: Part | None = None,  # noqa: ARG002  # its answers have one part
    ) -> Submitted:
        """Queue a request."""
        return self._dispatcher.submit(
            self._name, query.inputs, query.rows, priority=priority, deadline=deadline, done=done
        )

    def queue(
        self, inputs: Request, rows: int, *, priority: int, deadline: float | None, done: Done
    ) -> Submitted:
        """Queue arrays that were checked."""
        return self._dispatcher.submit(
            self._name, inputs, rows, priority=priority, deadline=deadline, done=done
        )

    def unfit(self) -> str | None:
        """Why a request that somebody else can answer should not go there now."""
        return "it hangs" if self._dispatcher.hangs(self._name) else None

    def late(self, _waited_s: float, /) -> None:
        """A variant that hangs must not take the others' threads too."""
        self._dispatcher.overdue(self._name)

    def load(self) -> Load:
        """How busy the variant is."""
        load = self._dispatcher.load(self._name)
        return Load(load.queued, load.running, load.batches, load.rows)


class RemoteBackend:
    """A variant on a server elsewhere.

    Args:
        variant: The variant, started.
    """

    __slots__ = ("variant",)

    def __init__(self, variant: RemoteVariant) -> None:
        self.variant = variant

    def submit(
        self,
        query: Query,
        *,
        priority: int,
        deadline: float | None,
        done: Done,
        part: Part | None = None,
    ) -> Submitted:
        """Send a request; the server knows its priority from the request's own parameters."""
        return self.variant.submit(
            query.message,
            query.rows,
            [pair for pair in query.metadata if pair[0] not in KEPT_BACK],
            is_copy=priority >= MIRROR,
            deadline=deadline,
            done=done,
            part=part,
        )

    def unfit(self) -> str | None:
        """Why a request that somebody else can answer should not go there now."""
        return self.variant.unfit()

    def late(self, waited_s: float) -> None:
        """A server that does not answer in time counts as failing."""
        self.variant.late(waited_s)

    def load(self) -> Load:
        """What waits and what runs there, only the server knows."""
        return Load(0, self.variant.in_flight)
