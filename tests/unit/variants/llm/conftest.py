"""Small decoders and a small tokenizer that the tests of language models share."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from anabranch.variants.llm.build import build_language_model
from anabranch.variants.llm.byte_pairs import BytePairs, Vocabulary
from anabranch.variants.llm.decoder import Decoder, DecoderShape, random_decoder
from anabranch.variants.llm.models import LanguageModel, LanguageSource

SHAPE = DecoderShape(
    layers=2, heads=4, kv_heads=2, head_size=16, width=64, inner=128, vocabulary=320, context=512
)
BUILT = (
    "onnx-fp32",
    "onnx-fp16",
    "onnx-int8-weight-only",
    "onnx-int4-weight-only",
    "onnx-kv-window",
    "onnx-kv-sinks",
    "onnx-kv-int8",
    "onnx-kv-int4",
)

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
_CUT = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
# GPT-2's stand-ins of the 256 bytes, in the order in which the trainer numbers them.
_ALPHABET = [*map(chr, _CUT), *(chr(0x100 + number) for number in range(256 - len(_CUT)))]


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    tokens = ("<|end|>", *_ALPHABET, *(merge.replace(" ", "") for merge in _MERGES))
    return Vocabulary(tokens=tokens, merges=tuple(_MERGES), special=frozenset({0}))


@pytest.fixture(scope="session")
def pieces(vocabulary: Vocabulary) -> BytePairs:
    return BytePairs(vocabulary)


@pytest.fixture(scope="session")
def decoder() -> Decoder:
    return random_decoder(SHAPE, seed=1)


@pytest.fixture(scope="session")
def some_tokens() -> list[int]:
    return [int(token) for token in np.random.default_rng(0).integers(0, SHAPE.vocabulary, 40)]


@pytest.fixture(scope="session")
def reference(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    """The decoder in plain numpy."""
    return load_module(Path(__file__).with_name("reference.py"))


@pytest.fixture(scope="session")
def tiny_source(decoder: Decoder, vocabulary: Vocabulary) -> LanguageSource:
    """A language model of random weights; its text is long enough for every measurement."""
    tokens = [int(token) for token in np.random.default_rng(5).integers(1, SHAPE.vocabulary, 500)]
    model = LanguageModel(
        decoder=decoder,
        vocabulary=vocabulary,
        chat=None,
        stops=(0,),
        context=SHAPE.context,
        calibration=tuple(tokens[400:]),
        evaluation=tuple(tokens[:400]),
    )
    return LanguageSource(name="tiny", identity={"weights": "random"}, prepare=lambda _tell: model)


@pytest.fixture(scope="session")
def tiny_root(tiny_source: LanguageSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every variant of the tiny model that one process runs."""
    root = tmp_path_factory.mktemp("models")
    build_language_model(tiny_source, BUILT, root, threads=1)
    return root
