import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.variants.llm.text_pieces import text_pieces


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # What `tokenizers` 0.23 makes of them with SmolLM2's pre-tokenizers.
        ("Hello world", ["Hello", " world"]),
        ("don't  we'll 'tis", ["don", "'t", " ", " we", "'ll", " '", "tis"]),
        ("a  b\n\n  c", ["a", " ", " b", "\n\n ", " c"]),
        ("x=12.5%, y²=½Ⅳ", ["x", "=", "1", "2", ".", "5", "%,", " y", "²", "=", "½", "Ⅳ"]),
        ("  lead", [" ", " lead"]),
        ("trail  ", ["trail", "  "]),
        ("\t\ttab\n", ["\t", "\t", "tab", "\n"]),
        ("naïve café — déjà", ["naïve", " café", " —", " déjà"]),
        ("日本語 text", ["日本語", " text"]),
        ("!!'s it's", ["!!'", "s", " it", "'s"]),
        ("\xa0nb \x1c sep", ["\xa0", "nb", " \x1c", " sep"]),
        ("a\u0301bc  9 9", ["a", "\u0301", "bc", "  ", "9", " ", "9"]),
        ("'re'LL", ["'re", "'", "LL"]),
        ("", []),
    ],
)
def test_text_is_cut_as_the_reference_cuts_it(text: str, expected: list[str]) -> None:
    assert text_pieces(text) == expected


@given(st.text(max_size=60))
def test_the_pieces_joined_are_the_text(text: str) -> None:
    assert "".join(text_pieces(text)) == text
