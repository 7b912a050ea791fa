"""A byte-level byte-pair tokenizer: text to token ids, and token ids back to bytes.

Special tokens are never made of text: what a client writes stays text, whatever it looks like.

Source:
    Sennrich et al. 2016, Neural machine translation of rare words with subword units; Radford et al. 2019 (bytes).
"""

import codecs
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from anabranch.variants.errors import ManifestError
from anabranch.variants.llm.text_pieces import text_pieces

# Most words of a text are frequent ones.
_CACHED_PIECES = 16_384
# Merging is quadratic in a piece's length: nobody's word is longer, and an attacker's is cut.
_LONGEST_PIECE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What a byte-pair tokenizer is made of.

    Args:
        tokens: By id, each a text over the 256 printable stand-ins of bytes.
        merges: Pairs of tokens that merge, the most urgent first, as `left right`.
        special: Ids of tokens that no text makes, such as the mark of an answer's end.
    """

    tokens: tuple[str, ...]
    merges: tuple[str, ...]
    special: frozenset[int]

    def to_json(self) -> bytes:
        """The form that a variant's folder keeps."""
        value = {
            "tokens": list(self.tokens),
            "merges": list(self.merges),
            "special": sorted(self.special),
        }
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_file(cls, path: Path) -> "Vocabulary":
        """Read what `to_json` wrote.

        Raises:
            ManifestError: It is no such file.
        """
        try:
            value = json.loads(path.read_bytes())
            return cls(
                tokens=tuple(value["tokens"]),
                merges=tuple(value["merges"]),
                special=frozenset(value["special"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ManifestError(f"{path} is no vocabulary ({error!r}): build the variant again") from error


class BytePairs:
    """The tokenizer. Safe to use from several threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._ids = {
            token: index for index, token in enumerate(vocabulary.tokens) if index not in vocabulary.special
        }
        self._special = {vocabulary.tokens[index]: index for index in vocabulary.special}
        self._ranks = {
            (left, right): rank
            for rank, (left, right) in enumerate(merge.split(" ") for merge in vocabulary.merges)
        }
        stand_ins = _stand_ins()
        self._encode_byte = stand_ins
        self._decode_char = {char: byte for byte, char in enumerate(stand_ins)}
        self._piece = lru_cache(_CACHED_PIECES)(self._merge)

    @property
    def size(self) -> int:
        """Number of token ids."""
        return len(self.vocabulary.tokens)

    def special(self, token: str) -> int:
        """The id of a special token.

        Raises:
            KeyError: There is none of that name.
        """
        return self._special[token]

    def encode(self, text: str) -> list[int]:
        """The text's token ids; special tokens are not among them."""
        ids: list[int] = []
        for piece in text_pieces(text):
            for start in range(0, len(piece), _LONGEST_PIECE):
                ids += self._piece(piece[start : start + _LONGEST_PIECE])
        return ids

    def bytes_of(self, token: int) -> bytes:
        """The bytes that a token stands for; none for a special one."""
        if token in self.vocabulary.special:
            return b""
        decode = self._decode_char
        return bytes(decode[char] for char in self.vocabulary.tokens[token])

    def decode(self, tokens: Iterable[int]) -> str:
        """The tokens' text; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.bytes_of, tokens)).decode("utf-8", "replace")

    def stream(self) -> "TextStream":
        """A decoder that takes tokens one by one."""
        return TextStream(self)

    def _merge(self, piece: str) -> tuple[int, ...]:
        chars = [self._encode_byte[byte] for byte in piece.encode("utf-8", "replace")]
        # A vocabulary may lack rare bytes; like the reference, leave them out before anything merges.
        parts = [char for char in chars if char in self._ids]
        while len(parts) > 1:
            ranks = [self._ranks.get(pair) for pair in pairwise(parts)]
            best = min((rank for rank in ranks if rank is not None), default=None)
            if best is None:
                break
            parts = _merge_all(parts, ranks, best)
        return tuple(self._ids[part] for part in parts)


class TextStream:
    """Text of tokens as they come: a character is given out when its last byte is there."""

    def __init__(self, pieces: BytePairs) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that this token completes."""
        return self._decoder.decode(self._pieces.bytes_of(token))

    def finish(self) -> str:
        """What is left: U+FFFD for a character that was cut off."""
        return self._decoder.decode(b"", True)


def _merge_all(parts: Sequence[str], ranks: Sequence[int | None], best: int) -> list[str]:
    merged: list[str] = []
    index = 0
    while index < len(parts):
        if index < len(ranks) and ranks[index] == best:
            merged.append(parts[index] + parts[index + 1])
            index += 2
        else:
            merged.append(parts[index])
            index += 1
    return merged


def _stand_ins() -> list[str]:
    """GPT-2's printable character for every byte: itself where it is printable, otherwise one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]
