"""Run a decoder on a GPU: prompts eagerly, in large chunks; steps of a batch eagerly or by CUDA graphs."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anabranch.variants.errors import VariantError, VariantRunError
from anabranch.variants.llm.batch_cache import BatchCache
from anabranch.variants.llm.gpu.artifact import read_description, read_weights
from anabranch.variants.llm.gpu.module import GpuDecoder, Layer, layer
from anabranch.variants.llm.kv_cache import HIDDEN, Cache, CacheGeometry, Window, empty_cache
from anabranch.variants.torch_engine.session import GPU

# Tokens of a prompt that are read in one call: a GPU is full with some hundred, and a stream waits for no more.
CHUNK = 256
# Rows that a step looks at are a multiple of this: masks are aligned, and graphs few.
_ROW_STEP = 64
_GRAPH_ROWS = 256
_WARM_CALLS = 2
# Torch counts the compilations of one function in the whole process.
_MOST_COMPILATIONS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuGeometry(CacheGeometry):
    """Buffers on a device; torch's tensors are indexed as numpy's arrays are.

    Args:
        device: Torch's name of it.
        element: Torch's `dtype`.
    """

    device: str
    element: torch.dtype

    def allocate(self, rows: int) -> Any:
        """Buffers of at least that many rows, shape (layers, 2, heads, rows, size)."""
        return self._zeros(self.layers, 2, self.heads, _up(rows, _ROW_STEP), self.size)

    def allocate_batch(self, slots: int, rows: int) -> Any:
        """Buffers of several texts, shape (layers, 2, slots, heads, rows, size)."""
        return self._zeros(self.layers, 2, slots, self.heads, _up(rows, _ROW_STEP), self.size)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.element, device=self.device)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


@dataclass(slots=True)
class Recorded:
    """A graph of one step, and the pinned memory that it reads and writes."""

    graph: Any
    asked: Tensor
    logits: Tensor


class GpuSession:
    """A loaded decoder; calls take turns.

    Args:
        folder: What `write_decoder` wrote.
        device: Where it runs, in torch's words.

    Raises:
        ManifestError: The folder holds no such decoder.
        VariantError: There is no GPU.
    """

    shares_steps = True

    def __init__(self, folder: Path, *, device: str = "cuda") -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise VariantError(
                f"{folder} is built for a GPU, and torch {torch.__version__} sees none: serve it where there is one"
            )
        shape, self.plan = read_description(folder)
        self._decoder = GpuDecoder(shape, self.plan, read_weights(folder), device)
        self._device = device
        element = self._decoder.cache_dtype
        self.geometry = GpuGeometry(
            layers=shape.layers,
            heads=shape.kv_heads,
            size=self._decoder.cache_size,
            dtype=str(element).removeprefix("torch."),
            device=device,
            element=element,
        )
        self._step_layer: Callable[..., Tensor] = layer
        self._replays = self.plan.is_compiled and device == "cuda"
        if self.plan.is_compiled:
            torch._dynamo.config.recompile_limit = max(
                torch._dynamo.config.recompile_limit, _MOST_COMPILATIONS
            )
            self._step_layer = _compiled()

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
            VariantRunError: The GPU failed.
        """
        with _turn():
            placed = cache.place(len(tokens))
            seen = _up(placed.rows, _ROW_STEP)
            rows = np.arange(placed.rows - len(tokens), placed.rows)
            hidden_rows = np.where(np.arange(seen) <= rows[:, None], np.float32(0), np.float32(HIDDEN))
            if placed.visible is not None:
                hidden_rows[:, : placed.rows] = placed.visible[0, 0]
            caches: Any = cache.buffers
            hidden = self._decoder.read(
                self._sent([tokens]),
                self._sent(placed.positions),
                self._sent(rows[None]),
                self._sent(hidden_rows[None]),
                caches[:, :, None],
                layer,
            )
            logits: NDArray[np.float32] = self._decoder.logits(hidden[0, -wanted:]).cpu().numpy()
            return logits

    def new_batch(self, window: Window | None, slots: int, tokens: int) -> "GpuBatch":
        """Room for several caches side by side, all empty.

        Args:
            window: What the variant remembers; None for everything.
            slots: Texts at most.
            tokens: One text's tokens at most.
        """
        return GpuBatch(self.geometry, slots, tokens if window is None else min(tokens, window.rows))

    def step_batch(self, batch: "GpuBatch", tokens: Sequence[int]) -> NDArray[np.float32]:
        """Read one further token of each text of a batch.

        Args:
            batch: What came before; gets the new tokens.
            tokens: One for each text, in their order.

        Returns:
            Logits of the next tokens, shape (texts, vocabulary).

        Raises:
            VariantRunError: The GPU failed.
        """
        with _turn():
            placed = batch.place()
            # What the next token does not see was dropped before: it sees every row in use.
            asked = np.zeros((3, min(1 << (len(tokens) - 1).bit_length(), batch.slots)), np.int64)
            asked[:, : len(tokens)] = tokens, placed.positions[:, 0], placed.last_rows
            seen = min(_up(placed.rows, _GRAPH_ROWS), batch.buffers.shape[4])
            if not self._replays:
                logits = self._step(torch.from_numpy(asked).to(self._device), batch.buffers, seen).cpu()
                return _first(logits, len(tokens))
            key = asked.shape[1], seen
            recorded = batch.recorded.get(key)
            if recorded is None:
                recorded = batch.recorded[key] = self._record(asked, batch.buffers, seen)
            recorded.asked.copy_(torch.from_numpy(asked))
            recorded.graph.replay()
            torch.cuda.current_stream().synchronize()
            return _first(recorded.logits, len(tokens)).copy()

    def _step(self, asked: Tensor, buffers: Tensor, seen: int) -> Tensor:
        """Logits of one step, shape (texts, vocabulary); `asked` has ids, positions and rows."""
        ids, positions, rows = asked[:, :, None]
        later = torch.arange(seen, device=asked.device) > rows[..., None]
        hidden_rows = later.to(self._decoder.number) * HIDDEN
        texts = buffers[:, :, : len(ids)]
        hidden = self._decoder.read(ids, positions, rows, hidden_rows, texts, self._step_layer)
        return self._decoder.logits(hidden[:, -1])

    def _record(self, now: NDArray[np.int64], buffers: Tensor, seen: int) -> "Recorded":
        """Record the step of so many texts and rows, with the step that is due: what it writes, a replay writes again."""
        asked = torch.from_numpy(now.copy()).pin_memory()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_CALLS):
                warm = self._step(asked.to("cuda", non_blocking=True), buffers, seen)
        torch.cuda.synchronize()
        logits = torch.empty(warm.shape).pin_memory()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits.copy_(self._step(asked.to("cuda", non_blocking=True), buffers, seen), non_blocking=True)
        return Recorded(graph, asked, logits)

    def _sent(self, values: Any) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device)


def _compiled() -> Callable[..., Tensor]:
    """The layer, compiled once for a text alone and once for several, of any length."""
    compiled = torch.compile(layer)

    def marked(
        hidden: Tensor,
        weights: Layer,
        turns: tuple[Tensor, Tensor],
        rows: Tensor,
        mask: Tensor,
        caches: tuple[Tensor, Tensor],
        *sizes: Any,
    ) -> Tensor:
        torch._dynamo.maybe_mark_dynamic(mask, 3)
        if len(hidden) > 1:
            for tensor in (hidden, *turns, rows, mask, *caches):
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        found: Tensor = compiled(hidden, weights, turns, rows, mask, caches, *sizes)
        return found

    return marked


class GpuBatch(BatchCache):
    """Caches of several texts on a GPU, and the graphs that read and write them: it keeps its memory at rest."""

    def __init__(self, geometry: CacheGeometry, slots: int, rows: int) -> None:
        super().__init__(geometry, slots, rows)
        self.recorded: dict[tuple[int, int], Recorded] = {}

    def rest(self) -> None:
        """Keep all: recording the graphs anew would take longer than a whole answer."""


def _first(logits: Tensor, texts: int) -> NDArray[np.float32]:
    found: NDArray[np.float32] = logits[:texts].numpy()
    return found


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    """The GPU, without gradients, with FP32 products in full; what torch raises is told in words of ours."""
    try:
        with GPU, torch.inference_mode():
            torch.set_float32_matmul_precision("highest")
            yield
    except RuntimeError as error:
        raise VariantRunError(f"torch failed on the GPU: {error}") from error
