import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from anabranch.variants.errors import VariantError
from anabranch.variants.exported_programs import clean_archive, onnx_of_program, read_program
from anabranch.variants.onnx_recipes import OnnxBuilder
from anabranch.variants.own_models import source_from_onnx
from anabranch.variants.recipes import Int8Dynamic
from anabranch.variants.sessions import OnnxSession


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 16)
        self.outer = nn.Linear(16, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.outer(torch.relu(self.inner(features)))
        return scores


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(3)
    return Classifier().eval()


@pytest.fixture(scope="module")
def archive(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "classifier.pt2"
    rows = torch.export.Dim("rows")
    program = torch.export.export(
        classifier, (torch.zeros(2, 8),), dynamic_shapes={"features": {0: rows}}, strict=False
    )
    torch.export.save(program, str(path))
    return path


def rewritten(archive: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """The archive with records changed, or left out."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as written:
        for name in source.namelist():
            content = change(name.partition("/")[2], source.read(name))
            if content is not None:
                written.writestr(name, content)
    return target


def edited(archive: Path, target: Path, record: str, change: Callable[[Any], None]) -> Path:
    def one(name: str, content: bytes) -> bytes:
        if name != record:
            return content
        document = json.loads(content)
        change(document)
        return json.dumps(document).encode()

    return rewritten(archive, target, one)


def test_a_program_becomes_a_graph_that_says_the_same(
    classifier: Classifier, archive: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    onnx_of_program(archive, tmp_path / "m.onnx", told.append)
    session = OnnxSession(tmp_path / "m.onnx")
    [given] = session.inputs
    assert (given.name, given.shape) == ("features", (-1, 8))
    features = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    [found] = session.run({"features": features}).values()
    with torch.no_grad():
        expected = classifier(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # The exporter writes linear layers as Gemm, which ONNX Runtime's quantizer renames.
    prepared = source_from_onnx(tmp_path / "m.onnx", "m").prepare(tmp_path, told.append)
    quantized = OnnxBuilder(prepared).build(Int8Dynamic())
    assert [node.op_type for node in quantized.graph.node].count("MatMulInteger") == 2
    assert told[:2] == ["read classifier.pt2", "translate classifier.pt2 to ONNX"]


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was loaded",)


def test_the_pickle_of_sample_inputs_is_never_read(archive: Path, tmp_path: Path) -> None:
    path = rewritten(
        archive,
        tmp_path / "x.pt2",
        lambda name, content: pickle.dumps(Evil()) if name.startswith("data/sample_inputs") else content,
    )
    assert read_program(path).example_inputs is None


def test_a_tensor_that_is_kept_as_a_pickle_is_refused(archive: Path, tmp_path: Path) -> None:
    def change(document: Any) -> None:
        document["config"]["inner.weight"]["use_pickle"] = True

    path = edited(archive, tmp_path / "x.pt2", "data/weights/model_weights_config.json", change)
    with pytest.raises(VariantError, match=r"inner\.weight is kept as a pickle, which is never loaded"):
        read_program(path)


@pytest.mark.parametrize(
    "target",
    ["torch.os.system", "torch.load", "_operator.call", "math.os", "#mine", "torch.ops.mine.run.default"],
)
def test_what_is_no_operator_of_torch_is_not_called(archive: Path, tmp_path: Path, target: str) -> None:
    def change(document: Any) -> None:
        document["graph_module"]["graph"]["nodes"][0]["target"] = target

    with pytest.raises(VariantError, match="is no operator of torch's own"):
        clean_archive(edited(archive, tmp_path / "x.pt2", "models/model.json", change))


@pytest.mark.parametrize(
    "size",
    [
        "__import__('os').system('true')",
        "s97.__class__",
        "Symbol('s97').__init__",
        "[x for x in (1,)]",
        "open('s97')",
        "(lambda: 1)()",
        "Symbol('import os')",
        "",
    ],
)
def test_a_size_that_is_no_arithmetic_is_not_evaluated(archive: Path, tmp_path: Path, size: str) -> None:
    def change(document: Any) -> None:
        value = document["graph_module"]["graph"]["tensor_values"]["features"]
        value["sizes"][0]["as_expr"]["expr_str"] = size

    with pytest.raises(VariantError, match="which is no arithmetic"):
        clean_archive(edited(archive, tmp_path / "x.pt2", "models/model.json", change))


def test_code_that_checks_inputs_is_left_out(archive: Path, tmp_path: Path) -> None:
    def change(document: Any) -> None:
        document["guards_code"] = ["pytest.fail('guards were run')"]

    path = edited(archive, tmp_path / "x.pt2", "models/model.json", change)
    with zipfile.ZipFile(clean_archive(path)) as clean:
        [graph] = [name for name in clean.namelist() if name.endswith("models/model.json")]
        assert json.loads(clean.read(graph))["guards_code"] == []


def test_other_archives_are_refused_with_what_to_do(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pt2").write_text("no archive")
    torch.save({"a": torch.zeros(1)}, tmp_path / "saved.pt2")
    compiled = rewritten(archive, tmp_path / "compiled.pt2", lambda _, content: content)
    with zipfile.ZipFile(compiled, "a") as more:
        more.writestr("m/data/aotinductor/model/x.so", b"\x7fELF")
    for name, problem in (
        ("text", "is no torch.export program"),
        ("saved", "holds 0 programs, must hold one"),
        ("compiled", "holds compiled code"),
        ("missing", "is no torch.export program"),
    ):
        with pytest.raises(VariantError, match=problem):
            clean_archive(tmp_path / f"{name}.pt2")
