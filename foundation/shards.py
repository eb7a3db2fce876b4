"""Work divided among the shards of a job array, and the processes that a launcher starts for each."""

import os
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def parse_shard(shard: str) -> tuple[int, int]:
    """i/n, the i-th of n parts from 1/n to n/n -> (i - 1, n).

    Raises: ValueError: If it is something else.
    """
    i, slash, n = shard.partition("/")
    if not (slash and i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise ValueError(f"shard {shard!r}, expected i/n with i from 1 to n, such as 1/4")
    return int(i) - 1, int(n)


def own_part(items: Sequence[Item], shard: str) -> Sequence[Item]:
    """This process's consecutive part of the items.

    Args:
        items: The same in every process.
        shard: As for `parse_shard`; `torchrun` and `accelerate launch` say by RANK and WORLD_SIZE which process of the
            shard this is.
    """
    number, shards = parse_shard(shard)
    rank, processes = (int(os.environ.get(name, alone)) for name, alone in (("RANK", "0"), ("WORLD_SIZE", "1")))
    part, parts, count = number * processes + rank, shards * processes, len(items)
    return items[count * part // parts : count * (part + 1) // parts]
