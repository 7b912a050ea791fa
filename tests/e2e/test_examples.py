"""The programs in `examples/`, run as a reader would, against real servers."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
Serve = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Wait = Callable[..., None]


def example(name: str, *arguments: object, code: int = 0) -> str:
    """Run an example and return what it printed."""
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == code, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture
def minilm(serve: Serve, minilm_models: Path) -> Any:
    return serve(models=minilm_models, baseline="minilm=onnx-fp32")


def test_text_and_tensors_are_understood_from_a_standard_client_and_feedback_is_taken(
    minilm: Any, experiment: Make, wait_until: Wait
) -> None:
    texts = ["A wonderful film, warm and funny.", "A dull, lifeless mess. I left after an hour."]
    lines = [line.split("\t") for line in example("infer_text.py", minilm.address, *texts).splitlines()]
    assert [line[0] for line in lines] == ["1", "0"]
    assert [line[1:] for line in lines] == [["onnx-fp32", "-", text] for text in texts]

    document = experiment("texts", ["onnx-int8-dynamic"], [{"setWeight": 50}, {"pause": {}}])
    document["spec"] |= {"model": "minilm", "baseline": "onnx-fp32"}
    document["spec"]["metrics"].append({"name": "accuracy", "source": "feedback.correct", "role": "signal"})
    minilm.apply(document)
    wait_until(lambda: minilm.experiment("texts").state.epoch > 0, "the split is in force")
    asked = example("infer_text.py", minilm.address, *texts * 10)
    lines = [line.split("\t") for line in asked.splitlines()]
    assert {line[1] for line in lines} <= {"onnx-fp32", "onnx-int8-dynamic"}
    ids = [line[2] for line in lines if line[2] != "-"]
    assert ids

    said = example("send_feedback.py", minilm.address, 1, *ids)
    assert said.splitlines() == [f"accepted\t{given}" for given in ids]
    refused = example("send_feedback.py", minilm.address, 1, ids[0][::-1], code=1)
    assert refused.startswith("refused: assignment_id was not given out by this installation")

    tensors = example("infer_tensors.py", minilm.address).splitlines()
    assert tensors[0] == "variants: onnx-fp32, onnx-int8-dynamic, onnx-int8-static-kl"
    assert len(tensors) == 5
    for line in tensors[2:]:
        assert "onnx-fp32 answers [1, 0]" in line


def test_an_own_onnx_file_is_built_served_tested_and_replaced(
    serve: Serve, wait_until: Wait, tmp_path: Path
) -> None:
    example("own_model.py", "write", tmp_path / "quadrants.onnx")
    models = tmp_path / "models"
    build = [sys.executable, "-m", "anabranch.cli.main", "build", str(tmp_path / "quadrants.onnx")]
    build += ["--variant", "onnx-fp32", "--variant", "onnx-int8-dynamic", "--models", str(models)]
    built = subprocess.run(build, capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert built.returncode == 0, built.stderr
    assert "onnx-int8-dynamic" in built.stdout

    served = serve(models=models, baseline="quadrants=onnx-fp32", tick=0.2)
    served.cli("apply", "-f", str(EXAMPLES / "own-model.yaml"))
    wait_until(lambda: served.phase("quadrants-int8") == "Progressing", "the experiment begins")
    said = example("own_model.py", "ask", served.address, 5_000)
    right = int(said.split()[0])
    assert right > 4_800
    assert served.until_over("quadrants-int8") == "Promoted", served.cli("describe", "quadrants-int8")
    assert "Promoted" in served.cli("get", "quadrants-int8")
