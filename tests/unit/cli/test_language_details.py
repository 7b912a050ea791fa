from dataclasses import replace

from anabranch.cli.language_details import describe_generation
from anabranch.variants.llm.description import Generation, GenerationSpeed, Perplexity, TokenFidelity
from anabranch.variants.llm.kv_cache import Window

GENERATION = Generation(
    vocabulary="vocabulary.json",
    vocabulary_size=320,
    context=2_048,
    chat=None,
    stops=(0,),
    window=Window(sinks=4, recent=508),
    cache_row_bytes=46_080,
    cache_bytes=26_496_000,
    fidelity=TokenFidelity(
        tokens=1_535,
        agreement=0.957,
        kl_mean=0.01776,
        kl_p99=0.2327,
        max_abs=10.3,
        cosine_mean=0.998,
        cosine_min=0.77,
    ),
    perplexity=Perplexity(
        value=11.83, low=9.17, high=15.25, tokens=1_535, ratio=1.0203, ratio_low=0.9977, ratio_high=1.0434
    ),
    speed=(
        GenerationSpeed(
            threads=1,
            prompt_tokens=64,
            answer_tokens=32,
            ttft_ms=150.0,
            tpot_ms=40.0,
            answer_ms=1_400.0,
            answer_p95_ms=1_500.0,
            calls=5,
        ),
    ),
)


def test_a_generator_is_described_by_its_memory_its_tokens_and_its_pace() -> None:
    assert list(describe_generation(GENERATION)) == [
        "  context       2048 tokens, remembers 4 + 508 tokens",
        "  KV cache      26.5 MB, 46080 bytes a token",
        "  answers       come one at a time",
        "  tokens        KL 0.01776 nats, 99 % below 0.2327, on 1535 tokens",
        "  perplexity    11.83 [9.17, 15.25], 1.0203 [0.9977, 1.0434] times the reference's, on 1535 tokens",
        "  an answer     first token 150.0 ms after 64 tokens, then 40.00 ms each (5 answers, 1 thread)",
    ]


def test_what_was_not_measured_is_not_shown() -> None:
    bare = replace(GENERATION, window=None, fidelity=None, perplexity=None, speed=())
    assert list(describe_generation(bare)) == [
        "  context       2048 tokens, remembers everything",
        "  KV cache      26.5 MB, 46080 bytes a token",
        "  answers       come one at a time",
    ]
