"""Pictures of guidance, one PNG each: the trade-off, requested against achieved, leakage, grids of lesions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.guided.cost import FRECHET, GOAL_AUROC, GOAL_RHO, TEXTURE_DISTANCES, CostRow
from evaluation.guided.requested_sets import RequestedSet
from evaluation.guided.requested_vs_achieved import LeakRow
from evaluation.lesions.lesion_sets import Lesion, lesion_cube
from evaluation.reports.figures import COLOURS, DPI

PLANES = ("axial", "coronal", "sagittal")
Cell = tuple[Lesion, int] | None  # a lesion and which of the planes


def draw_trade_off(
    path: Path,
    followed: Mapping[str, Mapping[float, tuple[float, float | None, float | None]]],
    costs: Sequence[CostRow],
) -> None:
    """A row for each request: how well it is followed by scale, the distances' ratios by scale, and one over the other.

    Args:
        path: PNG.
        followed: AttributeValue -> scale -> figure (AUROC or rank correlation) with its interval.
        costs: Of the same requests.
    """
    figure = Figure(figsize=(12.5, 3.4 * len(followed)), layout="constrained")
    grid = figure.subplots(len(followed), 3, squeeze=False)
    for row, (attribute, by_scale) in enumerate(followed.items()):
        classes = attribute == "malignancy"
        label = f"{attribute}: " + ("judge's AUROC at equal size" if classes else "rank correlation")
        goal = GOAL_AUROC if classes else GOAL_RHO
        own = {cost.scale: cost for cost in costs if cost.attribute == attribute}
        scales = sorted(by_scale)
        values = np.array([by_scale[scale][0] for scale in scales])
        error = np.array([_reach(*by_scale[scale]) for scale in scales])
        places = range(len(scales))
        left, middle, right = grid[row]
        left.errorbar(places, values, yerr=error.T, fmt="o-", ms=4, capsize=2, color=COLOURS[1])
        left.axhline(goal, color="black", linewidth=0.8, linestyle=":")
        left.set(ylabel=label, xlabel="scale", ylim=(min(0.4 if classes else -0.1, values.min()), 1.02))
        left.set_xticks(places, [f"{scale:g}" for scale in scales])
        _draw_ratios(middle, [own.get(scale) for scale in scales])
        middle.set_xticks(places, [f"{scale:g}" for scale in scales])
        pairs = [(own[s].texture_ratio, v, s) for s, v in zip(scales, values, strict=True) if s in own]
        known = [(ratio, value, scale) for ratio, value, scale in pairs if ratio is not None]
        if known:
            right.plot([k[0] for k in known], [k[1] for k in known], "o-", ms=4, color=COLOURS[1])
            for ratio, value, scale in known:
                right.annotate(f"{scale:g}", (ratio, value), xytext=(4, 4), textcoords="offset points", fontsize=8)
            low, high = _texture_range(list(own.values()))
            right.axvspan(low, high, color="#dfeadf", zorder=0)
        right.axhline(goal, color="black", linewidth=0.8, linestyle=":")
        right.set(xlabel="texture distance / real vs real (shaded: 95 % of splits)", ylabel=label)
    _save(figure, path)


def draw_requested_against_achieved(path: Path, sets: Mapping[str, Mapping[float, Sequence[RequestedSet]]]) -> None:
    """A row for each HU request, a panel for each scale: achieved over requested HU, their means, the identity."""
    scales = sorted({scale for by_scale in sets.values() for scale in by_scale})
    figure = Figure(figsize=(2.4 * len(scales) + 0.6, 2.5 * len(sets) + 0.3), layout="constrained")
    grid = figure.subplots(len(sets), len(scales), squeeze=False, sharex="row", sharey="row")
    rng = np.random.default_rng(0)
    for row, (attribute, by_scale) in enumerate(sets.items()):
        for column, scale in enumerate(scales):
            axes = grid[row, column]
            if scale not in by_scale:
                axes.set_axis_off()
                continue
            requested = np.concatenate([np.full(len(s.character.lesions), s.value.number) for s in by_scale[scale]])
            found = np.concatenate([s.character.value(attribute) for s in by_scale[scale]])
            width = 0.02 * (requested.max() - requested.min() + 1)
            axes.plot(
                [requested.min(), requested.max()], [requested.min(), requested.max()], color="black", linewidth=0.8
            )
            axes.scatter(
                requested + rng.normal(0, width, len(requested)), found, s=9, alpha=0.5, color=COLOURS[3], linewidth=0
            )
            numbers = sorted(set(requested.tolist()))
            axes.plot(numbers, [found[requested == number].mean() for number in numbers], "o-", ms=4, color=COLOURS[4])
            axes.set_title(f"scale {scale:g}", fontsize=9)
            if column == 0:
                axes.set_ylabel(f"achieved {attribute} [HU]", fontsize=8)
            if row == len(sets) - 1:
                axes.set_xlabel("requested [HU]", fontsize=8)
    _save(figure, path)


def draw_ratings(path: Path, means: Mapping[str, Mapping[float, Mapping[float, float]]]) -> None:
    """A panel for each graded attribute: mean of the judge's image part over the requested rating, by scale."""
    figure = Figure(figsize=(3.6 * len(means), 3.2), layout="constrained")
    for axes, (attribute, by_scale) in zip(
        figure.subplots(1, len(means), squeeze=False)[0], means.items(), strict=True
    ):
        for index, scale in enumerate(sorted(by_scale)):
            numbers = sorted(by_scale[scale])
            shade = 0.85 - 0.75 * index / max(len(by_scale) - 1, 1)
            values = [by_scale[scale][number] for number in numbers]
            axes.plot(numbers, values, "o-", ms=3, color=str(shade), label=f"{scale:g}")
        axes.set(title=attribute, xlabel="requested", ylabel="judged, against nodules of like size")
        axes.legend(title="scale", frameon=False, fontsize=7, title_fontsize=7)
    _save(figure, path)


def draw_leakage(path: Path, rows: Sequence[LeakRow]) -> None:
    """A panel for each scale: mean change of everything judged and measured, by what was requested."""
    scales = sorted({row.scale for row in rows})
    names = list(rows[0].changes)
    labels = list(dict.fromkeys(f"{row.attribute} {row.value}" for row in rows))
    figure = Figure(figsize=(2.0 * len(scales) + 3.0, max(0.32 * len(labels) + 1.6, 3.4)), layout="constrained")
    panels = figure.subplots(1, len(scales), squeeze=False)[0]
    image = None
    for axes, scale in zip(panels, scales, strict=True):
        table = np.full((len(labels), len(names)), np.nan)
        for row in rows:
            if row.scale == scale:
                table[labels.index(f"{row.attribute} {row.value}")] = [row.changes[name] for name in names]
        image = axes.imshow(table, cmap="RdBu_r", vmin=-2, vmax=2, aspect="auto")
        axes.set_title(f"scale {scale:g}", fontsize=9)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(labels)), labels if axes is panels[0] else [""] * len(labels), fontsize=7)
    if image is not None:
        figure.colorbar(image, ax=list(panels), shrink=0.9).set_label("change [real std]", fontsize=8)
    _save(figure, path)


def draw_grid(
    path: Path, rows: Sequence[Sequence[Cell]], row_titles: Sequence[str], column_titles: Sequence[str]
) -> None:
    """Slices of 32 x 32 mm through lesions' centres, lung window, the mask's outline dotted; None leaves a gap."""
    width, height = len(column_titles), len(rows)
    figure = Figure(figsize=(1.45 * width + 0.9, 1.45 * height + 0.3), layout="constrained")
    grid = figure.subplots(height, width, squeeze=False)
    for r, (cells, row_title) in enumerate(zip(rows, row_titles, strict=True)):
        for c, cell in enumerate(cells):
            axes: Axes = grid[r, c]
            axes.set(xticks=[], yticks=[])
            for side in axes.spines.values():
                side.set_visible(False)
            if r == 0:
                axes.set_title(column_titles[c], fontsize=8)
            if c == 0:
                axes.set_ylabel(row_title, fontsize=7)
            if cell is None:
                continue
            lesion, plane = cell
            cube, mask = lesion_cube(lesion)
            middle = len(cube) // 2
            image, outline = np.take(cube, middle, plane), np.take(mask, middle, plane)
            axes.imshow(
                image, cmap="gray", vmin=-1, vmax=1, interpolation="nearest", origin="upper" if plane == 0 else "lower"
            )
            if outline.any():
                axes.contour(outline, [0.5], colors="#ffd24d", linewidths=0.5, linestyles=":")
    _save(figure, path)


def _reach(value: float, low: float | None, high: float | None) -> tuple[float, float]:
    """How far an interval reaches below and above its figure; 0 where it is not known."""
    return max(value - low, 0.0) if low is not None else 0.0, max(high - value, 0.0) if high is not None else 0.0


def _draw_ratios(axes: Axes, costs: Sequence[CostRow | None]) -> None:
    """Ratio to real vs real of the texture distances and the Fréchet distance by scale."""
    for index, metric in enumerate((*TEXTURE_DISTANCES, FRECHET)):
        found = [(place, cost.distance(metric)) for place, cost in enumerate(costs) if cost is not None]
        points = [(place, row.ratio) for place, row in found if row is not None and row.ratio is not None]
        if points:
            short = metric.removesuffix(", standardised")
            axes.plot([p[0] for p in points], [p[1] for p in points], "o-", ms=3, color=COLOURS[index + 1], label=short)
    low, high = _texture_range([cost for cost in costs if cost is not None])
    axes.axhspan(low, high, color="#dfeadf", zorder=0)
    axes.axhline(1, color=COLOURS[0], linewidth=1)
    axes.set(xlabel="scale", ylabel="distance / real vs real", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="y", which="both", labelsize=7)
    if axes.get_lines()[:-1]:
        axes.legend(frameon=False, fontsize=7)


def _texture_range(costs: Sequence[CostRow]) -> tuple[float, float]:
    """95 % of the splits of real vs real, in units of its mean, averaged over the texture distances."""
    floors = [row.floor for cost in costs for row in cost.textures if row.floor is not None and row.floor.mean > 0]
    if not floors:
        return 1.0, 1.0
    return (
        float(np.mean([floor.low / floor.mean for floor in floors])),
        float(np.mean([floor.high / floor.mean for floor in floors])),
    )


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
