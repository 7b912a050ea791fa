"""A variant that failed the offline gate may be a candidate only by force, and the audit log says so."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from anabranch.bandit.verdicts import Outcome
from anabranch.variants.gate import GateVerdict
from anabranch.variants.judging import judge_agreement
from anabranch.variants.manifest import save_manifest
from anabranch.variants.own_models import import_onnx

Shell = Any


def _verdict(changed: float) -> GateVerdict:
    reference = np.zeros(1_000, np.int64)
    found = (np.arange(1_000) < 1_000 * changed).astype(np.int64)
    return judge_agreement(reference, found)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Variants of the document's model: int8 failed the gate, kl did not."""
    body = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="linear")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.ones((4, 3), np.float32), "w")],
    )
    onnx.save(
        helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10),
        tmp_path / "m.onnx",
    )
    root = tmp_path / "models"
    for variant, changed in (("int8", 0.3), ("kl", 0.0)):
        manifest = import_onnx(tmp_path / "m.onnx", "digits", variant, root)
        save_manifest(replace(manifest, gate=_verdict(changed)), root / "digits" / variant)
    return root


def test_a_candidate_that_failed_the_gate_is_refused(shell: Shell, document_file: Path, models: Path) -> None:
    assert _verdict(0.3).outcome is Outcome.FAIL
    ran = shell("apply", "-f", str(document_file), "--models", str(models))
    assert ran.code == 5
    assert "int8 failed the offline gate: agreement -30.00 points" in ran.err
    assert "kl" not in ran.err
    assert "say --force" in ran.err
    assert not shell.database.exists()


def test_a_candidate_is_let_in_by_force_and_the_audit_log_says_so(
    shell: Shell, document_file: Path, models: Path
) -> None:
    ran = shell("apply", "-f", str(document_file), "--models", str(models), "--force")
    assert ran.code == 0
    [event] = shell.store().events()
    assert event.detail == "spec version 1; gate overridden for int8"


def test_force_without_a_failed_gate_leaves_no_remark(
    shell: Shell, document_file: Path, tmp_path: Path
) -> None:
    assert shell("apply", "-f", str(document_file), "--models", str(tmp_path), "--force").code == 0
    [event] = shell.store().events()
    assert event.detail == "spec version 1"
