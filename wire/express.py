"""The wire's part of the express path: requests like earlier ones, which the compiled module answers by itself.

Python knows nothing of such a request until it is handed over, which anything unusual does; `anabranch.router.express` has
the rest. Without the compiled module there is no such path, and upstreams only count.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from anabranch.proto.native import native

logger = logging.getLogger(__name__)


class Table(Protocol):
    """What requests are looked up in."""

    def leave(self, engine: object, /) -> Sequence[tuple[Any, ...]]:
        """Take every request of a connection off the path, each as the HANDOVER event tells it."""


def see_to(work: Callable[..., None], told: Sequence[Any]) -> None:
    """Do what the compiled module asks for; what it raises is logged, and harms no other request."""
    try:
        work(*told)
    except Exception:
        logger.exception("a request of the express path was lost")


class Upstream(Protocol):
    """A server that requests are sent on to, and its connections."""

    in_flight: int
    """Requests on their way, on either path."""
    is_calm: bool
    """Nothing is wrong with the server, as far as is known: only then is the express path taken."""

    def open(self, engine: object, most_streams: int, /) -> None:
        """Use a connection from now on, for so many requests at once."""

    def close(self, engine: object, /) -> None:
        """Use a connection no more."""


class PlainUpstream:
    """An upstream without the express path."""

    __slots__ = ("in_flight", "is_calm")

    def __init__(self) -> None:
        self.in_flight = 0
        self.is_calm = False

    def open(self, engine: object, most_streams: int, /) -> None:
        """See `Upstream`."""

    def close(self, engine: object, /) -> None:
        """See `Upstream`."""


def has_express() -> bool:
    """Whether there is such a path here."""
    compiled = native()
    return compiled is not None and hasattr(compiled, "Express")


def new_upstream(most: int) -> Upstream:
    """Make the upstream of a server that gets at most so many requests at once."""
    compiled: Any = native()
    upstream: Upstream = compiled.Upstream(most) if has_express() else PlainUpstream()
    return upstream
