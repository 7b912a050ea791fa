"""Cut text into the pieces within which byte pairs may merge: words, single digits, runs of marks, white space.

Source:
    Radford et al. 2019, GPT-2's pattern, `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+`,
    applied after every numeric character was set apart, as SmolLM2's tokenizer does.
"""

import re
import unicodedata

# Unicode's White_Space property; `str.isspace` counts four control characters more.
_SPACES = frozenset("\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {
    chr(code) for code in range(0x2000, 0x200B)
}
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
# Over classes of characters: a blank, another space, a letter, a number, anything else.
_PIECE = re.compile(r"_?L+|N|_?O+|[_s]+(?![LO])|[_s]+")


def text_pieces(text: str) -> list[str]:
    """The pieces in order; joined, they are the text."""
    classes = "".join(map(_class, text))
    pieces: list[str] = []
    position = 0
    while position < len(text):
        end = _contraction_end(text, position) if text[position] == "'" else None
        if end is None:
            found = _PIECE.match(classes, position)
            # Every class begins an alternative.
            assert found is not None
            end = found.end()
        pieces.append(text[position:end])
        position = end
    return pieces


def _class(character: str) -> str:
    if character == " ":
        return "_"
    if character in _SPACES:
        return "s"
    category = unicodedata.category(character)[0]
    return category if category in "LN" else "O"


def _contraction_end(text: str, position: int) -> int | None:
    for contraction in _CONTRACTIONS:
        if text.startswith(contraction, position):
            return position + len(contraction)
    return None
