"""A decoder cut across processes, seen from the first of them: tokens in, logits out."""

import contextlib
import itertools
import subprocess
import sys
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anabranch.variants.errors import VariantError, VariantRunError
from anabranch.variants.llm.kv_cache import CacheGeometry, Window
from anabranch.variants.llm.parallel.group import MOST_TOKENS, Group, Verb
from anabranch.variants.llm.parallel.module import Shard
from anabranch.variants.llm.parallel.shards import read_shape, read_shard


class ParallelCache:
    """The cache of one generation; the other processes forget theirs when this is forgotten."""

    def __init__(self, number: int, rows: torch.Tensor) -> None:
        self.number = number
        self.rows = rows
        self.used = 0
        self.most_tokens = MOST_TOKENS


class ParallelSession:
    """A loaded variant and its processes. Threads may step caches of their own at once; steps take turns.

    Args:
        folder: What `write_shards` wrote.
        threads: Threads that share one process's work, at least 1.

    Raises:
        ManifestError: The folder holds no shards.
        VariantError: The processes do not meet.
    """

    shares_steps = False

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self.degree, shape = read_shape(folder)
        self._shape = shape
        self._turn = threading.Lock()
        self._numbers = itertools.count()
        self._forgotten: deque[int] = deque()
        with tempfile.TemporaryDirectory(prefix="anabranch-ranks-") as meeting:
            self._others = [
                _start(folder, Path(meeting) / "meeting", rank, threads) for rank in range(1, self.degree)
            ]
            try:
                self._group = Group(Path(meeting) / "meeting", 0, self.degree)
            except RuntimeError as error:
                self._end_others()
                raise VariantError(f"the {self.degree} processes of {folder} do not meet: {error}") from error
        self._shard = Shard(shape, read_shard(folder, 0), self._group.add_up)

    @property
    def geometry(self) -> CacheGeometry:
        """The cache of all processes together."""
        heads = self._shape.kv_heads * self.degree
        return CacheGeometry(
            layers=self._shape.layers, heads=heads, size=self._shape.head_size, dtype="float32"
        )

    def new_cache(self, window: Window | None, tokens: int) -> ParallelCache:
        """An empty cache.

        Args:
            window: Must be None: these caches keep everything.
            tokens: The text's tokens at most.

        Raises:
            VariantError: A window is asked for.
            VariantRunError: A process is gone.
        """
        if window is not None:
            raise VariantError(
                "a decoder in several processes keeps every token: use one process for windows"
            )
        with self._turn:
            number = next(self._numbers)
            self._tell(Verb.OPEN, number, tokens)
            cache = ParallelCache(number, self._shard.new_cache(tokens))
        weakref.finalize(cache, self._forgotten.append, number)
        return cache

    def step(self, cache: Any, tokens: Sequence[int], wanted: int = 1) -> NDArray[np.float32]:
        """Read further tokens of a text.

        Args:
            cache: From `new_cache`; gets the new tokens.
            tokens: At least one, at most `cache.most_tokens`.
            wanted: Of how many of the last tokens the logits are computed, at least 1.

        Returns:
            Logits of the next token after each of the last ones, shape (wanted, vocabulary).

        Raises:
            VariantRunError: A process is gone.
        """
        with self._turn:
            while self._forgotten:
                self._tell(Verb.CLOSE, self._forgotten.popleft())
            self._tell(Verb.READ, cache.number, cache.used, tuple(tokens))
            try:
                hidden = self._shard.read(cache.rows, tokens, cache.used)
            except RuntimeError as error:
                raise VariantRunError(f"the other processes do not answer: {error}") from error
            cache.used += len(tokens)
        return self._shard.logits(hidden[-wanted:])

    def close(self) -> None:
        """End the other processes."""
        # Where some are gone already, the others lose the connection.
        with self._turn, contextlib.suppress(RuntimeError):
            self._group.tell(Verb.STOP, 0)
        self._end_others()

    def _tell(self, verb: Verb, cache: int, number: int = 0, tokens: tuple[int, ...] = ()) -> None:
        try:
            self._group.tell(verb, cache, number, tokens)
        except RuntimeError as error:
            raise VariantRunError(f"the other processes do not answer: {error}") from error

    def _end_others(self) -> None:
        for process in self._others:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(folder: Path, meeting: Path, rank: int, threads: int) -> subprocess.Popen[bytes]:
    module = "anabranch.variants.llm.parallel.rank"
    arguments = [str(folder), str(meeting), str(rank), str(threads)]
    return subprocess.Popen([sys.executable, "-m", module, *arguments], stdin=subprocess.DEVNULL)  # noqa: S603  # fixed command, no shell
