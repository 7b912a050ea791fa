"""Generate an answer token by token, and score the tokens of another variant's answer."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anabranch.variants.llm.kv_cache import CacheGeometry, Window
from anabranch.variants.llm.sampling import Sampling, choose


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


def generate(
    session: Stepper,
    cache: Memory,
    prompt: Sequence[int],
    sampling: Sampling,
    *,
    stops: frozenset[int],
    draw: Callable[[], float],
    is_cancelled: Callable[[], bool],
) -> Iterator[Token]:
    """Answer a prompt. The last event, and no other, has a `finish`.

    Args:
        session: The decoder.
        cache: An empty cache with room for the prompt and the answer.
        prompt: At least one token.
        sampling: How tokens are chosen, and how many.
        stops: Tokens that end an answer; they are not part of it.
        draw: Uniform in [0, 1), called once a token.
        is_cancelled: Asked before every call of the decoder.

    Raises:
        VariantRunError: The engine failed.
    """
    logits: NDArray[np.float32] | None = None
    for start in range(0, len(prompt), cache.most_tokens):
        if is_cancelled():
            yield Token(id=None, finish=Finish.CANCELLED)
            return
        logits = session.step(cache, prompt[start : start + cache.most_tokens])
    assert logits is not None, "the caller sees to it that the prompt is not empty"
    for count in range(1, sampling.max_tokens + 1):
        token = choose(logits[-1], sampling, draw())
        if token in stops:
            yield Token(id=None, finish=Finish.STOP)
            return
        if count == sampling.max_tokens:
            yield Token(id=token, finish=Finish.LENGTH)
            return
        yield Token(id=token)
        if is_cancelled():
            yield Token(id=None, finish=Finish.CANCELLED)
            return
        logits = session.step(cache, [token])


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
            yield logits


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logarithms of the probabilities, along the last axis."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    normed: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normed
