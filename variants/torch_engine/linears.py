"""Linear layers in torch, one class a number format: the tensors each keeps in the artifact, and how it multiplies."""

from collections.abc import Mapping, Sequence
from typing import Protocol, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional

from anabranch.variants.errors import VariantError
from anabranch.variants.formats import NumberFormat
from anabranch.variants.quantize.static import quantize_weight
from anabranch.variants.quantize.weight_only import quantize_blocks
from anabranch.variants.tensors import Array

_BYTE = 127
_TINY = 1e-12
# Largest number of the E4M3 format.
_FP8_MAX = 448.0
# CUDA's integer product takes more than 16 rows only.
_MIN_CUDA_ROWS = 32


class LinearModule(Protocol):
    """What an encoder calls."""

    def __call__(self, source: Tensor) -> Tensor:
        """The product with the weights plus the bias, in the source's dtype; shape (..., in) to (..., out)."""
        ...


_FLOATS = {
    NumberFormat.FP32: torch.float32,
    NumberFormat.FP16: torch.float16,
    NumberFormat.BF16: torch.bfloat16,
}


def float_dtype(number_format: NumberFormat) -> torch.dtype:
    """The dtype of a floating-point format.

    Raises:
        KeyError: The format is not one of plain floats.
    """
    return _FLOATS[number_format]


def pack_linear(
    number_format: NumberFormat, weight: Array, bias: Array, *, block_size: int
) -> dict[str, Tensor]:
    """A layer's tensors as the artifact keeps them.

    Args:
        number_format: Their format.
        weight: FP32, shape (out, in).
        bias: FP32, shape (out,).
        block_size: Weights along the input that share an INT4 scale.
    """
    tensors = {"bias": torch.from_numpy(bias.copy())}
    match number_format:
        case NumberFormat.FP32 | NumberFormat.FP16 | NumberFormat.BF16:
            dtype = _FLOATS[number_format]
            tensors["bias"] = tensors["bias"].to(dtype)
            tensors["weight"] = torch.from_numpy(weight.copy()).to(dtype)
        case NumberFormat.INT8 | NumberFormat.INT8_WEIGHT:
            values, scales = quantize_weight(weight, channel_axis=0)
            tensors["int8"], tensors["scales"] = torch.from_numpy(values), torch.from_numpy(scales)
        case NumberFormat.INT4_WEIGHT:
            blocks = quantize_blocks(weight, bits=4, block_size=block_size)
            tensors["int4"] = torch.from_numpy(blocks.packed())
            tensors["scales"] = torch.from_numpy(blocks.scales)
            tensors["zeros"] = torch.from_numpy(blocks.zeros)
        case NumberFormat.FP8:
            whole = torch.from_numpy(weight.copy())
            steps = (whole.abs().amax(dim=1) / _FP8_MAX).clamp_min(_TINY)
            tensors["fp8"] = (whole / steps[:, None]).to(torch.float8_e4m3fn)
            tensors["scales"] = steps
        case _:
            assert_never(number_format)
    return tensors


def unpack_linear(number_format: NumberFormat, tensors: Mapping[str, Tensor], width: int) -> nn.Module:
    """The layer of an artifact's tensors.

    Args:
        number_format: What the artifact says of the layer.
        tensors: By the names that `pack_linear` gave.
        width: Inputs of the layer.

    Raises:
        VariantError: The tensors are not of that format.
    """
    try:
        match number_format:
            case NumberFormat.FP32 | NumberFormat.FP16 | NumberFormat.BF16:
                if tensors["weight"].dtype != _FLOATS[number_format]:
                    raise VariantError(f"weights are {tensors['weight'].dtype}, must be {number_format}")
                return FloatLinear(tensors["weight"], tensors["bias"])
            case NumberFormat.INT8:
                return _Int8(tensors["int8"], tensors["scales"], tensors["bias"])
            case NumberFormat.INT8_WEIGHT:
                return _Int8Weight(tensors["int8"], tensors["scales"], tensors["bias"])
            case NumberFormat.INT4_WEIGHT:
                names = ("int4", "scales", "zeros", "bias")
                return _Int4Weight(*(tensors[name] for name in names), width=width)
            case NumberFormat.FP8:
                return Fp8Linear(tensors["fp8"], tensors["scales"], tensors["bias"])
            case _:
                assert_never(number_format)
    except KeyError as error:
        raise VariantError(f"a layer of format {number_format} lacks its tensor {error}") from None


class FloatLinear(nn.Module):
    """Weights and arithmetic in one floating-point format."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.weight: Tensor
        self.bias: Tensor

    def forward(self, source: Tensor) -> Tensor:
        """The product with the weights plus the bias, in the source's dtype."""
        return functional.linear(source.to(self.weight.dtype), self.weight, self.bias).to(source.dtype)


def join_linears(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of one layer that computes what several layers of one format compute from the same input.

    Every tensor of every format has the outputs along its first axis.
    """
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class _Int8(nn.Module):
    """INT8 weights with a scale a channel, INT8 activations with a scale a token, 32-bit sums.

    A token's scale depends on that token alone, so an answer does not depend on who shares the batch.
    """

    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor) -> None:
        super().__init__()
        # The CPU's product is fastest on whole columns, CUDA's on a transposed view.
        self.register_buffer("rows", weight.contiguous())
        self.register_buffer("columns", weight.t().contiguous())
        self.register_buffer("scales", scales)
        self.register_buffer("bias", bias)
        self.rows: Tensor
        self.columns: Tensor
        self.scales: Tensor
        self.bias: Tensor

    def forward(self, source: Tensor) -> Tensor:
        flat = source.reshape(-1, source.shape[-1]).float()
        steps = (flat.abs().amax(dim=1, keepdim=True) / _BYTE).clamp_min(_TINY)
        values = (flat / steps).round().to(torch.int8)
        if values.is_cuda:
            rows = values.shape[0]
            filled = functional.pad(values, (0, 0, 0, _MIN_CUDA_ROWS))
            product = torch._int_mm(filled, self.rows.t())[:rows]
        else:
            product = torch._int_mm(values, self.columns)
        result = product.float() * steps * self.scales + self.bias
        return result.to(source.dtype).view(*source.shape[:-1], -1)


class _Int8Weight(nn.Module):
    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", bias)
        self.weight: Tensor
        self.scales: Tensor
        self.bias: Tensor

    def forward(self, source: Tensor) -> Tensor:
        dtype = source.dtype
        product = functional.linear(source, self.weight.to(dtype))
        return product * self.scales.to(dtype) + self.bias.to(dtype)


class _Int4Weight(nn.Module):
    def __init__(self, packed: Tensor, scales: Tensor, zeros: Tensor, bias: Tensor, *, width: int) -> None:
        super().__init__()
        self.register_buffer("packed", packed)
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", zeros)
        self.register_buffer("bias", bias)
        self.packed: Tensor
        self.scales: Tensor
        self.zeros: Tensor
        self.bias: Tensor
        self.width = width

    def forward(self, source: Tensor) -> Tensor:
        dtype = source.dtype
        codes = torch.stack((self.packed & 15, self.packed >> 4), dim=-1).flatten(-2)
        offsets = codes.to(dtype) - self.zeros[..., None].to(dtype)
        weight = (offsets * self.scales[..., None].to(dtype)).flatten(-2)[:, : self.width]
        return functional.linear(source, weight, self.bias.to(dtype))


class Fp8Linear(nn.Module):
    """E4M3 weights with a scale a channel, E4M3 activations with a scale a token, FP32 sums, bfloat16 results."""

    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", bias)
        self.weight: Tensor
        self.scales: Tensor
        self.bias: Tensor

    def forward(self, source: Tensor) -> Tensor:
        """The product with the weights plus the bias, in the source's dtype."""
        flat = source.reshape(-1, source.shape[-1]).float()
        steps = (flat.abs().amax(dim=1, keepdim=True) / _FP8_MAX).clamp_min(_TINY)
        product = torch._scaled_mm(
            (flat / steps).to(torch.float8_e4m3fn),
            self.weight.t(),
            scale_a=steps,
            scale_b=self.scales[None, :],
            bias=self.bias.to(torch.bfloat16),
            out_dtype=torch.bfloat16,
        )
        return product.to(source.dtype).view(*source.shape[:-1], -1)
