"""Generate an answer token by token, and score the tokens of another variant's answer."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anabranch.variants.errors import VariantRunError
from anabranch.variants.llm.kv_cache import CacheGeometry, Window
from anabranch.variants.llm.sampling import Sampling, choose

# Tokens of a text whose logits come at once, at most.
_PIECE = 64


class Finish(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token of an answer.

    Args:
        id: The token; None where the answer ended without one more.
        finish: Why this is the last event; None where more come.
    """

    id: int | None
    finish: Finish | None = None


class Memory(Protocol):
    """The cache of one generation."""

    @property
    def most_tokens(self) -> int:
        """Tokens that one call may bring."""
        ...


class Stepper(Protocol):
    """A decoder that reads tokens and says what may come next."""

    @property
    def shares_steps(self) -> bool:
        """Whether it is a `BatchStepper`: one call can read a token of each of several texts."""
        ...

    @property
    def geometry(self) -> CacheGeometry:
        """The buffers of a cache."""
        ...

    def new_cache(self, window: Window | None, tokens: int) -> Any:
        """An empty cache.

        Args:
            window: What the variant remembers; None for everything.
            tokens: The text's tokens at most.
        """
        ...

    def step(self, cache: Any, tokens: Sequence[int], wanted: int = 1) -> NDArray[np.float32]:
        """Read further tokens of a text.

        Args:
            cache: From `new_cache`: what came before; gets the new tokens.
            tokens: At least one, at most `cache.most_tokens`.
            wanted: Of how many of the last tokens the logits are computed, at least 1.

        Returns:
            Logits of the next token after each of the last ones, shape (wanted, vocabulary).

        Raises:
            VariantRunError: The engine failed.
        """
        ...

    def close(self) -> None:
        """Give back what it holds beyond this process's memory."""
        ...


class BatchStepper(Stepper, Protocol):
    """A decoder that reads a token of each of several texts in one call."""

    def new_batch(self, window: Window | None, slots: int, tokens: int) -> Any:
        """Room for several caches side by side, all empty.

        Args:
            window: What the variant remembers; None for everything.
            slots: Texts at most.
            tokens: One text's tokens at most.
        """
        ...

    def step_batch(self, batch: Any, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Read one further token of each text.

        Args:
            batch: From `new_batch`: what came before; gets the new tokens.
            tokens: One for each cache that was admitted, in their order.

        Returns:
            Logits of the next tokens, shape (texts, vocabulary).

        Raises:
            VariantRunError: The engine failed.
        """
        ...


class Answering:
    """One answer under way, apart from whoever runs the decoder: which tokens it must read next, and what they lead to.

    Args:
        prompt: At least one token.
        sampling: How tokens are chosen, and how many.
        stops: Tokens that end an answer; they are not part of it.
        draw: Uniform in [0, 1), called once a token.
    """

    __slots__ = ("_draw", "_made", "_unread", "prompt", "sampling", "stops")

    def __init__(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        stops: frozenset[int],
        draw: Callable[[], float],
    ) -> None:
        assert len(prompt), "the caller sees to it that the prompt is not empty"
        self.prompt = prompt
        self.sampling = sampling
        self.stops = stops
        self._draw = draw
        self._unread: Sequence[int] = prompt
        self._made = 0

    @property
    def tokens(self) -> int:
        """Tokens of prompt and answer together, at most."""
        return len(self.prompt) + self.sampling.max_tokens

    def unread(self, most: int) -> Sequence[int]:
        """The tokens that the decoder must read next, at most that many; none once the answer is over."""
        return self._unread[:most]

    def read(self, count: int, logits: NDArray[np.float32]) -> Token | None:
        """The decoder has read some.

        Args:
            count: How many of `unread`.
            logits: What may follow the last of them, shape (vocabulary,).

        Returns:
            The next token, or the end; None while the prompt is not read to its end. No token follows one with a
            `finish`.

        Raises:
            VariantRunError: The logits are no numbers, as those of a variant that overflows.
        """
        self._unread = self._unread[count:]
        if self._unread:
            return None
        if not np.isfinite(logits.max()):
            raise VariantRunError("the decoder gave logits that are no numbers: nothing follows from them")
        token = choose(logits, self.sampling, self._draw())
        if token in self.stops:
            return Token(id=None, finish=Finish.STOP)
        self._made += 1
        if self._made == self.sampling.max_tokens:
            return Token(id=token, finish=Finish.LENGTH)
        self._unread = (token,)
        return Token(id=token)


def generate(
    session: Stepper, cache: Memory, answering: Answering, is_cancelled: Callable[[], bool]
) -> Iterator[Token]:
    """Answer a prompt by oneself. The last event, and no other, has a `finish`.

    Args:
        session: The decoder.
        cache: An empty cache with room for the prompt and the answer.
        answering: The answer, not yet begun.
        is_cancelled: Asked before every call of the decoder.

    Raises:
        VariantRunError: The engine failed, or gave what are no numbers.
    """
    while tokens := answering.unread(cache.most_tokens):
        if is_cancelled():
            yield Token(id=None, finish=Finish.CANCELLED)
            return
        token = answering.read(len(tokens), session.step(cache, tokens)[-1])
        if token is not None:
            yield token


def logits_of(
    session: Stepper, cache: Memory, text: Sequence[int], first: int
) -> Iterator[NDArray[np.float32]]:
    """Logits for the tokens of a text from `first` on, each computed from the tokens before it.

    Args:
        session: The decoder.
        cache: An empty cache with room for the text.
        text: At least two tokens.
        first: The first token that is predicted, at least 1.

    Yields:
        Chunks of shape (tokens, vocabulary), in order.
    """
    # Token t is predicted by the logits after token t - 1; nothing is predicted by the last token's.
    inputs = text[:-1]
    for start in range(0, len(inputs), cache.most_tokens):
        chunk = inputs[start : start + cache.most_tokens]
        wanted = min(len(chunk), start + len(chunk) - (first - 1))
        logits = session.step(cache, chunk, max(wanted, 1))
        if wanted > 0:
            yield from _pieces(logits, start + len(chunk) - wanted)


def _pieces(logits: NDArray[np.float32], position: int) -> Iterator[NDArray[np.float32]]:
    """Cut at multiples of `_PIECE` of the text, so that decoders with chunks of other sizes can be compared."""
    while len(logits):
        size = _PIECE - position % _PIECE
        yield logits[:size]
        logits, position = logits[size:], position + size


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logarithms of the probabilities, along the last axis."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    normed: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normed
