"""What a variant that generates text is, and how near it is to the reference, in words."""

from __future__ import annotations

from collections.abc import Iterator

from anabranch.variants.llm.description import Generation, Perplexity


def describe_generation(generation: Generation) -> Iterator[str]:
    """The lines of `anabranch variants show` that other variants do not have."""
    window = generation.window
    remembers = "everything" if window is None else f"{window.sinks} + {window.recent} tokens"
    yield f"  context       {generation.context} tokens, remembers {remembers}"
    yield f"  KV cache      {generation.cache_bytes / 1e6:.1f} MB, {generation.cache_row_bytes} bytes a token"
    sharing = "share the decoder's steps" if generation.shares_steps else "come one at a time"
    yield f"  answers       {sharing}"
    fidelity = generation.fidelity
    if fidelity is not None:
        yield f"  tokens        KL {fidelity.kl_mean:.5f} nats, 99 % below {fidelity.kl_p99:.4f}, on {fidelity.tokens} tokens"
    for name, found in (("perplexity", generation.perplexity), ("in the tail", generation.tail)):
        if found is not None:
            yield f"  {name:<13} {_perplexity(found)}"
    for speed in generation.speed:
        yield (
            f"  an answer     first token {speed.ttft_ms:.1f} ms after {speed.prompt_tokens} tokens, then {speed.tpot_ms:.2f} ms each "
            f"({speed.calls} answers, {speed.threads} thread)"
        )


def _perplexity(found: Perplexity) -> str:
    ratio = f"{found.ratio:.4f} [{found.ratio_low:.4f}, {found.ratio_high:.4f}] times the reference's"
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}], {ratio}, on {found.tokens} tokens"
