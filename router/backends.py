"""The seam between the request path and what runs a variant: this process's dispatcher, or a server elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from anabranch.router.queries import Query
from anabranch.variants.batcher import Dispatcher
from anabranch.variants.batching import Failure, Timing
from anabranch.variants.tensors import Array


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


class Submitted(Protocol):
    """A request that a backend has taken."""

    def cancel(self) -> object:
        """Forget it: `done` is not called any more."""


class Backend(Protocol):
    """Runs one variant."""

    def submit(self, query: Query, *, priority: int, deadline: float | None, done: Done) -> Submitted:
        """Take a request.

        Args:
            query: The request.
            priority: 1 is the most urgent level; `MIRROR` and above is work that nobody waits for.
            deadline: When the answer is worth nothing any more, on the event loop's clock; None for never.
            done: Called once, later and on the loop's thread, with the answer or the failure.

        Raises:
            QueueFull: As many requests wait or run as may.
            VariantError: The variant takes no work now.
        """


Backends = Mapping[tuple[str, str], Backend]
"""By model and variant."""


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

    def submit(self, query: Query, *, priority: int, deadline: float | None, done: Done) -> Submitted:
        """Queue a request."""
        return self._dispatcher.submit(
            self._name, query.inputs, query.rows, priority=priority, deadline=deadline, done=done
        )
