"""Let an encoder's weights adapt to fixed INT8 ranges: a short distillation with the rounding in the forward pass.

Source:
    Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
    section 3 (simulated quantization); Bengio et al. 2013 (straight-through gradients); Hinton et al. 2015 (distillation).
"""

from collections.abc import Mapping

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from anabranch.variants.encoder_graph import encoder_graph
from anabranch.variants.errors import RecipeError
from anabranch.variants.models import Encoder, PreparedModel, Progress
from anabranch.variants.quantize.calibrate import Range
from anabranch.variants.quantize.static import activation_scale
from anabranch.variants.recipes import Int8Qat
from anabranch.variants.tensors import Array, Request
from anabranch.variants.torch_engine.encoder import EncoderModule, checkpoint_names

_ACTIVATION_TOP = 255
_WEIGHT_TOP = 127
_TINY = 1e-8
_SEED = 20_261_124
_REPORTS = 5


def train_for_int8(
    model: PreparedModel, recipe: Int8Qat, ranges: Mapping[str, Range], tell: Progress
) -> onnx.ModelProto:
    """The model's graph in FP32 with weights that have adapted to the rounding.

    Args:
        model: An encoder with training requests.
        recipe: Steps, batch size and rate.
        ranges: The fixed range of every layer's input, by the layer's name; other layers stay in FP32.
        tell: Takes a line a fifth of the way.

    Raises:
        RecipeError: The model is no encoder, or brings no training requests.
    """
    encoder = model.encoder
    if encoder is None:
        raise RecipeError("int8-qat trains BERT encoders only: use int8-static for this model")
    if len(model.training) < recipe.batch_size:
        raise RecipeError(
            f"int8-qat needs training requests for a batch of {recipe.batch_size}, the model has {len(model.training)}"
        )
    teacher, _ = _module(encoder, {})
    student, layers = _module(encoder, ranges)
    rng = np.random.default_rng(_SEED)
    optimizer = torch.optim.AdamW(student.parameters(), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=recipe.learning_rate, total_steps=recipe.steps
    )
    every = max(recipe.steps // _REPORTS, 1)
    for step in range(recipe.steps):
        chosen = rng.choice(len(model.training), recipe.batch_size, replace=False)
        ids, mask = _batch([model.training[index] for index in chosen])
        with torch.no_grad():
            _, target = teacher(ids, mask)
        _, embedding = student(ids, mask)
        loss = (1 - (embedding * target).sum(dim=-1)).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if (step + 1) % every == 0:
            tell(f"int8-qat: step {step + 1} of {recipe.steps}, 1 - cosine {loss.item():.4f}")
    trained = {name: np.asarray(array) for name, array in encoder.weights.items()}
    for name, key in checkpoint_names(encoder.shape.layers).items():
        trained[f"{key}.weight"] = layers[name].weight.detach().numpy()
        trained[f"{key}.bias"] = layers[name].bias.detach().numpy()
    return encoder_graph(trained, encoder.shape, head=encoder.head)


class _RoundedLinear(nn.Module):
    """A linear layer that trains; with a range, its input and weights are rounded as the INT8 graph rounds them."""

    def __init__(self, weight: Array, bias: Array, span: Range | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(np.asarray(weight, np.float32)))
        self.bias = nn.Parameter(torch.tensor(np.asarray(bias, np.float32)))
        self._scale, self._zero = (0.0, 0) if span is None else _settings(span)

    def forward(self, source: Tensor) -> Tensor:
        if not self._scale:
            return functional.linear(source, self.weight, self.bias)
        rounded = torch.fake_quantize_per_tensor_affine(source, self._scale, self._zero, 0, _ACTIVATION_TOP)
        steps = (self.weight.detach().abs().amax(dim=1) / _WEIGHT_TOP).clamp_min(_TINY)
        zeros = torch.zeros(len(steps), dtype=torch.int32)
        weight = torch.fake_quantize_per_channel_affine(
            self.weight, steps, zeros, 0, -_WEIGHT_TOP, _WEIGHT_TOP
        )
        return functional.linear(rounded, weight, self.bias)


def _settings(span: Range) -> tuple[float, int]:
    scale, zero = activation_scale(span)
    return float(scale), int(zero)


def _module(encoder: Encoder, ranges: Mapping[str, Range]) -> tuple[EncoderModule, dict[str, _RoundedLinear]]:
    layers = {
        name: _RoundedLinear(
            encoder.weights[f"{key}.weight"], encoder.weights[f"{key}.bias"], ranges.get(name)
        )
        for name, key in checkpoint_names(encoder.shape.layers).items()
    }
    rest = {
        name: torch.tensor(np.asarray(array, np.float32))
        for name, array in encoder.weights.items()
        if name.startswith("embeddings.") or "LayerNorm" in name
    }
    matrix, bias = encoder.head
    rest["head.weight"] = torch.tensor(np.ascontiguousarray(matrix.T))
    rest["head.bias"] = torch.tensor(np.asarray(bias))
    return EncoderModule(encoder.shape, layers, rest), layers


def _batch(requests: list[Request]) -> tuple[Tensor, Tensor]:
    """Token rows of different lengths as one padded batch."""
    longest = max(request["input_ids"].shape[1] for request in requests)
    ids = np.zeros((len(requests), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, request in enumerate(requests):
        tokens = request["input_ids"].shape[1]
        ids[row, :tokens] = request["input_ids"][0]
        mask[row, :tokens] = request["attention_mask"][0]
    return torch.from_numpy(ids), torch.from_numpy(mask)
