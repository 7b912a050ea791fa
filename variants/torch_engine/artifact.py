"""Encoders as safetensors files: every tensor in its number format, and what is needed to read them as metadata.

Nothing is unpickled. The metadata names every layer's format; the reader refuses a layer whose tensors are of another.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from anabranch.variants.encoder_graph import EncoderShape, attention_nodes, feedforward_nodes
from anabranch.variants.errors import RecipeError, VariantError
from anabranch.variants.formats import NumberFormat, half_format, promised_formats, uniform_format
from anabranch.variants.models import PreparedModel
from anabranch.variants.recipes import Device, Int4WeightOnly, VariantSpec
from anabranch.variants.torch_engine.encoder import EncoderModule, checkpoint_names, merged_layers
from anabranch.variants.torch_engine.linears import float_dtype, join_linears, pack_linear, unpack_linear

_META = "anabranch"
_UNUSED = ("pooler.", "embeddings.position_ids")


def write_encoder(model: PreparedModel, spec: VariantSpec, path: Path) -> None:
    """Write an encoder's weights in the recipe's number formats.

    Raises:
        RecipeError: The model is no encoder.
    """
    encoder = model.encoder
    if encoder is None:
        raise RecipeError("the torch engine runs BERT encoders only: use the onnx engine for this model")
    layers = encoder.shape.layers
    formats = promised_formats(spec, attention=attention_nodes(layers), feedforward=feedforward_nodes(layers))
    rest = _rest_dtype(spec)
    names = checkpoint_names(layers)
    block_size = spec.recipe.block_size if isinstance(spec.recipe, Int4WeightOnly) else 32
    tensors: dict[str, Tensor] = {}
    for layer, key in names.items():
        weight, bias = (
            np.asarray(encoder.weights[f"{key}.{part}"], np.float32) for part in ("weight", "bias")
        )
        packed = pack_linear(formats[layer], weight, bias, block_size=block_size)
        tensors |= {f"{layer}.{part}": tensor.contiguous() for part, tensor in packed.items()}
    linear = set(names.values())
    for name, array in encoder.weights.items():
        if name.rpartition(".")[0] not in linear and not name.startswith(_UNUSED):
            tensors[name] = torch.from_numpy(np.array(array)).to(rest)
    matrix, bias = encoder.head
    tensors["head.weight"] = torch.from_numpy(np.ascontiguousarray(matrix.T))
    tensors["head.bias"] = torch.from_numpy(np.array(bias))
    metadata = {"shape": _sizes(encoder.shape), "formats": formats}
    save_file(tensors, str(path), metadata={_META: json.dumps(metadata, sort_keys=True)})


def _rest_dtype(spec: VariantSpec) -> torch.dtype:
    """The dtype of the residual stream, the norms and the embedding tables."""
    everywhere = uniform_format(spec.recipe)
    if everywhere in (NumberFormat.FP32, NumberFormat.FP16, NumberFormat.BF16):
        return float_dtype(everywhere)
    if everywhere is NumberFormat.FP8:
        return torch.bfloat16
    # A GPU has no reason to keep anything in FP32; on a CPU it is the fastest partner of INT8.
    return float_dtype(half_format(spec.engine, spec.device)) if spec.device is Device.CUDA else torch.float32


def _sizes(shape: EncoderShape) -> dict[str, Any]:
    return {
        "layers": shape.layers,
        "heads": shape.heads,
        "width": shape.width,
        "norm_epsilon": shape.norm_epsilon,
    }


def read_encoder(path: Path) -> EncoderModule:
    """The encoder of a file that `write_encoder` wrote, on the CPU.

    Raises:
        VariantError: The file is not such a file, or a layer is not of the format that the file names.
    """
    metadata, tensors = _read(path)
    shape = EncoderShape(**metadata["shape"])
    formats = {layer: NumberFormat(name) for layer, name in metadata["formats"].items()}
    linears: dict[str, nn.Module] = {}
    for product, layers in merged_layers(formats).items():
        own = join_linears([_take(tensors, layer) for layer in layers])
        width = 4 * shape.width if product.endswith("down") else shape.width
        try:
            linears[product] = unpack_linear(formats[layers[0]], own, width)
        except VariantError as error:
            raise VariantError(f"{path}: layer {product}: {error}") from None
    missing = checkpoint_names(shape.layers).keys() - formats.keys()
    if missing:
        raise VariantError(
            f"{path} lacks {len(missing)} layers, {min(missing)} first: build the variant again"
        )
    return EncoderModule(shape, linears, tensors)


def _take(tensors: dict[str, Tensor], layer: str) -> dict[str, Tensor]:
    prefix = f"{layer}."
    return {key.removeprefix(prefix): tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}


def read_formats(path: Path) -> dict[str, NumberFormat]:
    """Every linear layer's number format, by what its tensors are.

    Raises:
        VariantError: The file is not an encoder's.
    """
    metadata, tensors = _read(path)
    return {layer: _format_of(layer, name, tensors) for layer, name in metadata["formats"].items()}


def _format_of(layer: str, named: str, tensors: Mapping[str, Tensor]) -> NumberFormat:
    number_format = NumberFormat(named)
    own = {
        key.removeprefix(f"{layer}."): tensor
        for key, tensor in tensors.items()
        if key.startswith(f"{layer}.")
    }
    unpack_linear(number_format, own, 1)
    return number_format


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except Exception as error:  # the library raises its own class
        raise VariantError(f"{path} is no safetensors file: {error}") from error
    if _META not in metadata:
        raise VariantError(f"{path} lacks the encoder's sizes: it was not built by this project")
    return json.loads(metadata[_META]), tensors
