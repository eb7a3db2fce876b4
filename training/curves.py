"""The curves of a run as one picture."""

import json
from pathlib import Path

import numpy as np

from foundation.atomic import write_atomically


def read_metrics(path: Path) -> dict[str, np.ndarray]:
    """`metrics.jsonl` -> {name: (n, 2) array of step and value}; of repeated steps (after a kill) the last counts."""
    values: dict[str, dict[int, float]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # a line cut off by a kill
        step = record.pop("step")
        for name, value in record.items():
            values.setdefault(name, {})[step] = value
    return {name: np.array(sorted(points.items())) for name, points in values.items()}


def plot_curves(metrics: Path, picture: Path) -> None:
    """Draw every logged value over the steps, one panel each; positive values that span decades on a log axis."""
    from matplotlib.figure import Figure  # a figure without pyplot's global state

    curves = read_metrics(metrics)
    if not curves:
        return
    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    width, height = 3.6 * columns, 2.6 * rows
    figure = Figure(figsize=(width, height))
    # fixed margins in inches: a layout that is fitted to the labels would more than double the time of a checkpoint
    figure.subplots_adjust(0.5 / width, 0.3 / height, 1 - 0.1 / width, 1 - 0.3 / height, wspace=0.17, hspace=0.25)
    for index, (name, points) in enumerate(curves.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.plot(points[:, 0], points[:, 1], linewidth=1)
        if points[:, 1].min() > 0 and points[:, 1].max() > 30 * points[:, 1].min():
            axes.set_yscale("log")
        else:
            axes.locator_params(nbins=5)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
    write_atomically(picture, lambda temporary: figure.savefig(temporary, format="png", dpi=100))
