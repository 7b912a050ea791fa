"""The experiment of the demo, and variants that behave like the ones it builds."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from anabranch.bandit.simulate import Arm
from anabranch.bandit.spec import Experiment
from anabranch.store.document import parse, read_document

_DEMO = Path(__file__).parents[2] / "examples" / "minilm-int8.yaml"


@pytest.fixture(scope="session")
def demo() -> Experiment:
    """The demo's experiment."""
    return parse(read_document(_DEMO.read_text()))


@pytest.fixture(scope="session")
def demo_arms() -> Mapping[str, Arm]:
    """Latency, accuracy and agreement as measured of the demo's variants, rounded."""
    return {
        "onnx-fp32": Arm(median_ms=14.0, accuracy=0.91),
        "onnx-fp16": Arm(median_ms=15.0, accuracy=0.91, agreement=0.995),
        "onnx-int8-dynamic": Arm(median_ms=8.5, accuracy=0.905, agreement=0.975),
        "onnx-int8-static": Arm(median_ms=8.0, accuracy=0.90, agreement=0.965),
        "onnx-mixed": Arm(median_ms=10.0, accuracy=0.908, agreement=0.985),
        "onnx-int8-static-kl": Arm(median_ms=8.0, accuracy=0.82, agreement=0.85),
    }
