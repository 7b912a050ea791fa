import json
import sys
from pathlib import Path

import pytest

from anabranch.variants.datasets import LabelledText, labelled_texts
from anabranch.variants.errors import VariantError
from anabranch.variants.factories import source_from_factory

TEXTS = (LabelledText(text="fine, really", label=1), LabelledText(text="dull", label=0))


def _write(folder: Path, name: str) -> Path:
    rows = [{"text": "fine, really", "label": "pos"}, {"text": "dull", "label": "neg"}]
    path = folder / name
    if name.endswith(".csv"):
        path.write_text('label,text\npos,"fine, really"\nneg,dull\n')
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "T.CSV"])
def test_files_of_two_columns_are_read(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path, name.lower()).rename(tmp_path / name)
    assert labelled_texts(str(path)) == TEXTS


def test_a_function_that_yields_pairs_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_texts_a.py").write_text(
        "def pairs():\n    yield 'fine, really', 1\n    yield 'dull', 0\ndef bad():\n    yield 'x'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert labelled_texts("my_texts_a:pairs") == TEXTS
    with pytest.raises(VariantError, match="must yield pairs"):
        labelled_texts("my_texts_a:bad")
    with pytest.raises(VariantError, match="has no 'absent'"):
        labelled_texts("my_texts_a:absent")
    with pytest.raises(VariantError, match="cannot import my_absent_module"):
        labelled_texts("my_absent_module:pairs")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", "text,label\na,x\n", r"1 classes \(x\), must have 2"),
        ("t.csv", "words,label\na,x\n", r"row 1 has the columns \['label', 'words'\]"),
        ("t.jsonl", "no json\n", "cannot be read"),
        ("t.txt", "a", "must end with .csv, .jsonl or .parquet"),
    ],
)
def test_what_is_no_set_of_texts_is_refused(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(VariantError, match=said):
        labelled_texts(str(tmp_path / name))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VariantError, match="or MODULE:FUNCTION"):
        labelled_texts(str(tmp_path / "absent.csv"))


def test_parquet_without_its_reader_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(VariantError, match="pip install pyarrow"):
        labelled_texts(str(tmp_path / "t.parquet"))


def test_a_factory_must_return_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_model_a.py").write_text(
        "from anabranch.variants.models import ModelSource\n"
        "def make():\n    return ModelSource(name='mine', identity={}, prepare=None)\n"
        "def wrong():\n    return 3\nnumber = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert source_from_factory("my_model_a:make").name == "mine"
    with pytest.raises(VariantError, match="returns a int, must return"):
        source_from_factory("my_model_a:wrong")
    with pytest.raises(VariantError, match="is a int, must be a function"):
        source_from_factory("my_model_a:number")
