"""Measure a variant that generates text: its distance from the reference, its perplexity and its speed."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from anabranch.variants.errors import BuildError
from anabranch.variants.gate import GateVerdict
from anabranch.variants.judging import judge_agreement
from anabranch.variants.llm.decode_batch import DecodeBatch, Member
from anabranch.variants.llm.description import GenerationSpeed, Perplexity, TokenFidelity
from anabranch.variants.llm.fidelity import Compared, Logits, compare
from anabranch.variants.llm.generation import Answering, Token
from anabranch.variants.llm.generator import Generator
from anabranch.variants.llm.perplexity import losses, perplexity
from anabranch.variants.llm.sampling import Sampling

# A window of 512 tokens, and a little more: from here on it has forgotten something.
TAIL_FROM = 600
# A changed token is often as good as the one that it replaces: twice what classes are allowed.
TOKEN_MARGIN = 0.10
_PROMPT_TOKENS = 64
_ANSWER_TOKENS = 32
_CALLS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What evaluation found.

    Args:
        fidelity: Against the reference.
        perplexity: Of the whole text.
        tail: Of the part from `TAIL_FROM` on, where the text is that long.
        gate: Whether the variant may be a candidate, by the share of tokens on which it agrees.
    """

    fidelity: TokenFidelity
    perplexity: Perplexity
    tail: Perplexity | None
    gate: GateVerdict


def evaluate(reference: Logits, variant: Logits, text: Sequence[int], *, name: str) -> Measured:
    """Compare what two variants make of one text, side by side, so that only a chunk of logits is in memory.

    Args:
        reference: Logits for the tokens from the second on, in chunks.
        variant: The same of the variant.
        text: At least two tokens.
        name: The variant's name.

    Raises:
        BuildError: The variant's logits are not finite.
        VariantRunError: An engine failed.
    """
    ours: list[NDArray[np.float64]] = []
    theirs: list[NDArray[np.float64]] = []
    compared = compare(
        _with_losses(reference, text, theirs, "the reference"), _with_losses(variant, text, ours, name)
    )
    loss, other = np.concatenate(ours), np.concatenate(theirs)
    tail = perplexity(loss[TAIL_FROM:], other[TAIL_FROM:]) if len(loss) > 2 * TAIL_FROM else None
    return Measured(
        fidelity=compared.summary(),
        perplexity=perplexity(loss, other),
        tail=tail,
        gate=_judge(compared),
    )


def _judge(compared: Compared) -> GateVerdict:
    """The offline gate, token by token in the order of the text: each outcome is judged given those before it."""
    differs = (~compared.agrees).astype(np.int64)
    verdict = judge_agreement(np.zeros_like(differs), differs, margin=TOKEN_MARGIN)
    return replace(verdict, reason=verdict.reason.replace("held-out requests", "tokens of a held-out text"))


def _with_losses(
    chunks: Logits, text: Sequence[int], found: list[NDArray[np.float64]], name: str
) -> Iterator[NDArray[np.float32]]:
    start = 1
    for logits in chunks:
        if not np.isfinite(logits).all():
            raise BuildError(f"{name} gives logits that are not finite: refuse the recipe")
        found.append(losses(logits, text[start : start + len(logits)]))
        start += len(logits)
        yield logits


def speed(variant: Generator, text: Sequence[int], *, threads: int) -> GenerationSpeed | None:
    """Time whole answers of a fixed length to prompts cut from a text; None where the text is too short.

    Args:
        variant: Loaded with that many threads.
        text: Tokens.
        threads: Threads that share a call's work.
    """
    if len(text) < _PROMPT_TOKENS * (_CALLS + 1):
        return None
    firsts: list[float] = []
    others: list[float] = []
    totals: list[float] = []
    batch = variant.new_batch(1, time.perf_counter)
    # One call more than is counted: the first one finds nothing in the caches of the processor.
    for call in range(_CALLS + 1):
        prompt = text[call * _PROMPT_TOKENS : (call + 1) * _PROMPT_TOKENS]
        answering = variant.answering_tokens(prompt, Sampling(max_tokens=_ANSWER_TOKENS), stops=frozenset())
        # As it is served: by the steps that answers share, where they do.
        events = variant.events(answering) if batch is None else _by(batch, answering)
        times = [time.perf_counter(), *(time.perf_counter() for _ in events)]
        if call:
            firsts.append(1e3 * (times[1] - times[0]))
            totals.append(1e3 * (times[-1] - times[0]))
            others.append(1e3 * (times[-1] - times[1]) / (len(times) - 2))
    return GenerationSpeed(
        threads=threads,
        prompt_tokens=_PROMPT_TOKENS,
        answer_tokens=_ANSWER_TOKENS,
        ttft_ms=statistics.median(firsts),
        tpot_ms=statistics.median(others),
        answer_ms=statistics.median(totals),
        answer_p95_ms=float(np.percentile(totals, 95)),
        calls=_CALLS,
    )


def _by(batch: DecodeBatch, answering: Answering) -> Iterator[Token]:
    """One answer alone in a batch."""
    batch.join(Member(answering, lambda: False))
    while batch.size:
        for step in batch.advance():
            if step.error is not None:
                raise step.error
            assert step.token is not None, "a step without an error has a token"
            yield step.token
