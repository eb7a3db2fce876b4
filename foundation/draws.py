"""Stateless randomness: what is drawn is a function of the seed and of what it is for, and of nothing else.

So neither the number of processes nor their order nor an interruption changes what is drawn.
"""

import numpy as np

STREAMS = (
    "order",
    "augmentation",
    "timestep",
    "noise",
    "posterior",
    "dropout",
    "slices",
    "whole",
    "other mask",
    "attributes",
    "labels",
    "site",
    "mask noise",
    "region",
    "downstream",
)


def generator(seed: int, stream: str, number: int) -> np.random.Generator:
    """NumPy generator of one stream (one of STREAMS) for one draw, epoch or lesion."""
    return np.random.default_rng([seed, STREAMS.index(stream), number])
