"""A language model that is built in a second: random weights and a small real tokenizer."""

from pathlib import Path

import numpy as np

from anabranch.variants.llm.build import build_language_model
from anabranch.variants.llm.byte_pairs import Vocabulary
from anabranch.variants.llm.decoder import DecoderShape, random_decoder
from anabranch.variants.llm.models import LanguageModel, LanguageSource
from anabranch.variants.llm.recipes import KvSinks, LanguageSpec

NAME = "tiny"
END = "<|end|>"

# Trained by `tokenizers` 0.23 on a sentence about a fox and some French and Japanese words.
_MERGES = [
    "t h",
    "Ġ th",
    "Ġth e",
    "e r",
    "Ã ©",
    "Ġ d",
    "Ġ o",
    "a f",
    "a n",
    "a t",
    "a z",
    "a Ã",
    "b r",
    "c k",
    "c af",
    "f o",
    "g h",
    "i n",
    "i ck",
    "j u",
    "j Ã",
    "l az",
    "m p",
    "n aÃ",
    "o g",
    "o u",
    "o w",
    "q u",
    "r e",
    "v e",
    "v u",
    "v er",
    "¥ æ",
    "ª ŀ",
    "¬ è",
    "¯ ve",
    "æ Ĺ",
    "Ġ an",
    "Ġ br",
    "Ġ caf",
    "Ġ fo",
    "Ġ ju",
    "Ġ laz",
    "Ġ qu",
    "Ġ vu",
    "Ġ æĹ",
    "ľ ¬è",
    "th e",
    "th er",
    "Ġth at",
    "Ġth in",
    "Ġth ou",
    "Ġthe n",
    "Ġthe y",
    "Ġthe re",
    "Ã© jÃ",
    "Ġd og",
    "Ġd Ã©jÃ",
    "Ġo ver",
    "Ġo ther",
    "gh t",
    "mp s",
    "naÃ ¯ve",
]
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
# GPT-2's stand-ins of the 256 bytes, in the order in which the trainer numbers them.
_ALPHABET = [*map(chr, _PRINTABLE), *(chr(0x100 + number) for number in range(256 - len(_PRINTABLE)))]
# A narrow window, so that a short answer already forgets.
NARROW = LanguageSpec(recipe=KvSinks(sinks=1, recent=7))


def shape(context: int = 512) -> DecoderShape:
    """Two layers; two query heads share a key head."""
    return DecoderShape(
        layers=2,
        heads=4,
        kv_heads=2,
        head_size=16,
        width=64,
        inner=128,
        vocabulary=1 + len(_ALPHABET) + len(_MERGES),
        context=context,
    )


def vocabulary() -> Vocabulary:
    """320 tokens, one of them special."""
    tokens = (END, *_ALPHABET, *(merge.replace(" ", "") for merge in _MERGES))
    return Vocabulary(tokens=tokens, merges=tuple(_MERGES), special=frozenset({0}))


def source(context: int = 512, *, stops: tuple[int, ...] = (0,)) -> LanguageSource:
    """The model.

    Args:
        context: Most tokens of prompt and answer together.
        stops: Tokens that end an answer.
    """
    sizes = shape(context)
    tokens = [int(token) for token in np.random.default_rng(5).integers(1, sizes.vocabulary, 500)]
    model = LanguageModel(
        decoder=random_decoder(sizes, seed=1),
        vocabulary=vocabulary(),
        chat=None,
        stops=stops,
        context=context,
        calibration=tuple(tokens[400:]),
        evaluation=tuple(tokens[:400]),
    )
    identity = {"weights": "random", "context": str(context), "stops": str(stops)}
    return LanguageSource(name=NAME, identity=identity, prepare=lambda _tell: model)


def build_tiny(root: Path, context: int) -> None:
    """Variants for a server: they answer until their length."""
    variants: list[str | LanguageSpec] = ["onnx-fp32", "onnx-kv-int8", "onnx-int8-weight-only", NARROW]
    build_language_model(source(context, stops=()), variants, root, threads=1)
