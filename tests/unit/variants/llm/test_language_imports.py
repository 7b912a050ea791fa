import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        # What a worker loads to serve: nothing that only builds need.
        ("llm.generator", ["torch", "onnx", "scipy"]),
        ("llm.pool", ["torch", "onnx", "onnxruntime", "scipy"]),
        ("llm.build", ["torch", "tokenizers", "safetensors"]),
        ("llm.recipes", ["torch", "onnx", "onnxruntime"]),
    ],
)
def test_a_module_does_not_load_what_it_does_not_need(module: str, absent: list[str]) -> None:
    code = (
        f"import sys, anabranch.variants.{module}; print(*[name for name in {absent} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
