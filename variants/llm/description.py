"""What a manifest says of a variant that generates text."""

from dataclasses import dataclass

from anabranch.variants.llm.kv_cache import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFidelity:
    """Two variants on the same tokens.

    Args:
        tokens: Tokens that were predicted by both.
        agreement: Share of them for which both find the same token the likeliest.
        kl_mean: Mean of KL(baseline || variant) over the tokens, in nats.
        kl_p99: 99th percentile of it.
        max_abs: Largest difference of a logit.
        cosine_mean: Mean cosine of the logits.
        cosine_min: Smallest cosine of the logits.
    """

    tokens: int
    agreement: float
    kl_mean: float
    kl_p99: float
    max_abs: float
    cosine_mean: float
    cosine_min: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """Perplexity of a text with a 95 % interval.

    Args:
        value: exp of the mean loss of a token.
        low: Lower end.
        high: Upper end.
        tokens: Tokens that were predicted.
        ratio: Perplexity over the reference's on the same tokens.
        ratio_low: Lower end of a 95 % interval of the ratio, by paired losses.
        ratio_high: Upper end.
    """

    value: float
    low: float
    high: float
    tokens: int
    ratio: float
    ratio_low: float
    ratio_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSpeed:
    """Measured times of whole answers, one at a time, in milliseconds.

    Args:
        threads: Threads that shared a call's work.
        prompt_tokens: Tokens of the prompt.
        answer_tokens: Tokens of the answer.
        ttft_ms: Median time to the first token.
        tpot_ms: Median time of every further token.
        answer_ms: Median time of a whole answer.
        answer_p95_ms: 95th percentile of it.
        calls: Answers that were timed.
    """

    threads: int
    prompt_tokens: int
    answer_tokens: int
    ttft_ms: float
    tpot_ms: float
    answer_ms: float
    answer_p95_ms: float
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFormat:
    """How a message becomes a prompt: ChatML, with the model's own marks.

    Args:
        start: The special token that begins a turn.
        end: The special token that ends a turn, and an answer.
        system: The first turn, said by `system`; None for none.
    """

    start: str
    end: str
    system: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What a variant that generates text needs and is.

    Args:
        vocabulary: File name of the byte-pair vocabulary beside the artifact.
        vocabulary_size: Token ids run from 0 to this, exclusive.
        context: Most tokens of prompt and answer together.
        chat: How a message becomes a prompt; None where text is taken as it is.
        stops: Tokens that end an answer.
        window: What the variant remembers; None for everything.
        cache_row_bytes: Bytes of the KV cache a token takes.
        cache_bytes: Bytes of the KV cache of a text that fills the context.
        shares_steps: Answers share the steps of the decoder; otherwise one answer has it alone while a step runs.
        fidelity: Against the reference, token by token on the same text.
        perplexity: Of the evaluation text.
        tail: The same for the part of the text where a window matters: after the tokens that it remembers.
        speed: Measured times.
    """

    vocabulary: str
    vocabulary_size: int
    context: int
    chat: ChatFormat | None
    stops: tuple[int, ...]
    window: Window | None
    cache_row_bytes: int
    cache_bytes: int
    shares_steps: bool = False
    fidelity: TokenFidelity | None = None
    perplexity: Perplexity | None = None
    tail: Perplexity | None = None
    speed: tuple[GenerationSpeed, ...] = ()
