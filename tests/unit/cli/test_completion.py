import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer

from anabranch.cli import completion

Shell = Any


def asked(**given: object) -> typer.Context:
    return cast(typer.Context, SimpleNamespace(params=given))


@pytest.fixture
def built(tmp_path: Path) -> Path:
    for place in ("digits/onnx-fp32", "digits/onnx-int8-dynamic", "minilm/onnx-fp32", ".cache/x"):
        (tmp_path / "models" / place).mkdir(parents=True)
    return tmp_path / "models"


def test_names_and_candidates_come_from_the_store(shell: Shell, document_file: Path) -> None:
    shell("apply", "-f", str(document_file))
    assert completion.complete_name(asked(store=shell.url), "ti") == ["tiny"]
    assert completion.complete_name(asked(store=shell.url), "x") == []
    assert completion.complete_candidate(asked(store=shell.url, name="tiny"), "") == ["int8", "kl"]
    assert completion.complete_candidate(asked(store=shell.url, name="other"), "") == []


def test_models_and_variants_come_from_their_folder(built: Path) -> None:
    assert completion.complete_model(asked(models=built), "") == ["digits", "minilm"]
    assert completion.complete_variant(asked(models=built, model="digits"), "onnx-i") == ["onnx-int8-dynamic"]
    assert completion.complete_variant(asked(models=built), "") == []
    assert completion.complete_baseline(asked(models=built), "minilm=") == ["minilm=onnx-fp32"]


@pytest.mark.parametrize("url", ["sqlite:////nowhere/a.db", "postgresql://a@b/c", "nonsense"])
def test_a_store_that_cannot_be_read_completes_nothing(url: str) -> None:
    assert completion.complete_name(asked(store=url), "") == []


def test_a_damaged_database_completes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"not a database, but long enough to look like one" * 20)
    assert completion.complete_name(asked(store=f"sqlite:///{tmp_path}/a.db"), "") == []


def test_a_tab_loads_no_store() -> None:
    code = (
        "import sys, anabranch.cli.completion; print('sqlalchemy' in sys.modules, 'pydantic' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.split() == ["False", "False"]
