"""Run an encoder's artifact in torch: eager or compiled, on a CPU or a GPU."""

import importlib.util
import threading
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from anabranch.variants.errors import VariantError, VariantRunError
from anabranch.variants.recipes import Device
from anabranch.variants.tensors import Array
from anabranch.variants.torch_engine.artifact import read_encoder
from anabranch.variants.torch_engine.encoder import EncoderModule
from anabranch.variants.torch_engine.graphs import Encode, GraphReplay

# The precision of FP32 products is one setting a process: calls on the GPU take turns, each with its own.
GPU = threading.Lock()
# Torch counts the compilations of one function in the whole process, and every variant needs two: one request alone,
# and any batch.
_MOST_COMPILATIONS = 64


class TorchSession:
    """An encoder in torch.

    Args:
        path: A file that `write_encoder` wrote.
        threads: Threads that share one call's work on a CPU. Torch has one such number a process: the last session
            sets it.
        device: Where it runs.
        is_compiled: Whether the encoder is compiled: on a CPU to C++, on a GPU to fused kernels in CUDA graphs.
        uses_tf32: Whether FP32 products on a GPU may round their factors to TF32.
        embedding: Whether to give `embedding` beside `logits`.

    Raises:
        VariantError: The file is not such a file, or the device is missing.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int = 1,
        device: Device = Device.CPU,
        is_compiled: bool = False,
        uses_tf32: bool = False,
        embedding: bool = False,
    ) -> None:
        if device is Device.CUDA and not torch.cuda.is_available():
            raise VariantError(
                f"{path} is built for a GPU, and torch {torch.__version__} sees none: serve it where there is one"
            )
        torch.set_num_threads(threads)
        module = read_encoder(path).to(device.value).eval()
        encode: Encode = _compiled(module, device) if is_compiled else module
        self._device = device
        self._precision = "high" if uses_tf32 else "highest"
        replays = is_compiled and device is Device.CUDA
        self._encode = GraphReplay(encode) if replays else encode
        self._moves = device is Device.CUDA and not replays
        self._with_embedding = embedding

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute `logits`, and `embedding` where it was asked for.

        Raises:
            VariantRunError: Torch failed.
        """
        ids, mask = torch.from_numpy(feeds["input_ids"]), torch.from_numpy(feeds["attention_mask"])
        try:
            if self._device is Device.CPU:
                with torch.inference_mode():
                    logits, embedding = self._encode(ids, mask)
            else:
                logits, embedding = self._run_on_gpu(ids, mask)
        except (RuntimeError, IndexError, KeyError) as error:
            raise VariantRunError(f"torch failed: {error}") from error
        outputs = {"logits": logits.numpy()}
        if self._with_embedding:
            outputs["embedding"] = embedding.numpy()
        return outputs

    def _run_on_gpu(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        with GPU, torch.inference_mode():
            torch.set_float32_matmul_precision(self._precision)
            if self._moves:
                ids, mask = ids.cuda(non_blocking=True), mask.cuda(non_blocking=True)
            logits, embedding = self._encode(ids, mask)
            return logits.cpu(), embedding.cpu() if self._with_embedding else embedding


def _compiled(module: EncoderModule, device: Device) -> Encode:
    """Kernels of ours where they take the encoder, else those of torch's compiler."""
    if device is Device.CUDA and importlib.util.find_spec("triton") is not None:
        from anabranch.variants.torch_engine.chained import ChainedEncoder, can_chain
        from anabranch.variants.torch_engine.fused import FusedEncoder, can_fuse

        otherwise: Encode = FusedEncoder(module) if can_fuse(module) else _by_compiler(module)
        return ChainedEncoder(module, otherwise) if can_chain(module) else otherwise
    return _by_compiler(module)


def _by_compiler(module: EncoderModule) -> Encode:
    torch._dynamo.config.recompile_limit = _MOST_COMPILATIONS
    compiled: Encode = torch.compile(module, dynamic=True, fullgraph=True)
    return compiled
