"""One of the other processes of a variant: does what the first one tells, until it says stop or is gone.

Started as `python -m anabranch.variants.llm.parallel.rank FOLDER MEETING RANK THREADS`.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from anabranch.variants.llm.parallel.group import Group, Verb
from anabranch.variants.llm.parallel.module import Shard
from anabranch.variants.llm.parallel.shards import read_shape, read_shard


def serve(folder: Path, meeting: Path, rank: int, threads: int) -> None:
    """Do as told.

    Args:
        folder: The variant's folder.
        meeting: Where the processes meet.
        rank: Which one this is, from 1.
        threads: Threads that share this process's work.
    """
    torch.set_num_threads(threads)
    degree, shape = read_shape(folder)
    group = Group(meeting, rank, degree)
    shard = Shard(shape, read_shard(folder, rank), group.add_up)
    caches: dict[int, Tensor] = {}
    while True:
        verb, cache, number, tokens = group.hear()
        match verb:
            case Verb.OPEN:
                caches[cache] = shard.new_cache(number)
            case Verb.READ:
                shard.read(caches[cache], tokens, number)
            case Verb.CLOSE:
                del caches[cache]
            case Verb.STOP:
                return


if __name__ == "__main__":
    try:
        serve(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    except RuntimeError as error:
        # The first process ended, with or without a word: there is nobody left to work for.
        print(f"rank {sys.argv[3]}: {error}", file=sys.stderr)
        sys.exit(1)
