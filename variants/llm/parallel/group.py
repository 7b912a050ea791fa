"""How the processes of one variant talk: commands from the first to the others, and sums over all of them.

Commands are arrays of whole numbers of one size, so that nothing but a broadcast is needed. A group belongs to one variant;
a process may be in several.
"""

from datetime import timedelta
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch
import torch.distributed as c10d
from torch import Tensor

# Tokens that one command may bring.
MOST_TOKENS = 64
_HEAD = 4
# Starting an interpreter with torch on a busy machine, or the longest call of a large decoder.
_ANSWER = timedelta(seconds=120)
# A variant waits for requests as long as it is served; a process that is gone breaks the connection at once.
_REQUEST = timedelta(days=3650)


class Verb(IntEnum):
    """What the first process tells the others to do."""

    OPEN = 0  # a cache, for a number of tokens
    READ = 1  # tokens into a cache, from a position on
    CLOSE = 2  # a cache
    STOP = 3  # and end


class Group:
    """The processes of one variant.

    Args:
        meeting: A file that does not exist yet, the same for all of them.
        rank: Which one this is, from 0.
        degree: How many they are.

    Raises:
        RuntimeError: They do not meet.
    """

    def __init__(self, meeting: Path, rank: int, degree: int) -> None:
        store = c10d.FileStore(str(meeting), degree)  # type: ignore[attr-defined]  # its stubs do not export it
        store.set_timeout(_ANSWER)
        self._gloo: Any = c10d.ProcessGroupGloo(store, rank, degree, _ANSWER)
        # The file of the meeting may go once everybody has met everybody.
        self.add_up(torch.zeros(1))

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all processes.

        Raises:
            RuntimeError: One of them is gone.
        """
        self._gloo.allreduce([tensor]).wait()

    def tell(self, verb: Verb, cache: int, number: int = 0, tokens: tuple[int, ...] = ()) -> None:
        """From the first process: a command.

        Args:
            verb: What to do.
            cache: With which cache.
            number: A cache's size, or the first token's position.
            tokens: What to read.

        Raises:
            RuntimeError: A process is gone.
        """
        command = torch.zeros(_HEAD + MOST_TOKENS, dtype=torch.int64)
        command[:_HEAD] = torch.tensor((verb, cache, number, len(tokens)))
        command[_HEAD : _HEAD + len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        self._gloo.broadcast(command, 0).wait()

    def hear(self) -> tuple[Verb, int, int, tuple[int, ...]]:
        """In the other processes: the next command.

        Raises:
            RuntimeError: The first process is gone.
        """
        command = torch.zeros(_HEAD + MOST_TOKENS, dtype=torch.int64)
        waiting = c10d.BroadcastOptions()
        waiting.rootRank = 0
        waiting.timeout = _REQUEST
        self._gloo.broadcast([command], waiting).wait()
        verb, cache, number, count = command[:_HEAD].tolist()
        return Verb(verb), cache, number, tuple(command[_HEAD : _HEAD + count].tolist())
