"""What the calls of both wires share: they end once, and a handler learns when they end without it."""

import logging
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from anabranch.wire.grpc_framing import FramingError
from anabranch.wire.seam import INTERNAL_ERROR_MESSAGE, Metadata, Status, WireStats

logger = logging.getLogger(__name__)


class ServedCall(ABC):
    """The life of one call.

    Args:
        method: The full method name.
        stats: Counts the ways in which calls end.
    """

    __slots__ = ("_callbacks", "_stats", "cancelled", "deadline", "ended", "method", "tick")

    def __init__(self, method: str, stats: WireStats) -> None:
        self.method = method
        self.deadline: float | None = None
        self.tick = 0
        """Where the deadline wheel keeps the call."""
        self.cancelled = False
        self.ended = False
        self._callbacks: list[Callable[[], None]] | None = None
        self._stats = stats

    @property
    @abstractmethod
    def metadata(self) -> Metadata:
        """The request's metadata."""

    @abstractmethod
    def fail(self, status: Status, message: str, metadata: Metadata = ()) -> None:
        """End the call with an error."""

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call back when the call is cancelled."""
        if self.cancelled:
            callback()
        elif not self.ended:
            if self._callbacks is None:
                self._callbacks = []
            self._callbacks.append(callback)

    def expire(self) -> None:
        """End the call at its deadline."""
        if not self.ended:
            self._stats.deadline_exceeded += 1
            self.fail_now(Status.DEADLINE_EXCEEDED, "the call's deadline has passed")

    def fail_now(self, status: Status, message: str) -> None:
        """End the call without its handler, which learns it as a cancellation."""
        if self.ended:
            return
        callbacks, self._callbacks = self._callbacks, None
        self.fail(status, message)
        self._cancel(callbacks or ())

    def abandon(self) -> None:
        """End the call: the client is not there any more."""
        if self.ended:
            return
        self.ended = True
        self._stats.cancelled += 1
        callbacks, self._callbacks = self._callbacks, None
        self._cancel(callbacks or ())

    def _cancel(self, callbacks: Iterable[Callable[[], None]]) -> None:
        self.cancelled = True
        for callback in callbacks:
            try:
                callback()
            except Exception:
                self._stats.handler_errors += 1
                logger.exception("a cancellation callback of %s failed", self.method)

    def guard(self, error: Exception) -> None:
        """Answer for a handler that raised."""
        if isinstance(error, FramingError):
            self._stats.refused += 1
            self.fail_now(error.status, error.message)
            return
        self._stats.handler_errors += 1
        request_id = self._request_id()
        logger.error(
            "the handler of %s failed, x-request-id %s",
            self.method,
            request_id,
            exc_info=error,
            extra={"method": self.method, "request_id": request_id},
        )
        self.fail(Status.INTERNAL, INTERNAL_ERROR_MESSAGE, (("x-request-id", request_id),))

    def _request_id(self) -> str:
        """Return the client's own id of a request where it is fit for a log, else a fresh one."""
        try:
            given = [value for name, value in self.metadata if name == "x-request-id"]
        except FramingError:
            given = []
        for value in given:
            if isinstance(value, str) and 0 < len(value) <= 128 and value.isascii() and value.isprintable():
                return value.strip(" ") or uuid.uuid4().hex
        return uuid.uuid4().hex
