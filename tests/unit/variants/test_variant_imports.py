import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("runtime", ["torch", "onnx", "scipy", "tokenizers", "safetensors"]),
        ("batcher", ["torch", "onnx", "onnxruntime", "pydantic"]),
        ("build", ["torch", "tokenizers", "safetensors"]),
        ("recipes", ["torch", "onnx", "onnxruntime", "numpy"]),
    ],
)
def test_a_module_does_not_load_what_it_does_not_need(module: str, absent: list[str]) -> None:
    code = (
        f"import sys, anabranch.variants.{module}; print(*[name for name in {absent} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
