import json
from pathlib import Path

import pytest

from anabranch.variants.build import build
from anabranch.variants.errors import VariantError
from anabranch.variants.models import ModelSource
from anabranch.variants.profiling import profile_variant


@pytest.mark.parametrize(("variant", "operator"), [("onnx-fp32", "MatMul"), ("torch-fp32", "aten::linear")])
def test_a_trace_holds_every_operator_of_every_call(
    tiny_source: ModelSource, tmp_path: Path, variant: str, operator: str
) -> None:
    build(tiny_source, [variant], tmp_path, threads=1)
    target = tmp_path / "traces" / "trace.json"
    traced = profile_variant(tmp_path / "tiny" / variant, target, batch=2, calls=3)
    assert (traced.variant, traced.rows, traced.calls, traced.trace) == (variant, 2, 3, target)
    assert traced.call_ms > 0
    content = json.loads(target.read_text())
    events = content if isinstance(content, list) else content["traceEvents"]
    found = [event for event in events if operator in json.dumps(event.get("args", {})) + event["name"]]
    assert len(found) >= 3


def test_what_cannot_be_traced_is_refused(tiny_source: ModelSource, tmp_path: Path) -> None:
    build(tiny_source, ["onnx-fp32"], tmp_path, threads=1)
    with pytest.raises(VariantError, match="batch is 0 and calls is 20, both must be at least 1"):
        profile_variant(tmp_path / "tiny" / "onnx-fp32", tmp_path / "x.json", batch=0)
