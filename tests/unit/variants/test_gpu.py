"""What runs on a GPU, against the FP32 graph on the CPU: `pytest -m gpu` on a machine with one."""

from pathlib import Path

import numpy as np
import pytest

from anabranch.variants.availability import available_recipes, cuda_devices
from anabranch.variants.build import build
from anabranch.variants.measure import run_all
from anabranch.variants.models import ModelSource, PreparedModel
from anabranch.variants.recipes import Device, Engine, Fp16, Fp32, VariantSpec
from anabranch.variants.runtime import load_variant
from anabranch.variants.sessions import OnnxSession
from anabranch.variants.torch_engine.artifact import write_encoder
from anabranch.variants.torch_engine.session import TorchSession

pytestmark = pytest.mark.gpu
_SPECS = [
    status.spec for status in available_recipes() if status.spec.device is Device.CUDA and status.runs_here
]
# Formats of few bits: computed on a CPU, a random encoder is as far off.
_COARSE = ("int4", "fp8")


def test_there_is_a_gpu_and_both_runtimes_use_it() -> None:
    assert cuda_devices() > 0
    engines = {spec.engine for spec in _SPECS}
    assert engines == set(Engine) & {Engine.ONNX, Engine.TORCH, Engine.TORCH_COMPILE}


@pytest.mark.parametrize("spec", _SPECS, ids=lambda spec: spec.name)
def test_a_variant_on_the_gpu_answers_as_the_reference_on_the_cpu(
    tiny_source: ModelSource, tmp_path: Path, spec: VariantSpec
) -> None:
    [manifest] = build(tiny_source, [spec], tmp_path, threads=1)
    assert manifest.device is Device.CUDA
    assert manifest.parity is not None
    assert manifest.parity.cosine_min > (0.9 if any(bits in spec.name for bits in _COARSE) else 0.98)
    load_variant(tmp_path / "tiny" / spec.name).warm()


def test_recorded_graphs_give_every_shape_its_own_answer(tiny_encoder: PreparedModel, tmp_path: Path) -> None:
    path = tmp_path / "x"
    for recipe in (Fp32(), Fp16()):
        spec = VariantSpec(engine=Engine.TORCH_COMPILE, recipe=recipe, device=Device.CUDA)
        write_encoder(tiny_encoder, spec, path)
        session = TorchSession(path, device=Device.CUDA, is_compiled=True)
        expected = OnnxSession(tiny_encoder.graph.SerializeToString())
        for _ in range(2):
            for count in (1, 3, 20):
                requests = tiny_encoder.evaluation[:count]
                np.testing.assert_allclose(
                    run_all(session, requests)["logits"],
                    run_all(expected, requests)["logits"],
                    atol=1e-3 if recipe == Fp32() else 5e-2,
                )
