"""Those who watch an experiment: one look for all of them together, and a message to each when something changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from anabranch.proto import control_pb2 as pb
from anabranch.router.control.desk import Desk
from anabranch.router.control.errors import Busy
from anabranch.wire.seam import Status, StreamCall

LOOK_S: Final = 1.0
MOST_WATCHES: Final = 256
MOST_OF_ONE: Final = 32
"""One caller leaves room for others."""


class _Watch:
    """One caller's stream."""

    def __init__(
        self, call: StreamCall, caller: str, keeps_going: bool, look: Callable[[], pb.Experiment]
    ) -> None:
        self.call = call
        self.caller = caller
        self.keeps_going = keeps_going
        self.look = look
        self.is_looking = False
        self.shown: tuple[object, ...] | None = None


class Watches:
    """All watches of one control port.

    Args:
        desk: Where looks are taken.
        loop: Gives the time between them.
        fail: Ends a stream with an error.
    """

    def __init__(
        self, desk: Desk, loop: asyncio.AbstractEventLoop, fail: Callable[[StreamCall, Exception], None]
    ) -> None:
        self._desk = desk
        self._loop = loop
        self._fail = fail
        self._watches: set[_Watch] = set()
        self._timer: asyncio.TimerHandle | None = None

    def open(
        self, call: StreamCall, *, caller: str, keeps_going: bool, look: Callable[[], pb.Experiment]
    ) -> None:
        """Begin to watch.

        Args:
            call: Where to send.
            caller: Who asks, by the proven name.
            keeps_going: Whether to go on after the experiment is over.
            look: Reads the experiment, as its caller may see it now; blocks.
        """
        if len(self._watches) >= MOST_WATCHES:
            self._fail(call, Busy(f"{MOST_WATCHES} watches are open, no more are served: close some"))
            return
        if sum(watch.caller == caller for watch in self._watches) >= MOST_OF_ONE:
            self._fail(call, Busy(f"{MOST_OF_ONE} watches of yours are open, no more are served: close some"))
            return
        watch = _Watch(call, caller, keeps_going, look)
        self._watches.add(watch)
        call.on_cancel(lambda: self._watches.discard(watch))
        self._look(watch)
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_S, self._look_at_all)

    def close(self) -> None:
        """End every watch."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        watches, self._watches = self._watches, set()
        for watch in watches:
            watch.call.finish(Status.UNAVAILABLE, "the server is shutting down, try again")

    def _look_at_all(self) -> None:
        self._timer = self._loop.call_later(LOOK_S, self._look_at_all) if self._watches else None
        for watch in list(self._watches):
            # A slow reader is sent the state as it is when it reads on, not every state in between.
            if watch.call.writable and not watch.is_looking:
                self._look(watch)

    def _look(self, watch: _Watch) -> None:
        watch.is_looking = True
        self._desk.run(
            watch.look,
            lambda found: self._seen(watch, found),
            lambda error: self._failed(watch, error),
        )

    def _seen(self, watch: _Watch, found: pb.Experiment) -> None:
        watch.is_looking = False
        if watch not in self._watches:
            return
        seen = (found.state_version, found.spec_version, tuple(command.id for command in found.pending))
        if seen != watch.shown:
            watch.shown = seen
            watch.call.send(found.SerializeToString())
        if found.is_over and not found.pending and not watch.keeps_going:
            self._watches.discard(watch)
            watch.call.finish()

    def _failed(self, watch: _Watch, error: Exception) -> None:
        watch.is_looking = False
        if isinstance(error, Busy) and watch.shown is not None:
            return
        if watch in self._watches:
            self._watches.discard(watch)
            self._fail(watch.call, error)
