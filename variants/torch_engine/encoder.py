"""A BERT encoder as a torch module whose linear layers may each have a number format of their own."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from anabranch.variants.encoder_graph import EncoderShape
from anabranch.variants.formats import NumberFormat

# Added to the scores of padding; exp of it is 0, and half precision can hold it.
_MASKED = -10_000.0
# From a layer's name in the ONNX graph to its name in a checkpoint.
PARTS = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "feedforward.up": "intermediate.dense",
    "feedforward.down": "output.dense",
}


# Layers that read the same tensor: as one product they are faster, and their outputs lie side by side.
_INPUTS = ("attention.query", "attention.key", "attention.value")
# The name of that product.
MERGED = "attention.inputs"


def merged_layers(formats: Mapping[str, NumberFormat]) -> dict[str, tuple[str, ...]]:
    """The products that an encoder makes, and the layers that each is for.

    Query, key and value are one product where their formats are the same.

    Args:
        formats: The format of every linear layer, by its name.
    """
    products: dict[str, tuple[str, ...]] = {}
    for name in formats:
        start = name.removesuffix(_INPUTS[0])
        group = tuple(f"{start}{part}" for part in _INPUTS)
        if name.endswith(_INPUTS[0]) and len({formats[layer] for layer in group}) == 1:
            products[f"{start}{MERGED}"] = group
    inside = {layer for group in products.values() for layer in group}
    return products | {name: (name,) for name in formats if name not in inside}


def checkpoint_names(layers: int) -> dict[str, str]:
    """From every linear layer's name to its name in a checkpoint, without `.weight`."""
    return {
        f"layer.{layer}.{part}": f"encoder.layer.{layer}.{key}"
        for layer in range(layers)
        for part, key in PARTS.items()
    }


class EncoderModule(nn.Module):
    """Token ids and their mask in, logits and the embedding out.

    Args:
        shape: The encoder's sizes.
        linears: A module for every product, by the names of `merged_layers`.
        tensors: The embedding tables and norms by checkpoint name, in the dtype of the residual stream; and the head,
            `head.weight` and `head.bias`, in FP32.
    """

    def __init__(
        self, shape: EncoderShape, linears: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self.shape = shape
        self.linears = nn.ModuleDict({_key(name): module for name, module in linears.items()})
        for name, tensor in tensors.items():
            self.register_buffer(_key(name), tensor)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute both outputs in FP32.

        Args:
            ids: Shape (rows, tokens).
            mask: 1 for a token, 0 for padding, shape (rows, tokens).

        Returns:
            Logits (rows, classes) and embeddings of length 1 (rows, width).
        """
        name = "embeddings"
        hidden = (
            self.tensor(f"{name}.word_embeddings.weight")[ids]
            + self.tensor(f"{name}.position_embeddings.weight")[: ids.shape[1]]
            + self.tensor(f"{name}.token_type_embeddings.weight")[0]
        )
        hidden = self._norm(hidden, f"{name}.LayerNorm")
        padding = (1 - mask[:, None, None, :]) * _MASKED
        for layer in range(self.shape.layers):
            hidden = self._layer(layer, hidden, padding.to(hidden.dtype))
        column = mask[:, :, None].float()
        mean = (hidden.float() * column).sum(1) / column.sum(1).clamp_min(1.0)
        embedding = functional.normalize(mean, dim=-1)
        return functional.linear(embedding, self.tensor("head.weight"), self.tensor("head.bias")), embedding

    def _layer(self, layer: int, hidden: Tensor, padding: Tensor) -> Tensor:
        heads, width = self.shape.heads, self.shape.width

        def split(flat: Tensor) -> Tensor:
            return flat.view(*flat.shape[:2], heads, width // heads).transpose(1, 2)

        query, key, value = (split(flat) for flat in self._attention_inputs(layer, hidden))
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=padding)
        flat = mixed.transpose(1, 2).flatten(-2)
        name = f"encoder.layer.{layer}"
        attended = hidden + self.linear(layer, "attention.output", flat)
        hidden = self._norm(attended, f"{name}.attention.output.LayerNorm")
        active = functional.gelu(self.linear(layer, "feedforward.up", hidden))
        return self._norm(hidden + self.linear(layer, "feedforward.down", active), f"{name}.output.LayerNorm")

    def _attention_inputs(self, layer: int, hidden: Tensor) -> Sequence[Tensor]:
        """Query, key and value, each of shape (rows, tokens, width)."""
        if _key(f"layer.{layer}.{MERGED}") in self.linears:
            together = self.linear(layer, MERGED, hidden)
            width = self.shape.width
            return [together[..., start : start + width] for start in range(0, 3 * width, width)]
        return [self.linear(layer, part, hidden) for part in _INPUTS]

    def linear(self, layer: int, part: str, source: Tensor) -> Tensor:
        """One product of a layer, with its bias."""
        result: Tensor = self.linears[_key(f"layer.{layer}.{part}")](source)
        return result

    def product(self, layer: int, part: str) -> nn.Module | None:
        """The module of one product; None where a layer has none of that name."""
        found: nn.Module | None = self.linears._modules.get(_key(f"layer.{layer}.{part}"))
        return found

    def tensor(self, name: str) -> Tensor:
        """A norm's, a table's or the head's tensor by its name in a checkpoint."""
        tensor = getattr(self, _key(name))
        assert isinstance(tensor, torch.Tensor)
        return tensor

    def _norm(self, hidden: Tensor, name: str) -> Tensor:
        scale, bias = self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias")
        return functional.layer_norm(hidden, (self.shape.width,), scale, bias, self.shape.norm_epsilon)


def _key(name: str) -> str:
    """Torch allows no dots in the names of modules and buffers."""
    return name.replace(".", "_")
