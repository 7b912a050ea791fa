"""Run a BERT encoder in eager torch, in FP32, bfloat16 or INT8 with dynamic ranges; needs the `torch` extra.

Artifacts are safetensors files that carry the encoder's sizes and recipe as metadata: nothing is unpickled.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias, assert_never

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from anabranch.variants.encoder_graph import EncoderShape
from anabranch.variants.errors import RecipeError, VariantError, VariantRunError
from anabranch.variants.models import PreparedModel
from anabranch.variants.quantize.static import quantize_weight
from anabranch.variants.recipes import Bf16, Fp16, Fp32, Imported, Int8Dynamic, Int8Static, Mixed, Recipe
from anabranch.variants.tensors import Array

Linear: TypeAlias = Callable[[Tensor], Tensor]

_META = "anabranch"
# Added to the scores of padding; exp of it is 0, and bfloat16 can hold it.
_MASKED = -10_000.0
_BYTE = 127
_TINY = 1e-12
_PARTS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}


def write_encoder(model: PreparedModel, recipe: Recipe, path: Path) -> None:
    """Write an encoder's weights in the recipe's number format.

    Raises:
        RecipeError: The model is no encoder, or the torch engine has no such recipe.
    """
    encoder = model.encoder
    if encoder is None:
        raise RecipeError("the torch engine runs BERT encoders only: use the onnx engine for this model")
    match recipe:
        case Fp32():
            dtype = torch.float32
        case Bf16():
            dtype = torch.bfloat16
        case Int8Dynamic():
            dtype = torch.float32
        case Fp16() | Int8Static() | Mixed() | Imported():
            raise RecipeError(f"the torch engine does not build {recipe.name}: use the onnx engine")
        case _:
            assert_never(recipe)
    tensors: dict[str, Tensor] = {}
    for name, array in encoder.weights.items():
        if name.startswith("pooler.") or name.endswith("position_ids"):
            continue
        inner = name.startswith("encoder.layer.") and name.endswith(".weight") and array.ndim == 2
        if isinstance(recipe, Int8Dynamic) and inner:
            values, scales = quantize_weight(np.asarray(array), channel_axis=0)
            tensors[f"{name}.int8"] = torch.from_numpy(values)
            tensors[f"{name}.scales"] = torch.from_numpy(scales)
        else:
            tensors[name] = torch.from_numpy(np.array(array)).to(dtype)
    matrix, bias = encoder.head
    tensors["head.weight"] = torch.from_numpy(np.ascontiguousarray(matrix.T))
    tensors["head.bias"] = torch.from_numpy(np.array(bias))
    shape = encoder.shape
    sizes = {
        "layers": shape.layers,
        "heads": shape.heads,
        "width": shape.width,
        "norm_epsilon": shape.norm_epsilon,
    }
    save_file(tensors, str(path), metadata={_META: json.dumps(sizes)})


class TorchSession:
    """An encoder in torch on the CPU.

    Args:
        path: A file that `write_encoder` wrote.
        threads: Threads that share one call's work. Torch has one such number a process: the last session sets it.
        embedding: Whether to give `embedding` beside `logits`.

    Raises:
        VariantError: The file is not such a file.
    """

    def __init__(self, path: Path, *, threads: int = 1, embedding: bool = False) -> None:
        torch.set_num_threads(threads)
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        except Exception as error:  # the library raises its own class
            raise VariantError(f"{path} is no safetensors file: {error}") from error
        if _META not in metadata:
            raise VariantError(f"{path} lacks the encoder's sizes: it was not built by this project")
        self._shape = EncoderShape(**json.loads(metadata[_META]))
        self._tensors = tensors
        self._linears = {
            (layer, part): _linear(tensors, f"encoder.layer.{layer}.{key}")
            for layer in range(self._shape.layers)
            for part, key in _PARTS.items()
        }
        self._dtype = tensors["embeddings.word_embeddings.weight"].dtype
        self._with_embedding = embedding

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute `logits`, and `embedding` where it was asked for.

        Raises:
            VariantRunError: Torch failed.
        """
        try:
            with torch.inference_mode():
                ids, mask = torch.from_numpy(feeds["input_ids"]), torch.from_numpy(feeds["attention_mask"])
                embedding = self._embed(ids, mask)
                head = self._tensors
                outputs = {
                    "logits": functional.linear(embedding, head["head.weight"], head["head.bias"]).numpy()
                }
                if self._with_embedding:
                    outputs["embedding"] = embedding.numpy()
                return outputs
        except (RuntimeError, IndexError, KeyError) as error:
            raise VariantRunError(f"torch failed: {error}") from error

    def _embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        tensors, name = self._tensors, "embeddings"
        hidden = (
            tensors[f"{name}.word_embeddings.weight"][ids]
            + tensors[f"{name}.position_embeddings.weight"][: ids.shape[1]]
            + tensors[f"{name}.token_type_embeddings.weight"][0]
        )
        hidden = self._norm(hidden, f"{name}.LayerNorm")
        scores_mask = ((1 - mask[:, None, None, :]) * _MASKED).to(self._dtype)
        for layer in range(self._shape.layers):
            hidden = self._layer(layer, hidden, scores_mask)
        column = mask[:, :, None].float()
        mean = (hidden.float() * column).sum(1) / column.sum(1).clamp_min(1.0)
        return functional.normalize(mean, dim=-1)

    def _layer(self, layer: int, hidden: Tensor, scores_mask: Tensor) -> Tensor:
        rows, tokens, width = hidden.shape
        heads = self._shape.heads

        def split(part: str) -> Tensor:
            return (
                self._linears[layer, part](hidden).view(rows, tokens, heads, width // heads).transpose(1, 2)
            )

        mixed = functional.scaled_dot_product_attention(
            split("query"), split("key"), split("value"), attn_mask=scores_mask
        )
        flat = mixed.transpose(1, 2).reshape(rows, tokens, width)
        name = f"encoder.layer.{layer}"
        hidden = self._norm(
            hidden + self._linears[layer, "output"](flat), f"{name}.attention.output.LayerNorm"
        )
        active = functional.gelu(self._linears[layer, "up"](hidden))
        return self._norm(hidden + self._linears[layer, "down"](active), f"{name}.output.LayerNorm")

    def _norm(self, hidden: Tensor, name: str) -> Tensor:
        width, epsilon = self._shape.width, self._shape.norm_epsilon
        scale, bias = self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]
        return functional.layer_norm(hidden, (width,), scale, bias, epsilon)


def _linear(tensors: Mapping[str, Tensor], name: str) -> Linear:
    bias = tensors[f"{name}.bias"]
    if f"{name}.weight.int8" in tensors:
        return _int8_linear(tensors[f"{name}.weight.int8"], tensors[f"{name}.weight.scales"], bias)
    weight = tensors[f"{name}.weight"]
    return lambda source: functional.linear(source, weight, bias)


def _int8_linear(weight: Tensor, scales: Tensor, bias: Tensor) -> Linear:
    """INT8 weights with a scale a channel, INT8 activations with a scale a token, 32-bit sums.

    A token's scale depends on that token alone, so an answer does not depend on who shares the batch.
    """
    columns = weight.t().contiguous()

    def run(source: Tensor) -> Tensor:
        flat = source.reshape(-1, source.shape[-1])
        steps = flat.abs().amax(dim=1, keepdim=True).div_(_BYTE).clamp_min_(_TINY)
        values = (flat / steps).round_().to(torch.int8)
        product = torch._int_mm(values, columns).to(torch.float32).mul_(steps).mul_(scales).add_(bias)
        return product.view(*source.shape[:-1], -1)

    return run
