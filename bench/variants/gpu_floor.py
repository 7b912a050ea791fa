"""What bounds the encoder on a GPU, measured there: matrix rates, bandwidth, and the encoder's own products alone.

Two floors. The first is arithmetic over the rate of a very large product, or bytes over the bandwidth: no program beats
it. The second is the time of the encoder's own products, by the vendor's library, one after the other in one CUDA graph:
their shapes do not fill the chip, and a program that multiplies by that library cannot be faster.
"""

from collections.abc import Callable
from typing import Any

from anabranch.variants.recipes import Engine
from anabranch.variants.tensors import Request

LAYERS, WIDTH = 6, 384
# Outputs and inputs of a layer's products.
PRODUCTS = ((3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH))
_REPEATS = 30
_TOP_KERNELS = 8


def over_floors(
    name: str, rows: int, tokens: int, p50_ms: float, rates: dict[str, float]
) -> dict[str, float]:
    """A variant's two floors for a shape, and how many times as long it takes."""
    number_format, weight_bytes = _format(name)
    floor_ms = _floor_ms(rows, tokens, rates[number_format], weight_bytes, rates["bytes"])
    line = {"floor_ms": round(floor_ms, 4), "over_floor": round(p50_ms / floor_ms, 2)}
    if number_format in ("fp32", "tf32", "half"):
        products_ms = _products_ms(rows * tokens, number_format)
        line |= {"products_ms": round(products_ms, 4), "over_products": round(p50_ms / products_ms, 2)}
    return line


def _floor_ms(rows: int, tokens: int, rate: float, weight_bytes: float, bandwidth: float) -> float:
    """Bytes are the fewest that must move: every weight once, token ids in, logits out."""
    per_token = LAYERS * (24 * WIDTH * WIDTH + 4 * tokens * WIDTH)
    weights = LAYERS * 12 * WIDTH * WIDTH
    arithmetic_s = rows * tokens * per_token / rate
    moved_s = (weights * weight_bytes + rows * tokens * (16 + WIDTH * 2)) / bandwidth
    return 1e3 * max(arithmetic_s, moved_s)


def _format(name: str) -> tuple[str, float]:
    """The matrix rate that bounds a variant, and the bytes of one weight."""
    table = {"fp32": ("fp32", 4.0), "tf32": ("tf32", 4.0), "fp8": ("fp8", 1.0), "int8-dynamic": ("int8", 1.0)}
    table |= {"int8-weight-only": ("half", 1.0), "int4-weight-only": ("half", 0.5), "mixed": ("int8", 1.33)}
    recipe = name.removesuffix("-cuda")
    for engine in sorted(Engine, key=len, reverse=True):
        recipe = recipe.removeprefix(f"{engine}-")
    return table.get(recipe, ("half", 2.0))


_measured: dict[tuple[int, str], float] = {}


def _products_ms(tokens: int, number_format: str) -> float:
    """All products of the encoder, with their biases and nothing else."""
    if (tokens, number_format) not in _measured:
        import torch
        from torch.nn import functional

        torch.set_float32_matmul_precision("high" if number_format == "tf32" else "highest")
        dtype = torch.float16 if number_format == "half" else torch.float32
        operands = [
            tuple(torch.randn(shape, device="cuda", dtype=dtype) for shape in ((tokens, i), (o, i), (o,)))
            for o, i in PRODUCTS * LAYERS
        ]

        def run() -> None:
            for source, weight, bias in operands:
                functional.linear(source, weight, bias)

        run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        _measured[tokens, number_format] = 1e3 * device_s(graph.replay)
    return _measured[tokens, number_format]


def gpu_rates() -> dict[str, float]:
    """Operations a second of large matrix products, and bytes a second of a large copy, on this GPU."""
    import torch

    size = 8192
    first, second = (torch.randn(size, size, device="cuda") for _ in range(2))
    halves = first.half(), second.half()
    bytes_ = tuple((part * 10).to(torch.int8) for part in (first, second))
    eighths = tuple(part.to(torch.float8_e4m3fn) for part in (first, second))
    one = torch.ones((), device="cuda")
    products: dict[str, Callable[[], Any]] = {
        "fp32": lambda: first @ second,
        "half": lambda: halves[0] @ halves[1],
        "int8": lambda: torch._int_mm(bytes_[0], bytes_[1].t()),
        "fp8": lambda: torch._scaled_mm(
            eighths[0], eighths[1].t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16
        ),
    }
    torch.set_float32_matmul_precision("highest")
    rates = {name: 2 * size**3 / device_s(run) for name, run in products.items()}
    torch.set_float32_matmul_precision("high")
    rates["tf32"] = 2 * size**3 / device_s(products["fp32"])
    large = torch.empty(1 << 30, dtype=torch.float32, device="cuda")
    other = torch.empty_like(large)
    rates["bytes"] = 2 * large.nbytes / device_s(lambda: other.copy_(large))
    return {name: round(rate, -9) for name, rate in rates.items()}


def gpu_kernels(run: Callable[[Request], Any], request: Request) -> dict[str, Any]:
    """The kernels of one call that take the most time of the GPU: names, launches, microseconds."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run(request)
        torch.cuda.synchronize()
    events = [event for event in profile.key_averages() if event.self_device_time_total > 0]
    events.sort(key=lambda event: -event.self_device_time_total)
    return {
        "gpu_us": round(sum(event.self_device_time_total for event in events), 1),
        "launches": sum(event.count for event in events),
        "kernels": [
            [event.key[:100], event.count, round(event.self_device_time_total, 1)]
            for event in events[:_TOP_KERNELS]
        ],
    }


def device_s(run: Callable[[], Any]) -> float:
    """The median of repeated runs, by the GPU's own clock."""
    import torch

    for _ in range(3):
        run()
    times: list[float] = []
    for _ in range(_REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch leaves it untyped
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(float(start.elapsed_time(end)) / 1e3)
    return sorted(times)[len(times) // 2]
