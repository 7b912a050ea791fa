"""What runs on a GPU, against the FP32 graph on the CPU: `pytest -m gpu` on a machine with one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anabranch.variants.availability import available_recipes, cuda_devices
from anabranch.variants.build import build
from anabranch.variants.encoder_graph import EncoderShape
from anabranch.variants.formats import NumberFormat
from anabranch.variants.measure import run_all
from anabranch.variants.models import ModelSource, PreparedModel
from anabranch.variants.recipes import Device, Engine, Fp16, Fp32, VariantSpec
from anabranch.variants.runtime import load_variant
from anabranch.variants.sessions import OnnxSession
from anabranch.variants.torch_engine.artifact import write_encoder
from anabranch.variants.torch_engine.encoder import MERGED, EncoderModule
from anabranch.variants.torch_engine.graphs import GraphReplay
from anabranch.variants.torch_engine.linears import FloatLinear, float_dtype, pack_linear, unpack_linear
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


def _random_encoder(dtype: torch.dtype, width: int = 64) -> EncoderModule:
    """Heads of 32, as in most encoders: the kernels of ours take it."""
    layers = 2
    draws = torch.Generator().manual_seed(5)

    def normal(*shape: int, around: float = 0.0) -> Tensor:
        return (torch.randn(shape, generator=draws) * 0.1 + around).to(dtype)

    outputs = {
        MERGED: (3 * width, width),
        "attention.output": (width, width),
        "feedforward.up": (4 * width, width),
        "feedforward.down": (width, 4 * width),
    }
    linears: dict[str, nn.Module] = {
        f"layer.{layer}.{part}": FloatLinear(normal(*shape), normal(shape[0]))
        for layer in range(layers)
        for part, shape in outputs.items()
    }
    tables = {"word": 100, "position": 512, "token_type": 2}
    rest = {f"embeddings.{name}_embeddings.weight": normal(size, width) for name, size in tables.items()}
    norms = ["embeddings"] + [
        f"encoder.layer.{layer}.{part}" for layer in range(layers) for part in ("attention.output", "output")
    ]
    for name in norms:
        rest |= {
            f"{name}.LayerNorm.weight": normal(width, around=1.0),
            f"{name}.LayerNorm.bias": normal(width),
        }
    rest |= {"head.weight": normal(3, width).float(), "head.bias": normal(3).float()}
    return EncoderModule(EncoderShape(layers=layers, heads=width // 32, width=width), linears, rest)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("rows", "tokens"), [(1, 7), (3, 33), (5, 130), (64, 512), (128, 200), (130, 16)])
def test_fused_kernels_compute_what_the_plain_module_computes(
    dtype: torch.dtype, rows: int, tokens: int
) -> None:
    from anabranch.variants.torch_engine.fused import FusedEncoder, can_fuse

    module = _random_encoder(dtype).to("cuda")
    assert can_fuse(module)
    draws = torch.Generator().manual_seed(rows * tokens)
    ids = torch.randint(0, 100, (rows, tokens), generator=draws)
    lengths = torch.randint(1, tokens + 1, (rows, 1), generator=draws)
    mask = (torch.arange(tokens)[None] < lengths).long()
    exact = _random_encoder(dtype).float().to("cuda")
    with torch.inference_mode():
        expected, unit = exact(ids.cuda(), mask.cuda())
        replay = GraphReplay(FusedEncoder(module))
        for _ in range(2):
            logits, embedding = replay(ids, mask)
            assert (embedding * unit).sum(-1).min() > (0.9999 if dtype is torch.float16 else 0.999)
            np.testing.assert_allclose(logits.cpu(), expected.cpu(), atol=2e-2)


def _in_fp8(module: EncoderModule) -> tuple[EncoderModule, EncoderModule]:
    """The encoder with its products in FP8, in bfloat16 around them; and one of those weights in FP32."""
    coarse, exact = _random_encoder(torch.bfloat16, 128), _random_encoder(torch.bfloat16, 128).float()
    for name, linear in module.linears.items():
        assert isinstance(linear, FloatLinear)
        weight, bias = linear.weight.float().numpy(), linear.bias.float().numpy()
        tensors = pack_linear(NumberFormat.FP8, weight, bias, block_size=32)
        coarse.linears[name] = unpack_linear(NumberFormat.FP8, tensors, weight.shape[1])
        exact.linears[name] = FloatLinear(
            tensors["fp8"].float() * tensors["scales"][:, None], torch.from_numpy(bias)
        )
    return coarse, exact


@pytest.mark.parametrize("number_format", [NumberFormat.FP16, NumberFormat.BF16, NumberFormat.FP8])
@pytest.mark.parametrize(
    ("rows", "tokens"), [(1, 7), (3, 33), (20, 32), (32, 32), (32, 128), (64, 128), (130, 16), (3, 200)]
)
def test_chained_kernels_compute_what_the_plain_module_computes(
    number_format: NumberFormat, rows: int, tokens: int
) -> None:
    from anabranch.variants.torch_engine.chained import ChainedEncoder, can_chain

    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("the chain is for compute capability 9.x")
    if number_format is NumberFormat.FP8:
        module, exact = _in_fp8(_random_encoder(torch.float32, 128))
    else:
        module = _random_encoder(float_dtype(number_format), 128)
        exact = _random_encoder(float_dtype(number_format), 128).float()
    module, exact = module.to("cuda"), exact.to("cuda")
    assert can_chain(module)
    draws = torch.Generator().manual_seed(rows * tokens)
    ids = torch.randint(0, 100, (rows, tokens), generator=draws)
    lengths = torch.randint(1, tokens + 1, (rows, 1), generator=draws)
    mask = (torch.arange(tokens)[None] < lengths).long()
    least = {NumberFormat.FP16: 0.9999, NumberFormat.BF16: 0.999, NumberFormat.FP8: 0.99}[number_format]
    with torch.inference_mode():
        _, unit = exact(ids.cuda(), mask.cuda())
        replay = GraphReplay(ChainedEncoder(module, module))
        first = replay(ids, mask)[1].clone()
        for _ in range(20):
            assert torch.equal(replay(ids, mask)[1], first)
        assert (first * unit).sum(-1).min() > least
