"""An encoder in half precision on a GPU: the vendor's matrix products, and kernels of ours for all that lies between them.

Seven launches a layer. Queries, keys and values stay where their one product leaves them; GELU and every bias are part of
a product; a residual sum and its norm are one kernel. What `torch.compile` makes of the same module launches more, and
is compiled for a minute where this is ready in seconds.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2

from anabranch.variants.torch_engine import kernels
from anabranch.variants.torch_engine.encoder import MERGED, EncoderModule
from anabranch.variants.torch_engine.linears import FloatLinear

# The products of a layer.
PARTS = (MERGED, "attention.output", "feedforward.up", "feedforward.down")
_HALVES = (torch.float16, torch.bfloat16)
# Sizes of heads for which the attention kernel's tiles fit the chip.
_HEAD_SIZES = (16, 32, 64, 128)
# Rows that one program works on, and warps: measured on an H100 for widths of a few hundred.
_TILE = 64
_NORM_ROWS = 2
_POOL_ROWS = 128


def can_fuse(module: EncoderModule) -> bool:
    """Whether the kernels take an encoder: one half-precision format throughout, and heads of a power of two."""
    products = [module.product(layer, part) for layer in range(module.shape.layers) for part in PARTS]
    dtypes = {product.weight.dtype if isinstance(product, FloatLinear) else None for product in products}
    size = module.shape.width // module.shape.heads
    return len(dtypes) == 1 and dtypes.pop() in _HALVES and size in _HEAD_SIZES


class FusedEncoder:
    """The same function as the module's, on the module's device.

    GELU is the vendor's, by the hyperbolic tangent: it differs from the exact one by less than half precision does.

    Args:
        module: An encoder for which `can_fuse` holds.
    """

    # What is said to Triton of kernels that read what another kernel wrote.
    _launch: ClassVar[dict[str, Any]] = {}

    def __init__(self, module: EncoderModule) -> None:
        self._module = module
        self._shape = module.shape
        self._block = next_power_of_2(module.shape.width)
        self._head = module.tensor("head.weight").contiguous(), module.tensor("head.bias")

    def __call__(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and embeddings, as of `EncoderModule`."""
        hidden = self._embed(ids)
        for layer in range(self._shape.layers):
            name = f"encoder.layer.{layer}"
            packed = self._module.linear(layer, MERGED, hidden)
            mixed = self._module.linear(layer, "attention.output", self._attend(packed, mask))
            hidden = self._norm(mixed, hidden, f"{name}.attention.output.LayerNorm")
            fed = self._module.linear(layer, "feedforward.down", self._activate(layer, hidden))
            hidden = self._norm(fed, hidden, f"{name}.output.LayerNorm")
        return self._pool(hidden, mask)

    def _embed(self, ids: Tensor, eighths: Tensor | None = None) -> Tensor:
        name, width = "embeddings", self._shape.width
        words = self._module.tensor(f"{name}.word_embeddings.weight")
        hidden = torch.empty((ids.numel(), width), dtype=words.dtype, device=ids.device)
        kernels.embed_and_norm[(ids.numel(),)](
            ids,
            words,
            self._module.tensor(f"{name}.position_embeddings.weight"),
            self._module.tensor(f"{name}.token_type_embeddings.weight"),
            self._module.tensor(f"{name}.LayerNorm.weight"),
            self._module.tensor(f"{name}.LayerNorm.bias"),
            hidden,
            ids.shape[1],
            WIDTH=width,
            BLOCK=self._block,
            EPSILON=self._shape.norm_epsilon,
            eighths=eighths,
        )
        return hidden

    def _attend(self, packed: Tensor, mask: Tensor) -> Tensor:
        rows, tokens = mask.shape
        heads, width = self._shape.heads, self._shape.width
        mixed = torch.empty((rows * tokens, width), dtype=packed.dtype, device=packed.device)
        tile = min(_TILE, max(16, next_power_of_2(tokens)))
        kernels.attention[(rows * heads, cdiv(tokens, tile))](
            packed,
            mask,
            mixed,
            tokens,
            math.log2(math.e) / math.sqrt(width // heads),
            HEADS=heads,
            SIZE=width // heads,
            QUERIES=tile,
            KEYS=tile,
            num_warps=4 if tile >= _TILE else 2,
            num_stages=1,
        )
        return mixed

    def _activate(self, layer: int, hidden: Tensor) -> Tensor:
        up = self._module.product(layer, "feedforward.up")
        assert isinstance(up, FloatLinear), "can_fuse looked at it"
        active: Tensor = torch._addmm_activation(up.bias, hidden, up.weight.t(), use_gelu=True)
        return active

    def _norm(self, change: Tensor, residual: Tensor, name: str, eighths: Tensor | None = None) -> Tensor:
        hidden = torch.empty_like(residual)
        kernels.add_and_norm[(cdiv(len(residual), _NORM_ROWS),)](
            change,
            residual,
            self._module.tensor(f"{name}.weight"),
            self._module.tensor(f"{name}.bias"),
            hidden,
            len(residual),
            WIDTH=self._shape.width,
            BLOCK=self._block,
            ROWS=_NORM_ROWS,
            EPSILON=self._shape.norm_epsilon,
            eighths=eighths,
            num_warps=2,
            **self._launch,
        )
        return hidden

    def _pool(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        matrix, bias = self._head
        rows, tokens = mask.shape
        embedding = torch.empty((rows, self._shape.width), dtype=torch.float32, device=hidden.device)
        logits = torch.empty((rows, len(bias)), dtype=torch.float32, device=hidden.device)
        kernels.pool[(rows,)](
            hidden,
            mask,
            matrix,
            bias,
            embedding,
            logits,
            tokens,
            CLASSES=len(bias),
            WIDTH=self._shape.width,
            BLOCK=self._block,
            ROWS=_POOL_ROWS,
            num_warps=4,
            **self._launch,
        )
        return logits, embedding
