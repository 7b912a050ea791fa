"""One thread that runs the decode batch of one variant, for a pool: each of its slots takes a job."""

import queue
import threading
from typing import Any, Protocol

from anabranch.variants.llm.decode_batch import DecodeBatch, Member, Step
from anabranch.variants.llm.generation import Answering, Token
from anabranch.variants.llm.pool import Finished, Job


class SharedWork(Protocol):
    """An answer that shares the decoder with others. Its methods are called on the batch's thread."""

    def open(self, job: Job) -> Answering:
        """Begin.

        Raises:
            VariantInputError: The request does not fit the variant.
        """
        ...

    def take(self, job: Job, token: Token) -> None:
        """The next token, or the end."""
        ...

    def result(self, job: Job, engine_s: float, shared_by: int) -> Any:
        """What the job's `done` gets.

        Args:
            job: The job.
            engine_s: Its share of the decoder's time.
            shared_by: Answers that shared its steps, in the mean.
        """
        ...


class BatchThread:
    """Runs jobs whose work is `SharedWork`; a pool's runner.

    Args:
        batch: The answers; nobody else uses it.
    """

    def __init__(self, batch: DecodeBatch) -> None:
        self._batch = batch
        self._jobs: dict[Member, tuple[Job, SharedWork, Finished]] = {}
        self._arrivals: queue.SimpleQueue[tuple[Job, Finished] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="decode", daemon=True)
        self._thread.start()

    @property
    def slots(self) -> int:
        """Jobs that run at once."""
        return self._batch.slots

    def start(self, job: Job, finished: Finished) -> None:
        """Let a job join at the next token."""
        self._arrivals.put((job, finished))

    def close(self) -> None:
        """End the thread after the jobs that were started, and wait for it."""
        self._arrivals.put(None)
        self._thread.join()

    def _work(self) -> None:
        is_open = True
        while is_open or self._batch.size:
            # An idle thread waits; one at work looks only who has come.
            while is_open and (self._batch.size == 0 or not self._arrivals.empty()):
                arrival = self._arrivals.get()
                if arrival is None:
                    is_open = False
                else:
                    self._join(*arrival)
            for step in self._batch.advance():
                self._take(step)

    def _join(self, job: Job, finished: Finished) -> None:
        work: SharedWork = job.take_work()
        try:
            member = Member(work.open(job), is_cancelled=lambda: job.is_unwanted)
            self._batch.join(member)
        except Exception as error:  # noqa: BLE001  # whatever a request or a variant raises is its own failure
            finished(job.failure(error))
            return
        self._jobs[member] = job, work, finished

    def _take(self, step: Step) -> None:
        if step.member not in self._jobs:
            # It failed below, and this is how it leaves.
            return
        job, work, finished = self._jobs[step.member]
        if step.error is not None:
            result = job.failure(step.error)
        else:
            assert step.token is not None, "a step without an error has a token"
            try:
                work.take(job, step.token)
                if step.token.finish is None:
                    return
                result = work.result(job, step.member.engine_s, step.member.shared_by)
            except Exception as error:  # noqa: BLE001  # a mistake with one answer must not end its neighbours'
                result = job.failure(error)
                job.is_unwanted = True
        del self._jobs[step.member]
        finished(result)
