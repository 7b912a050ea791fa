"""WordPiece tokenization for uncased BERT models, in plain Python.

A word's pieces depend on the word alone, so they are cached: running text costs little more than a dictionary
look-up a word.

Source:
    Devlin et al. 2018, BERT, and its reference tokenizer (clean, split CJK, lower-case and strip accents, split
    punctuation, then the longest known piece first).
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from anabranch.variants.errors import VariantError

# Longer words are unknown, as in the reference.
_MAX_WORD_CHARS = 100
# Distinct words kept; about 20 MB when full.
_CACHE_WORDS = 65_536
_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoding:
    """How text becomes token ids.

    Args:
        vocabulary: File name of the WordPiece vocabulary beside the artifact.
        vocabulary_size: Ids run from 0 to this, exclusive.
        max_tokens: Longer texts are cut here; longer id rows are refused.
    """

    vocabulary: str
    vocabulary_size: int
    max_tokens: int


class WordPiece:
    """Turn text into token ids `[CLS] pieces [SEP]`; safe to share between threads.

    Args:
        vocabulary: The pieces in id order; pieces inside a word start with `##`.
        max_tokens: Longer texts are cut to this many ids, the two markers included.

    Raises:
        VariantError: A marker is missing from the vocabulary, or `max_tokens` is less than 2.
    """

    def __init__(self, vocabulary: Iterable[str], *, max_tokens: int) -> None:
        if max_tokens < 2:
            raise VariantError(f"max_tokens is {max_tokens}, must be at least 2 for [CLS] and [SEP]")
        self._ids = {piece: index for index, piece in enumerate(vocabulary)}
        missing = [marker for marker in ("[CLS]", "[SEP]", "[UNK]", "[PAD]") if marker not in self._ids]
        if missing:
            raise VariantError(f"the vocabulary lacks {missing}: it is not a BERT vocabulary")
        self._cls, self._sep = self._ids["[CLS]"], self._ids["[SEP]"]
        self._unknown = (self._ids["[UNK]"],)
        self._max_pieces = max_tokens - 2
        self._chunk_ids = lru_cache(maxsize=_CACHE_WORDS)(self._split_chunk)

    @classmethod
    def from_file(cls, path: Path, *, max_tokens: int) -> "WordPiece":
        """Read a `vocab.txt`, one piece a line."""
        return cls(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), max_tokens=max_tokens)

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are."""
        return len(self._ids)

    def encode(self, text: str) -> list[int]:
        """The ids of one text, markers included; special tokens written out in the text are plain text."""
        ids = [self._cls]
        limit = self._max_pieces + 1
        # Controls vanish and odd spaces split; what is printable holds neither.
        for chunk in (text if text.isprintable() else _clean(text)).split():
            ids += self._chunk_ids(chunk)
            if len(ids) >= limit:
                del ids[limit:]
                break
        ids.append(self._sep)
        return ids

    def _split_chunk(self, chunk: str) -> tuple[int, ...]:
        """The ids of one run of text without whitespace."""
        ids: list[int] = []
        # Cleaning sets spaces around CJK characters, so the result is split again.
        for run in _clean(chunk).split():
            for word in _split_punctuation(_fold(run)):
                ids.extend(self._word_ids(word))
        return tuple(ids)

    def _word_ids(self, word: str) -> tuple[int, ...]:
        known = self._ids
        whole = known.get(word)
        if whole is not None:
            return (whole,)
        if len(word) > _MAX_WORD_CHARS:
            return self._unknown
        ids: list[int] = []
        start = 0
        while start < len(word):
            end = len(word)
            prefix = "##" if start else ""
            while end > start and prefix + word[start:end] not in known:
                end -= 1
            if end == start:
                return self._unknown
            ids.append(known[prefix + word[start:end]])
            start = end
        return tuple(ids)


def _clean(text: str) -> str:
    """Drop control characters and set spaces around CJK characters."""
    if text.isascii() and text.isprintable():
        return text
    out: list[str] = []
    for char in text:
        code = ord(char)
        if code in (0, 0xFFFD):
            continue
        category = unicodedata.category(char)
        if char in "\t\n\r" or category[0] == "Z":
            out.append(" ")
        elif category[0] != "C":
            out.append(f" {char} " if any(low <= code <= high for low, high in _CJK) else char)
    return "".join(out)


def _fold(text: str) -> str:
    """Lower-case and strip accents; character by character, for `str.lower` writes a final sigma differently."""
    if text.isascii():
        return text.lower()
    plain = (char for char in unicodedata.normalize("NFD", text) if unicodedata.category(char) != "Mn")
    return "".join(char.lower() for char in plain)


def _split_punctuation(text: str) -> list[str]:
    """Split so that every punctuation character stands alone."""
    if text.isalnum():
        return [text]
    words: list[str] = []
    start = 0
    for index, char in enumerate(text):
        if _is_punctuation(char):
            if index > start:
                words.append(text[start:index])
            words.append(char)
            start = index + 1
    if start < len(text):
        words.append(text[start:])
    return words


def _is_punctuation(char: str) -> bool:
    code = ord(char)
    if code < 128:
        return 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return unicodedata.category(char)[0] == "P"
