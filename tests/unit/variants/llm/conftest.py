"""Small decoders and a small tokenizer that the tests of language models share."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from anabranch.variants.llm.build import build_language_model
from anabranch.variants.llm.byte_pairs import BytePairs, Vocabulary
from anabranch.variants.llm.decoder import Decoder, random_decoder
from anabranch.variants.llm.models import LanguageSource

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


@pytest.fixture(scope="session")
def tiny(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    """The model that is built in a second."""
    return load_module(Path(__file__).parents[3] / "data" / "tiny_language_model.py")


@pytest.fixture(scope="session")
def vocabulary(tiny: ModuleType) -> Vocabulary:
    found: Vocabulary = tiny.vocabulary()
    return found


@pytest.fixture(scope="session")
def pieces(vocabulary: Vocabulary) -> BytePairs:
    return BytePairs(vocabulary)


@pytest.fixture(scope="session")
def decoder(tiny: ModuleType) -> Decoder:
    return random_decoder(tiny.shape(), seed=1)


@pytest.fixture(scope="session")
def some_tokens(decoder: Decoder) -> list[int]:
    return [int(token) for token in np.random.default_rng(0).integers(0, decoder.shape.vocabulary, 40)]


@pytest.fixture(scope="session")
def reference(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    """The decoder in plain numpy."""
    return load_module(Path(__file__).with_name("reference.py"))


@pytest.fixture(scope="session")
def tiny_source(tiny: ModuleType) -> LanguageSource:
    """A language model of random weights; its text is long enough for every measurement."""
    found: LanguageSource = tiny.source()
    return found


@pytest.fixture(scope="session")
def tiny_root(tiny_source: LanguageSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every variant of the tiny model that one process runs."""
    root = tmp_path_factory.mktemp("models")
    build_language_model(tiny_source, BUILT, root, threads=1)
    return root
