from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.variants.errors import ManifestError
from anabranch.variants.llm.byte_pairs import BytePairs, Vocabulary


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        # From `tokenizers` 0.23 with the same vocabulary.
        ("the other thing", [304, 316, 307, 71]),
        ("they're thinking 42 café", [304, 89, 7, 285, 307, 75, 274, 71, 221, 20, 18, 296, 261]),
        ("日本 vu\n", [293, 289, 251, 106, 301, 199]),
        ("🎉the", [173, 254, 237, 232, 304]),
        ("", []),
    ],
)
def test_ids_equal_the_reference_tokenizer(pieces: BytePairs, text: str, ids: list[int]) -> None:
    assert pieces.encode(text) == ids


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_ids_decode_to_the_text(pieces: BytePairs, text: str) -> None:
    assert pieces.decode(pieces.encode(text)) == text


def test_a_special_token_written_in_a_text_stays_text(pieces: BytePairs) -> None:
    ids = pieces.encode("<|end|>")
    assert pieces.special("<|end|>") not in ids
    assert pieces.decode(ids) == "<|end|>"


def test_a_special_token_has_no_bytes(pieces: BytePairs) -> None:
    assert pieces.bytes_of(pieces.special("<|end|>")) == b""


def test_a_byte_that_the_vocabulary_lacks_is_left_out_before_anything_merges(
    vocabulary: Vocabulary,
) -> None:
    tokens = ["(gone)" if token == "q" else token for token in vocabulary.tokens]
    without = BytePairs(replace(vocabulary, tokens=tuple(tokens)))
    assert without.decode(without.encode("tqhe")) == "the"
    assert without.encode("tqhe") == without.encode("the")


def test_a_piece_that_is_long_beyond_reason_is_cut(pieces: BytePairs) -> None:
    text = "th" * 20_000
    assert pieces.decode(pieces.encode(text)) == text


def test_a_stream_gives_a_character_out_when_its_last_byte_is_there(pieces: BytePairs) -> None:
    stream = pieces.stream()
    tokens = pieces.encode("🎉é")
    given = [stream.push(token) for token in tokens]
    assert "".join(given) + stream.finish() == "🎉é"
    assert given[:3] == ["", "", ""]


def test_a_character_that_was_cut_off_ends_a_stream_as_a_replacement(pieces: BytePairs) -> None:
    stream = pieces.stream()
    assert stream.push(pieces.encode("🎉")[0]) == ""
    assert stream.finish() == "\ufffd"


def test_a_vocabulary_survives_its_file(vocabulary: Vocabulary, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_bytes(vocabulary.to_json())
    assert Vocabulary.from_file(path) == vocabulary


@pytest.mark.parametrize("data", [b"", b"[]", b'{"tokens": []}'])
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_bytes(data)
    with pytest.raises(ManifestError, match="is no vocabulary"):
        Vocabulary.from_file(path)
