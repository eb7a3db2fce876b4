"""The report's pictures, drawn without pyplot's global state; each function writes one PNG."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from sklearn.manifold import TSNE

from evaluation.lesions.lesion_sets import Lesion, lesion_cube
from evaluation.lesions.set_comparison import DistanceRow, FloorRow

COLOURS = ("#1b7837", "#762a83", "#e08214", "#2166ac", "#b2182b", "#666666")  # real first, then the methods
DPI = 110


def tsne_embedding(sets: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """t-SNE of several sets of feature vectors in one plane (van der Maaten & Hinton 2008; scikit-learn).

    Each feature is standardised over all rows first. The perplexity is 30, or a third of the rows if that is less.

    Args:
        sets: (N_i, F) each.
        seed: Of the optimisation.
    Returns: (N_i, 2) each.
    Raises: ValueError: If there are fewer than 5 rows in all.
    """
    rows = np.concatenate(sets)
    if len(rows) < 5:
        raise ValueError(f"{len(rows)} lesions in all, expected at least 5 for a t-SNE plot")
    spread = rows.std(axis=0)
    rows = (rows - rows.mean(axis=0)) / np.where(spread > 0, spread, 1)
    perplexity = min(30.0, (len(rows) - 1) / 3)
    plane = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(rows)
    return np.split(plane, np.cumsum([len(one) for one in sets])[:-1])


def draw_tsne(path: Path, planes: Sequence[np.ndarray], labels: Sequence[str]) -> None:
    """Scatter plot of `tsne_embedding`; the real set is drawn as rings."""
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for index, (plane, label) in enumerate(zip(planes, labels, strict=True)):
        colour = COLOURS[index % len(COLOURS)]
        fill = "none" if index == 0 else colour
        axes.scatter(plane[:, 0], plane[:, 1], s=26, facecolors=fill, edgecolors=colour, alpha=0.8, label=label)
    axes.set(xticks=[], yticks=[])
    axes.legend(frameon=False)
    _save(figure, path)


def draw_gallery(path: Path, columns: Sequence[Sequence[Lesion | None]], titles: Sequence[str]) -> None:
    """Axial centre slice (32 x 32 mm, lung window) of lesions, the mask's outline dotted; None leaves a gap."""
    rows = len(columns[0])
    figure = Figure(figsize=(1.7 * len(columns), 1.7 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for c, (lesions, title) in enumerate(zip(columns, titles, strict=True)):
        grid[0, c].set_title(title, fontsize=8)
        for r, lesion in enumerate(lesions):
            grid[r, c].set_axis_off()
            if lesion is not None:
                _draw_lesion(grid[r, c], lesion)
    _save(figure, path)


def draw_distances(path: Path, rows: Sequence[DistanceRow]) -> None:
    """Each metric's ratio to real vs real with its interval; the range of real vs real over the splits is shaded."""
    rows = [row for row in rows if row.ratio is not None]
    metrics, methods = list(dict.fromkeys(r.metric for r in rows)), list(dict.fromkeys(r.method for r in rows))
    figure = Figure(figsize=(8, 0.3 * len(metrics) * (1 + len(methods) / 3) + 1.2), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        if row.floor is None or row.ratio is None or row.low is None or row.high is None:
            continue
        y, index, unit = metrics.index(row.metric), methods.index(row.method), row.floor.mean
        if index == 0:
            axes.barh(y, (row.floor.high - row.floor.low) / unit, 0.9, row.floor.low / unit, color="#dfeadf")
        error = [[row.ratio - row.low], [row.high - row.ratio]]
        axes.errorbar(
            row.ratio,
            y + 0.7 * ((index + 0.5) / len(methods) - 0.5),
            xerr=error,
            fmt="o",
            color=COLOURS[(index + 1) % len(COLOURS)],
            capsize=2,
            label=row.method if y == 0 else None,
        )
    axes.axvline(1, color=COLOURS[0], linewidth=1)
    axes.set_yticks(range(len(metrics)), metrics)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("synthetic vs real / real vs real (shaded: 95 % of single splits of real vs real)")
    axes.legend(frameon=False)
    _save(figure, path)


def draw_floors(path: Path, rows: Sequence[FloorRow]) -> None:
    """Real vs real by size of the two halves, in units of the smallest size's value: the small-sample bias."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for metric in dict.fromkeys(row.metric for row in rows):
        line = sorted((row for row in rows if row.metric == metric), key=lambda row: row.sizes)
        if not metric.startswith("KID") and line[0].mean > 0:
            axes.plot(
                [row.sizes[0] for row in line], [row.mean / line[0].mean for row in line], "o-", ms=3, label=metric
            )
    axes.set(xlabel="lesions in each half", ylabel="real vs real / its value at the smallest size", ylim=(0, None))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)


def draw_features(path: Path, names: Sequence[str], distances: dict[str, np.ndarray]) -> None:
    """Standardised Wasserstein distance of each named feature, one line per method."""
    figure = Figure(figsize=(max(7, 0.17 * len(names) + 2), 4), layout="constrained")
    axes = figure.subplots()
    for index, (label, values) in enumerate(distances.items()):
        axes.plot(values, "o-", ms=3, linewidth=1, label=label, color=COLOURS[(index + 1) % len(COLOURS)])
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    axes.set(ylabel="Wasserstein distance / real spread", ylim=(0, None), xlim=(-0.5, len(names) - 0.5))
    axes.legend(frameon=False)
    _save(figure, path)


def draw_nearest(path: Path, distances: dict[str, np.ndarray], threshold: float) -> None:
    """Cumulative share of lesions by the distance to their nearest training lesion."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for index, (label, values) in enumerate(distances.items()):
        share = np.arange(1, len(values) + 1) / len(values)
        axes.step(np.sort(values), share, where="post", label=label, color=COLOURS[index % len(COLOURS)])
    axes.axvline(threshold, color="black", linestyle=":", label="suspect below")
    axes.set(
        xlabel="RMS difference to the nearest training lesion [ct_norm]", ylabel="share of lesions", xlim=(0, None)
    )
    axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def draw_power_ratios(path: Path, frequency: np.ndarray, panels: dict[str, dict[str, np.ndarray]], xlabel: str) -> None:
    """Power ratio by spatial frequency: a panel per title, a curve per version, 1 the ratio of equal images."""
    figure = Figure(figsize=(4.6 * len(panels), 3.8), layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for index, (label, ratio) in enumerate(curves.items()):
            axes.plot(frequency, ratio, "o-", ms=3, label=label, color=COLOURS[index % len(COLOURS)])
        axes.set(title=title, xlabel=xlabel, ylabel="power / power of the original", xlim=(0, None), ylim=(0, None))
        axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def _draw_lesion(axes: Axes, lesion: Lesion) -> None:
    cube, mask = lesion_cube(lesion)
    middle = len(cube) // 2
    axes.imshow(cube[middle], cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    if mask[middle].any():
        axes.contour(mask[middle], [0.5], colors="#ffd24d", linewidths=0.7, linestyles=":")


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
