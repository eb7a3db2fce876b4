"""Pictures of volumes: rows of cases, columns of versions, the central axial slice of each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

DIFFERENCE = "difference"  # columns whose title contains this word are drawn in red and blue around zero


def save_slices(path: Path, rows: Sequence[Sequence[ArrayLike]], titles: Sequence[str]) -> None:
    """Draw the central axial slices of ct_norm volumes.

    Args:
        path: PNG to write; parents are made.
        rows: One sequence of volumes (D, H, W) per case, in ct_norm.
        titles: One per column.
    Raises: ValueError: If a row has another number of volumes than there are titles.
    """
    from matplotlib.figure import Figure  # a figure without pyplot's global state

    if any(len(row) != len(titles) for row in rows):
        raise ValueError(f"rows of {[len(row) for row in rows]} volumes for {len(titles)} titles; give one title each")
    figure = Figure(figsize=(2 * len(titles), 2 * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for r, row in enumerate(rows):
        for c, (volume, title) in enumerate(zip(row, titles, strict=True)):
            plane = np.asarray(volume)[len(np.asarray(volume)) // 2]
            signed = DIFFERENCE in title
            axes[r, c].imshow(
                plane, cmap="RdBu_r" if signed else "gray", vmin=-0.4 if signed else -1, vmax=0.4 if signed else 1
            )
            axes[r, c].set_axis_off()
            if r == 0:
                axes[r, c].set_title(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
