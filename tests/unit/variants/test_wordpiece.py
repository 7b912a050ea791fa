import json
from pathlib import Path

import pytest

from anabranch.variants.errors import VariantError
from anabranch.variants.manifest import Manifest
from anabranch.variants.wordpiece import WordPiece

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##believ", "##able", "film", "!", "中"]


def test_ids_equal_the_reference_tokenizer_on_sentences_and_edge_cases(
    test_data: Path, minilm: dict[str, Manifest], minilm_root: Path
) -> None:
    golden = json.loads((test_data / "wordpiece_golden.json").read_text())
    vocabulary = minilm_root / "minilm" / "onnx-fp32" / "vocab.txt"
    pieces = WordPiece.from_file(vocabulary, max_tokens=golden["max_tokens"])
    different = [case["text"] for case in golden["cases"] if pieces.encode(case["text"]) != case["ids"]]
    assert len(golden["cases"]) == 90
    assert different == []


def test_a_word_is_split_into_the_longest_known_pieces() -> None:
    assert WordPiece(WORDS, max_tokens=16).encode("Unbelievable film!") == [2, 4, 5, 6, 7, 8, 3]


def test_a_word_with_an_unknown_part_is_unknown_as_a_whole() -> None:
    assert WordPiece(WORDS, max_tokens=16).encode("unfilm") == [2, 1, 3]


def test_a_chinese_character_stands_alone() -> None:
    assert WordPiece(WORDS, max_tokens=16).encode("film中film") == [2, 7, 9, 7, 3]


def test_a_marker_written_in_the_text_is_plain_text() -> None:
    assert 3 not in WordPiece(WORDS, max_tokens=16).encode("[SEP]")[:-1]


def test_a_long_text_is_cut_and_still_ends_with_its_marker() -> None:
    assert WordPiece(WORDS, max_tokens=5).encode("film " * 9) == [2, 7, 7, 7, 3]


def test_a_vocabulary_without_markers_is_refused() -> None:
    with pytest.raises(VariantError, match=r"\[CLS\]"):
        WordPiece(["a", "b"], max_tokens=8)


def test_a_limit_below_the_two_markers_is_refused() -> None:
    with pytest.raises(VariantError, match="at least 2"):
        WordPiece(WORDS, max_tokens=1)
