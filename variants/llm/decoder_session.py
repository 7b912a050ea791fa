"""Run a decoder's ONNX graph: tokens in, logits out, the cache filled in place."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from anabranch.variants.errors import VariantError, VariantRunError
from anabranch.variants.llm.batch_cache import BatchCache
from anabranch.variants.llm.kv_cache import (
    Cache,
    CacheGeometry,
    Window,
    empty_cache,
    past_name,
    present_name,
)

# Tokens of a prompt that are read in one call: enough to keep the cores busy, few enough to stop between two calls.
CHUNK = 64
_ERRORS_ONLY = 3
_SIDES = ("key", "value")


class DecoderSession:
    """A loaded graph. Several threads may step caches of their own at once, or one a batch of them.

    Args:
        model: The graph's file, with its weights beside it, or the bytes of a graph that holds them.
        threads: Threads that share one call's work, at least 1.

    Raises:
        VariantError: ONNX Runtime does not accept the graph.
    """

    shares_steps = True

    def __init__(self, model: Path | bytes, *, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        # Spinning threads would take the cores from the router's own loop.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        source = str(model) if isinstance(model, Path) else model
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the binding raises its own classes, all below Exception
            where = model if isinstance(model, Path) else "the built graph"
            raise VariantError(f"ONNX Runtime does not load {where}: {error}") from error
        inputs = {node.name: node for node in self._session.get_inputs()}
        buffer = inputs[past_name(0, "key")]
        self.geometry = CacheGeometry(
            layers=sum(name.startswith("past.") for name in inputs) // 2,
            heads=buffer.shape[1],
            size=buffer.shape[3],
            dtype=_DTYPES[buffer.type],
        )
        self.vocabulary: int = self._session.get_outputs()[0].shape[2]
        self._places = "position_ids" in inputs
        self._visible_dtype = np.dtype(_DTYPES[inputs["visible"].type]) if self._places else None

    def new_cache(self, window: Window | None, tokens: int) -> Cache:
        """An empty cache.

        Args:
            window: What the variant remembers; None for everything.
            tokens: The text's tokens at most.
        """
        return empty_cache(self.geometry, window, tokens, CHUNK)

    def close(self) -> None:
        """Nothing: its memory goes with it."""

    def step(self, cache: Cache, tokens: Sequence[int], wanted: int = 1) -> NDArray[np.float32]:
        """Read further tokens of a text.

        Args:
            cache: What came before; gets the new tokens.
            tokens: At least one, at most `cache.most_tokens`.
            wanted: Of how many of the last tokens the logits are computed, at least 1.

        Returns:
            Logits of the next token after each of the last ones, shape (wanted, vocabulary).

        Raises:
            VariantRunError: ONNX Runtime failed.
        """
        placed = cache.place(len(tokens))
        feeds: dict[str, NDArray[Any]] = {
            "input_ids": np.array([tokens], np.int64),
            "first_logit": np.array([len(tokens) - wanted], np.int64),
            "last_row": np.array([placed.rows - 1], np.int32),
            "rows": np.array(placed.rows, np.int32),
        }
        logits = self._run(feeds, placed.positions, placed.visible, cache.buffers[:, :, None], wanted)
        last: NDArray[np.float32] = logits[0]
        return last

    def new_batch(self, window: Window | None, slots: int, tokens: int) -> BatchCache:
        """Room for several caches side by side, all empty.

        Args:
            window: What the variant remembers; None for everything.
            slots: Texts at most.
            tokens: One text's tokens at most.
        """
        return BatchCache(self.geometry, slots, tokens if window is None else min(tokens, window.rows))

    def step_batch(self, batch: BatchCache, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Read one further token of each text of a batch.

        Args:
            batch: What came before; gets the new tokens.
            tokens: One for each text, in their order.

        Returns:
            Logits of the next tokens, shape (texts, vocabulary).

        Raises:
            VariantRunError: ONNX Runtime failed.
        """
        placed = batch.place()
        feeds: dict[str, NDArray[Any]] = {
            "input_ids": np.array(tokens, np.int64)[:, None],
            "first_logit": np.array([0], np.int64),
            "last_row": placed.last_rows,
            "rows": np.array(placed.rows, np.int32),
        }
        buffers = batch.buffers[:, :, : len(tokens)]
        logits = self._run(feeds, placed.positions, placed.visible, buffers, 1)
        every: NDArray[np.float32] = logits[:, 0]
        return every

    def _run(
        self,
        feeds: dict[str, NDArray[Any]],
        positions: NDArray[np.int64],
        visible: NDArray[np.float32] | None,
        buffers: NDArray[Any],
        wanted: int,
    ) -> NDArray[np.float32]:
        """Logits, shape (texts, wanted, vocabulary); buffers have shape (layers, 2, texts, heads, rows, size)."""
        texts = buffers.shape[2]
        logits: NDArray[np.float32] = np.empty((texts, wanted, self.vocabulary), np.float32)
        if visible is not None and self._visible_dtype is not None:
            feeds["position_ids"] = positions
            feeds["visible"] = visible.astype(self._visible_dtype)
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        _bind_cache(binding, buffers)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # the binding raises its own classes, all below Exception
            raise VariantRunError(f"ONNX Runtime failed: {error}") from error
        return logits


_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
}


def _bind_cache(binding: "onnxruntime.IOBinding", buffers: NDArray[Any]) -> None:
    """One buffer is both what a layer reads and what it writes."""
    shape = buffers.shape[2:]
    for layer in range(buffers.shape[0]):
        for side, name in enumerate(_SIDES):
            address = buffers[layer, side].ctypes.data
            element = buffers.dtype.type
            binding.bind_input(past_name(layer, name), "cpu", 0, element, shape, address)
            binding.bind_output(present_name(layer, name), "cpu", 0, element, shape, address)
