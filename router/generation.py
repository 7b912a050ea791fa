"""Variants that generate text, behind the request path's seam: answers in parts, and copies that are scored.

A copy does not generate: another text would soon have nothing to do with the baseline's. The candidate reads what the
baseline has said, and every token is compared with what the candidate would have said there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from anabranch.router.backends import Answered, Backend, Done, Part, Submitted
from anabranch.router.compare import Comparison
from anabranch.router.queries import Query
from anabranch.variants.batching import MIRROR, Answer, Failure, Timing
from anabranch.variants.errors import VariantError
from anabranch.variants.llm.fidelity import compare
from anabranch.variants.llm.generation import Answering, Finish, Token
from anabranch.variants.llm.generator import Generator, TokenEvent
from anabranch.variants.llm.pool import GenerationPool, Job
from anabranch.variants.llm.requests import Asked, Prompt, answer_arrays
from anabranch.variants.llm.sampling import Sampling
from anabranch.variants.tensors import Array


class Generated(Answer):
    """A generated answer; in a stream, its outputs are those of its last part.

    Attributes:
        prompt: The prompt's tokens.
        tokens: All tokens of the answer.
        is_stopped: The model ended it, by a token that is not among them.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    is_stopped: bool


class GenerationBackend:
    """A generating variant in this process.

    Args:
        pool: Threads: comparisons run there, and answers where no other pool is given.
        generator: The variant.
        answers: Its batch.
    """

    __slots__ = ("_answers", "_generator", "_pool")

    def __init__(
        self, pool: GenerationPool, generator: Generator, answers: GenerationPool | None = None
    ) -> None:
        self._pool = pool
        self._generator = generator
        self._answers = answers or pool

    def submit(
        self, query: Query, *, priority: int, deadline: float | None, done: Done, part: Part | None = None
    ) -> Submitted:
        """Queue a generation."""
        asked = self._generator.read(query.inputs)
        streams = part if asked.streams is not False else None
        work = _Telling(self._generator, asked, streams, self._answers.clock)
        return self._answers.submit(work, priority=priority, deadline=deadline, done=done)

    def unfit(self) -> None:
        """Always fit."""

    def late(self, waited_s: float) -> None:
        """Nothing to learn."""

    def compare(
        self,
        baseline: Backend | None,
        answer: Answered,
        *,
        sequence: int,
        deadline: float,
        done: Callable[[Comparison | Failure], None],
    ) -> Submitted:
        """Queue the comparison of this variant with the baseline on the baseline's answer.

        Args:
            baseline: Who answered.
            answer: What it answered.
            sequence: Number of the assignment: it chooses the token that says whether the two agree.
            deadline: When the result is worth nothing any more, on the event loop's clock.
            done: Called once with the result or the failure.

        Raises:
            QueueFull: As many wait as may.
            VariantError: The baseline does not generate in this process.
        """
        if not isinstance(baseline, GenerationBackend) or not isinstance(answer, Generated):
            raise VariantError("only a baseline that generates in the same process can be compared with")
        if not answer.tokens and not answer.is_stopped:
            raise VariantError("the baseline said nothing that could be compared")
        return self._pool.submit(
            partial(self._compare, baseline._generator, answer, sequence),
            priority=MIRROR,
            deadline=deadline,
            done=done,
        )

    def _compare(self, baseline: Generator, answer: Generated, sequence: int, job: Job) -> Comparison:
        """On a worker thread."""
        # Which token comes last is never looked up; where the model ended the answer, that decision is compared too.
        text = [*answer.prompt, *answer.tokens, *([0] if answer.is_stopped else [])]
        first = len(answer.prompt)
        theirs, ours = baseline.logits(text, first), self._generator.logits(text, first)
        found = compare(_while_wanted(theirs, job), ours)
        # One token decides, drawn by the request's number: so the mean over requests is that over tokens, and every
        # request is one outcome.
        agrees = bool(found.agrees[sequence % len(found.agrees)])
        return Comparison(
            agrees=agrees,
            max_abs=found.max_abs,
            cosine=float(found.cosines.min()),
            token_agreement=float(found.agrees.mean()),
            kl=float(found.kl.mean()),
        )


class _Telling:
    """One answer from its prompt to its end: alone on a thread when called, or driven by a batch. Not on the loop's thread.

    Args:
        generator: The variant.
        asked: The request.
        part: Takes parts of the answer, on the loop's thread; None: it comes whole.
        clock: The pool's.
    """

    __slots__ = ("_asked", "_clock", "_events", "_generator", "_part", "_prompt", "_texts", "_times")

    def __init__(
        self, generator: Generator, asked: Asked, part: Part | None, clock: Callable[[], float]
    ) -> None:
        self._generator, self._asked, self._part, self._clock = generator, asked, part, clock
        self._prompt = Prompt(tokens=(), sampling=Sampling())
        self._texts = generator.texts()
        self._events: list[TokenEvent] = []
        self._times: list[float] = []

    def __call__(self, job: Job) -> Generated:
        """Answer alone: the decoder is its own while a step runs."""
        answering = self.open(job)
        for token in self._generator.events(answering, is_cancelled=lambda: job.is_unwanted):
            self.take(job, token)
        return self.result(job, self._clock() - job.started_s, 1)

    def open(self, _job: Job) -> Answering:
        """Put the prompt into tokens.

        Raises:
            VariantInputError: It leaves no room for the answer.
        """
        self._prompt = self._generator.prompt(self._asked)
        return self._generator.answering(self._prompt)

    def take(self, job: Job, token: Token) -> None:
        """Note the next token, and send it where parts are wanted."""
        event = self._texts.event(token)
        self._events.append(event)
        if event.tokens:
            self._times.append(self._clock())
        if self._part is not None and event.finish is None:
            answer = Answer(_arrays([event], self._prompt), Timing(job.queue_s, 0.0, 1))
            job.tell(partial(self._part, answer))

    def result(self, job: Job, engine_s: float, shared_by: int) -> Generated:
        """The whole answer; in a stream its last part.

        Its times of computing and of rows are such that their quotient is its share of the decoder's time, which is what
        costs are counted by.
        """
        times = self._times
        timing = Timing(
            job.queue_s,
            engine_s * shared_by,
            shared_by,
            first_token_s=times[0] - job.submitted_s if times else None,
            token_s=(times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None,
        )
        events = self._events
        answer = Generated(_arrays(events if self._part is None else events[-1:], self._prompt), timing)
        answer.prompt = self._prompt.tokens
        answer.tokens = tuple(token for event in events for token in event.tokens)
        answer.is_stopped = events[-1].finish is Finish.STOP
        return answer


def _while_wanted(chunks: Iterator[Array], job: Job) -> Iterator[Array]:
    for chunk in chunks:
        if job.is_unwanted:
            return
        yield chunk


def _arrays(events: list[TokenEvent], prompt: Prompt) -> dict[str, Array]:
    finish = events[-1].finish
    return answer_arrays(
        "".join(event.text for event in events),
        [token for event in events for token in event.tokens],
        str(finish) if finish else "",
        len(prompt.tokens),
    )
