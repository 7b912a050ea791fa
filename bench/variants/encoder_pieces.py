"""What bounds the encoder on a GPU, piece by piece: each product and kernel several ways, then the whole in one graph.

    python bench/variants/encoder_pieces.py [--commit ID] [--output FILE]

Prints JSON lines: the machine; microseconds a launch inside a CUDA graph for each piece and way at 32 x 128 tokens and a
width of 384; microseconds of the whole encoder by shape. What the libraries refuse is told. Weights are random.
"""

import argparse
import itertools
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cublaslt import Then, products  # type: ignore[import-not-found]
from encoder import machine  # type: ignore[import-not-found]  # they lie beside this script
from gpu_floor import LAYERS, PRODUCTS, WIDTH, device_s  # type: ignore[import-not-found]
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from anabranch.variants.encoder_graph import EncoderShape
from anabranch.variants.recipes import Device
from anabranch.variants.torch_engine import chain_kernels, chained, kernels
from anabranch.variants.torch_engine.chained import ChainedEncoder
from anabranch.variants.torch_engine.encoder import EncoderModule
from anabranch.variants.torch_engine.fused import PARTS, FusedEncoder
from anabranch.variants.torch_engine.linears import FloatLinear, Fp8Linear

ROWS, TOKENS, HEADS, WORDS = 32, 128, 12, 30_522
SHAPES = ((1, 32), (8, 32), (32, 32), (1, 128), (32, 128), (128, 128))
_COPIES = 20
_FP8 = torch.float8_e4m3fn
Way = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commit", help="what is measured, where there is no git")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    lines: list[str] = []

    def say(kind: str, **fields: Any) -> None:
        lines.append(json.dumps({"kind": kind, **fields}) + "\n")
        print(lines[-1], end="", flush=True)
        if options.output:
            options.output.write_text("".join(lines))

    say("machine", **machine(Device.CUDA, options.commit))
    with torch.inference_mode():
        for part, (outputs, inputs) in zip(PARTS, PRODUCTS, strict=True):
            for how, run in _products(outputs, inputs, part == "feedforward.up").items():
                say("piece", piece=part, how=how, **_timed(run))
            for how, times in _algorithms(outputs, inputs).items():
                say(
                    "piece", piece=part, how=how, us=min(times), by_default_us=times[0], algorithms=len(times)
                )
        for how, run in _attentions().items():
            say("piece", piece="attention", how=how, **_timed(run))
        say("piece", piece="norm", how="ours", **_timed(_norm()))
        for rows, tokens in SHAPES:
            for how, run in _wholes(rows, tokens).items():
                say("whole", rows=rows, tokens=tokens, how=how, **_timed(run, 1))


def _timed(run: Way, copies: int = _COPIES) -> dict[str, Any]:
    try:
        for _ in range(2):
            run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(copies):
                run()
        return {"us": round(1e6 * device_s(graph.replay) / copies, 2)}
    except (RuntimeError, ValueError) as error:
        torch.cuda.synchronize()
        return {"refused": str(error).splitlines()[0][:120]}


def _products(outputs: int, inputs: int, is_up: bool) -> dict[str, Way]:
    """One product of the encoder by torch, with operands of several formats."""
    source, weight, bias = _operands(outputs, inputs)
    halves = source.half(), weight.half().t(), bias.half()
    eighths = source.to(_FP8), weight.to(_FP8).t()
    bytes_ = (source * 20).to(torch.int8), (weight * 300).to(torch.int8).t()
    one = torch.ones((), device="cuda")
    of_row, of_column = torch.ones(len(source), 1, device="cuda"), torch.ones(1, outputs, device="cuda")

    def scaled(first: Tensor, second: Tensor, dtype: torch.dtype, *, fast: bool) -> Way:
        return lambda: torch._scaled_mm(
            *eighths, scale_a=first, scale_b=second, out_dtype=dtype, use_fast_accum=fast
        )

    ways: dict[str, Way] = {
        "fp16": lambda: torch.mm(*halves[:2]),
        "fp16, bias": lambda: torch.addmm(halves[2], *halves[:2]),
        "fp8 to bf16, one scale": scaled(one, one, torch.bfloat16, fast=True),
        "fp8 to bf16, one scale, exact sums": scaled(one, one, torch.bfloat16, fast=False),
        "fp8 to fp8, one scale": scaled(one, one, _FP8, fast=True),
        "fp8 to bf16, a scale a row": scaled(of_row, of_column, torch.bfloat16, fast=True),
        "int8 to int32": lambda: torch._int_mm(*bytes_),
    }
    if is_up:
        ways["fp16, bias and GELU"] = lambda: torch._addmm_activation(halves[2], *halves[:2], use_gelu=True)
    for cut in ("out", "up", "down"):
        tile = getattr(chained._TILES[0], cut)
        for name, operand, scales in (("fp16", halves[0], None), ("fp8", eighths[0], of_column.flatten())):
            product = chained._Product(weight.to(operand.dtype), scales, bias)
            to = operand.dtype if is_up or scales is None else torch.bfloat16
            ways[f"{name}, bias{' and GELU' if is_up else ''}, ours, cut as {cut}"] = partial(
                chained._multiply, product, operand, to, tile, gelu=is_up
            )
    return ways


def _operands(outputs: int, inputs: int) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.randn(ROWS * TOKENS, inputs, device="cuda")
    return source, torch.randn(outputs, inputs, device="cuda") * 0.05, torch.randn(outputs, device="cuda")


def _algorithms(outputs: int, inputs: int) -> dict[str, list[float]]:
    """Times of one product by all that the vendor's library offers for it, its first choice first."""
    source, weight, bias = _operands(outputs, inputs)
    found: dict[str, list[float]] = {}
    followers = (Then.BIAS, Then.BIAS_AND_GELU) if outputs == 4 * WIDTH else (Then.BIAS,)
    for (name, dtype), then in itertools.product((("fp16", torch.float16), ("fp8 to fp16", _FP8)), followers):
        ways = products(weight.to(dtype), source.to(dtype), bias.half(), then)
        times = [_timed(run) for run in ways]
        words = then.name.lower().replace("_", " ")
        found[f"{name}, {words}, the library's best"] = [each["us"] for each in times if "us" in each]
    return found


def _attentions() -> dict[str, Way]:
    packed = torch.randn(ROWS * TOKENS, 3 * WIDTH, device="cuda").half()
    mask = torch.ones(ROWS, TOKENS, dtype=torch.int32, device="cuda")
    mixed = torch.empty(ROWS * TOKENS, WIDTH, device="cuda").half()
    size = WIDTH // HEADS
    parts = packed.view(ROWS, TOKENS, 3, HEADS, size).unbind(2)
    query, key, value = (part.transpose(1, 2) for part in parts)
    padding = torch.zeros(ROWS, 1, 1, TOKENS, device="cuda").half()

    def ours() -> None:
        kernels.attention[(ROWS * HEADS, TOKENS // 64)](
            *(packed, mask, mixed, TOKENS, math.log2(math.e) / math.sqrt(size)),
            HEADS=HEADS,
            SIZE=size,
            QUERIES=64,
            KEYS=64,
            num_warps=4,
            num_stages=1,
        )

    def by_torch(backend: SDPBackend, seen: Tensor | None) -> Way:
        def run() -> None:
            with sdpa_kernel(backend):
                functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)

        return run

    ways: dict[str, Way] = {"ours, masked": ours}
    for backend, seen in itertools.product(
        (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION),
        (None, padding),
    ):
        ways[f"torch, {backend.name.lower()}{'' if seen is None else ', masked'}"] = by_torch(backend, seen)
    return ways


def _norm() -> Way:
    change, residual = (torch.randn(ROWS * TOKENS, WIDTH, device="cuda").half() for _ in range(2))
    module = _random_encoder(torch.float16)
    encoder = FusedEncoder(module)
    return lambda: encoder._norm(change, residual, "embeddings.LayerNorm")


def _wholes(rows: int, tokens: int) -> dict[str, Way]:
    """The encoder in one graph, without copies: by the vendor's products, and as a chain with and without early launches."""
    ids = torch.randint(0, WORDS, (rows, tokens), device="cuda", dtype=torch.int32)
    mask = torch.ones_like(ids)
    half = _random_encoder(torch.float16)
    plain = FusedEncoder(half)
    ways: dict[str, Way] = {"fp16, the vendor's products": lambda: plain(ids, mask)}
    for name, module in (("fp16", half), ("fp8", _random_encoder(_FP8))):
        encoder = ChainedEncoder(module, plain)
        ways[f"{name}, a chain"] = partial(encoder, ids, mask)
        ways[f"{name}, a chain, each launched after the one before"] = _late(partial(encoder, ids, mask))
    return ways


class _Late:
    """A kernel that is launched when the one before it has ended."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Way:
        return lambda *given, **options: self._kernel[grid](*given, **options | {"launch_pdl": False})


def _late(run: Way) -> Way:
    early = (
        (chain_kernels, "multiply_and_attend"),
        (chain_kernels, "multiply"),
        (kernels, "add_and_norm"),
        (kernels, "pool"),
    )

    def call() -> None:
        kept = [getattr(module, name) for module, name in early]
        for (module, name), kernel in zip(early, kept, strict=True):
            setattr(module, name, _Late(kernel))
        try:
            run()
        finally:
            for (module, name), kernel in zip(early, kept, strict=True):
                setattr(module, name, kernel)

    return call


def _random_encoder(dtype: torch.dtype) -> EncoderModule:
    rest = torch.bfloat16 if dtype is _FP8 else dtype

    def normal(*shape: int, around: float = 0.0) -> Tensor:
        return (torch.randn(shape, device="cuda") * 0.05 + around).to(rest)

    def linear(outputs: int, inputs: int) -> nn.Module:
        if dtype is _FP8:
            scales = torch.full((outputs,), 1 / 2048, device="cuda")
            return Fp8Linear((normal(outputs, inputs) * 2048).to(_FP8), scales, normal(outputs).float())
        return FloatLinear(normal(outputs, inputs), normal(outputs))

    linears = {
        f"layer.{layer}.{part}": linear(*shape)
        for layer in range(LAYERS)
        for part, shape in zip(PARTS, PRODUCTS, strict=True)
    }
    tables = {"word": WORDS, "position": 512, "token_type": 2}
    tensors = {f"embeddings.{name}_embeddings.weight": normal(size, WIDTH) for name, size in tables.items()}
    norms = [
        f"encoder.layer.{layer}.{part}" for layer in range(LAYERS) for part in ("attention.output", "output")
    ]
    for name in ("embeddings", *norms):
        tensors[f"{name}.LayerNorm.weight"] = normal(WIDTH, around=1.0)
        tensors[f"{name}.LayerNorm.bias"] = normal(WIDTH)
    tensors |= {"head.weight": normal(2, WIDTH).float(), "head.bias": normal(2).float()}
    return EncoderModule(EncoderShape(layers=LAYERS, heads=HEADS, width=WIDTH), linears, tensors).to("cuda")


if __name__ == "__main__":
    main()
