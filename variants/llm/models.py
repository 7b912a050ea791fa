"""What a build of a language model works on, and where that comes from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from anabranch.variants.llm.byte_pairs import Vocabulary
from anabranch.variants.llm.decoder import Decoder
from anabranch.variants.llm.description import ChatFormat
from anabranch.variants.models import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModel:
    """A language model in memory, ready for every recipe.

    Args:
        decoder: Sizes and weights.
        vocabulary: The tokenizer's.
        chat: How a message becomes a prompt; None where text is taken as it is.
        stops: Tokens that end an answer.
        context: Most tokens of prompt and answer together that are served.
        calibration: Tokens that fit the scales of a cache in low bits.
        evaluation: Other tokens: perplexity, fidelity and speed are measured with them. Empty: nothing is measured.
    """

    decoder: Decoder
    vocabulary: Vocabulary
    chat: ChatFormat | None
    stops: tuple[int, ...]
    context: int
    calibration: tuple[int, ...] = ()
    evaluation: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageSource:
    """Where a language model comes from; nothing is loaded until a variant has to be built.

    Args:
        name: What clients call the model.
        identity: Digests and settings that determine the model; part of every variant's cache key.
        prepare: Loads the model; gets a progress callback.
    """

    name: str
    identity: Mapping[str, str]
    prepare: Callable[[Progress], LanguageModel]
