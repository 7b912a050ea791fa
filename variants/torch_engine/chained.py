"""An encoder in half precision or FP8 as a chain of kernels of ours: each is launched while the one before it ends.

Six launches a layer, the products among them. One by one the vendor's products in half precision are faster, but they
wait for what came before to end, and queries, keys and values leave the chip. Needs a Hopper GPU and texts of up to 128
tokens; what else comes is answered the other way.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
import triton.language as tl
from torch import Tensor, nn
from triton import cdiv, next_power_of_2
from triton.tools.tensor_descriptor import TensorDescriptor

from anabranch.variants.torch_engine import chain_kernels, kernels
from anabranch.variants.torch_engine.encoder import MERGED, EncoderModule
from anabranch.variants.torch_engine.fused import PARTS, FusedEncoder
from anabranch.variants.torch_engine.linears import FloatLinear, Fp8Linear

Encode: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# The chips whose copies of tiles and dependent launches the kernels use: compute capability 9.x.
_CAPABILITY = 9
# From so many tokens on the vendor's products in half precision are faster.
_MOST_TOKENS = 8_192
# A text's queries, keys and values of one head are one tile.
_MOST_LENGTH = 128
_HEAD_SIZES = (16, 32, 64)
# Every tile's columns divide it.
_WIDTH_STEP = 128
_HALVES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """How a product is cut.

    Args:
        rows: Of one program's part of the result.
        columns: Of it.
        depth_bytes: What a step reads of each row and column.
        warps: Of a program.
        stages: Steps that are under way at once.
    """

    rows: int = 0
    columns: int = 0
    depth_bytes: int
    warps: int
    stages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """How a layer's products are cut, from so many tokens on; attention's have a text for rows and a head for columns.

    Args:
        least_tokens: Of the batch.
        attend: The product and attention of texts of more than 32 tokens.
        out: `attention.output`.
        up: `feedforward.up`.
        down: `feedforward.down`.
    """

    least_tokens: int
    attend: Tile
    out: Tile
    up: Tile
    down: Tile


# Measured on an H200 for a width of 384, whole encoders at a time.
_TILES = (
    Tiles(
        least_tokens=2_048,
        attend=Tile(depth_bytes=128, warps=4, stages=3),
        out=Tile(rows=128, columns=64, depth_bytes=128, warps=4, stages=4),
        up=Tile(rows=64, columns=128, depth_bytes=128, warps=8, stages=3),
        down=Tile(rows=128, columns=128, depth_bytes=128, warps=4, stages=4),
    ),
    Tiles(
        least_tokens=512,
        attend=Tile(depth_bytes=128, warps=4, stages=3),
        out=Tile(rows=128, columns=32, depth_bytes=256, warps=4, stages=3),
        up=Tile(rows=64, columns=64, depth_bytes=128, warps=4, stages=4),
        down=Tile(rows=64, columns=64, depth_bytes=256, warps=4, stages=4),
    ),
    Tiles(
        least_tokens=0,
        attend=Tile(depth_bytes=256, warps=4, stages=2),
        out=Tile(rows=64, columns=32, depth_bytes=256, warps=4, stages=3),
        up=Tile(rows=64, columns=32, depth_bytes=256, warps=4, stages=3),
        down=Tile(rows=64, columns=32, depth_bytes=256, warps=4, stages=4),
    ),
)
# Tokens of the smallest tile of a text.
_SHORT = 32
_SHORT_ATTEND = Tile(depth_bytes=256, warps=2, stages=3)


class _Hidden(NamedTuple):
    """Hidden states: as they are added to and pooled, and as products read them."""

    numbers: Tensor
    read: Tensor


class _Product(NamedTuple):
    weight: Tensor
    scales: Tensor | None
    bias: Tensor


def can_chain(module: EncoderModule) -> bool:
    """Whether the kernels take an encoder on this GPU: half precision throughout, or FP8 throughout."""
    products = [module.product(layer, part) for layer in range(module.shape.layers) for part in PARTS]
    kinds = {product.weight.dtype for product in products if isinstance(product, FloatLinear | Fp8Linear)}
    shape = module.shape
    return (
        all(isinstance(product, FloatLinear | Fp8Linear) for product in products)
        and len(kinds) == 1
        and kinds <= {*_HALVES, torch.float8_e4m3fn}
        and torch.cuda.get_device_capability()[0] == _CAPABILITY
        and shape.width % _WIDTH_STEP == 0
        and shape.width // shape.heads in _HEAD_SIZES
    )


class ChainedEncoder(FusedEncoder):
    """The same function as the module's, on the module's device.

    Args:
        module: An encoder for which `can_chain` holds.
        otherwise: Answers what the chain does not take.
    """

    _launch: ClassVar[dict[str, Any]] = {"CHAINED": True, "launch_pdl": True}

    def __init__(self, module: EncoderModule, otherwise: Encode) -> None:
        super().__init__(module)
        self._otherwise = otherwise
        self._products = [
            {part: _product(module.product(layer, part)) for part in PARTS}
            for layer in range(module.shape.layers)
        ]
        self._is_fp8 = self._products[0][MERGED].scales is not None

    def __call__(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and embeddings, as of `EncoderModule`."""
        if ids.shape[1] > _MOST_LENGTH or (not self._is_fp8 and ids.numel() >= _MOST_TOKENS):
            return self._otherwise(ids, mask)
        tiles = next(tiles for tiles in _TILES if ids.numel() >= tiles.least_tokens)
        eighths = self._eighths(ids.numel())
        numbers = self._embed(ids, eighths)
        hidden = _Hidden(numbers, numbers if eighths is None else eighths)
        for layer, products in enumerate(self._products):
            name = f"encoder.layer.{layer}"
            mixed = self._mix(products[MERGED], hidden, mask, tiles.attend)
            attended = _multiply(products["attention.output"], mixed, hidden.numbers.dtype, tiles.out)
            hidden = self._next(attended, hidden, f"{name}.attention.output.LayerNorm")
            active = _multiply(products["feedforward.up"], hidden.read, mixed.dtype, tiles.up, gelu=True)
            fed = _multiply(products["feedforward.down"], active, hidden.numbers.dtype, tiles.down)
            hidden = self._next(fed, hidden, f"{name}.output.LayerNorm")
        return self._pool(hidden.numbers, mask)

    def _eighths(self, count: int) -> Tensor | None:
        """Room for hidden states in E4M3; None where products read half precision."""
        if not self._is_fp8:
            return None
        return torch.empty((count, self._shape.width), dtype=torch.float8_e4m3fn, device="cuda")

    def _next(self, change: Tensor, hidden: _Hidden, name: str) -> _Hidden:
        eighths = self._eighths(len(change))
        numbers = self._norm(change, hidden.numbers, name, eighths)
        return _Hidden(numbers, numbers if eighths is None else eighths)

    def _mix(self, product: _Product, hidden: _Hidden, mask: Tensor, tile: Tile) -> Tensor:
        rows, tokens = mask.shape
        heads, width = self._shape.heads, self._shape.width
        length, size = max(_SHORT, next_power_of_2(tokens)), width // heads
        tile = _SHORT_ATTEND if length == _SHORT else tile
        mixed = torch.empty_like(hidden.read)
        depth = min(tile.depth_bytes // mixed.element_size(), width)
        chain_kernels.multiply_and_attend[(rows, heads)](
            TensorDescriptor.from_tensor(hidden.read, [length, depth]),
            TensorDescriptor.from_tensor(product.weight, [size, depth]),
            product.scales,
            product.bias,
            mask,
            mixed,
            tokens,
            math.log2(math.e) / math.sqrt(size),
            WIDTH=width,
            SIZE=size,
            TILE=length,
            DEPTH=depth,
            HALF=_HALVES[hidden.numbers.dtype],
            num_warps=tile.warps,
            num_stages=tile.stages,
            launch_pdl=True,
        )
        return mixed


def _multiply(
    product: _Product, source: Tensor, dtype: torch.dtype, tile: Tile, *, gelu: bool = False
) -> Tensor:
    count, (outputs, inputs) = len(source), product.weight.shape
    result = source.new_empty((count, outputs), dtype=dtype)
    depth = min(tile.depth_bytes // source.element_size(), inputs)
    chain_kernels.multiply[cdiv(count, tile.rows), outputs // tile.columns](
        TensorDescriptor.from_tensor(source, [tile.rows, depth]),
        TensorDescriptor.from_tensor(product.weight, [tile.columns, depth]),
        product.scales,
        product.bias,
        TensorDescriptor.from_tensor(result, [tile.rows, tile.columns]),
        INPUTS=inputs,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        DEPTH=depth,
        GELU=gelu,
        num_warps=tile.warps,
        num_stages=tile.stages,
        launch_pdl=True,
    )
    return result


def _product(module: nn.Module | None) -> _Product:
    if isinstance(module, Fp8Linear):
        scales: Any = module.scales / kernels.EIGHTHS.value
        return _Product(module.weight, scales, module.bias)
    assert isinstance(module, FloatLinear), "can_chain looked at it"
    return _Product(module.weight, None, module.bias)
