"""A request of the express path that runs in this process."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from anabranch.router.backends import Answered, Done, Submitted
from anabranch.router.compare import top1
from anabranch.router.express_patterns import Known
from anabranch.router.replies import Replies
from anabranch.variants.batching import Answer, Failure


class LocalRun:
    """One request: on the path until it is handed over, then a flight's.

    Args:
        replies: Writes answers.
        known: What it has in common with others.
        run: The compiled module's side.

    Attributes:
        submitted: What the dispatcher holds of it.
    """

    __slots__ = ("_done", "_known", "_replies", "_run", "submitted")

    def __init__(self, replies: Replies, known: Known, run: Any) -> None:
        self._replies, self._known, self._run = replies, known, run
        self._done: Done | None = None
        self.submitted: Submitted | None = None
        run.holder = self

    def hand_over(self, done: Done) -> Submitted:
        """From now on it is a flight that hears of the end."""
        self._done = done
        assert self.submitted is not None
        return self.submitted

    def ended(self, result: Answered | Failure) -> None:
        """From the dispatcher."""
        if self._done is not None:
            self._done(result)
            return
        known = self._known
        if isinstance(result, Answer):
            outputs, timing = result
            with suppress(KeyError, ValueError):
                klass = top1(outputs) if known.names_classes else -1
                written = b"".join(self._replies.outputs(known.plan, result))
                if self._run.answer(written, klass, timing.queue_s, timing.compute_s, timing.batch_rows):
                    return
        # There is something to be looked at.
        _, take_over, told = self._run.leave()
        take_over(*told)
        self._tell(result)

    def _tell(self, result: Answered | Failure) -> None:
        assert self._done is not None, "what takes over asks to hear of the end"
        self._done(result)
