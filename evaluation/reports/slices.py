"""Pictures of volumes: rows of cases, columns of versions, the central axial slice of each."""

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

DIFFERENCE = "difference"  # columns whose title contains this word are drawn in red and blue around zero


def save_slices(
    path: Path,
    rows: Sequence[Sequence[ArrayLike]],
    titles: Sequence[str],
    aspects: Sequence[float] | None = None,
) -> None:
    """Draw the central axial slices of ct_norm volumes.

    Args:
        path: PNG to write; parents are made.
        rows: One sequence of volumes (D, H, W) per case, in ct_norm.
        titles: One per column.
        aspects: Height of a voxel over its width in the drawn plane, one per row; None for 1.
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
            style = {"cmap": "RdBu_r", "vmin": -0.4, "vmax": 0.4} if signed else {"cmap": "gray", "vmin": -1, "vmax": 1}
            axes[r, c].imshow(plane, aspect=aspects[r] if aspects else 1, **style)
            axes[r, c].set_axis_off()
            if r == 0:
                axes[r, c].set_title(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def save_overview(
    path: Path,
    before_hu: np.ndarray,
    after_hu: np.ndarray,
    lesion_mask: np.ndarray,
    spacing_mm: Sequence[float],
    window: tuple[float, float] = (1500.0, -400.0),
    field_mm: float = 90.0,
    direction: Sequence[float] = (1, 0, 0, 0, 1, 0, 0, 0, 1),
) -> None:
    """Axial, coronal and sagittal plane through the lesion: before (with the mask's outline), after, difference.

    Args:
        path: PNG to write; parents are made.
        before_hu, after_hu: Scan without and with the lesion, HU, (D, H, W).
        lesion_mask: (D, H, W), not empty.
        spacing_mm: (z, y, x).
        window: Width and level of the grey scale, HU.
        field_mm: Edge of the field of view around the lesion, mm.
        direction: Of the image (SimpleITK's, 9 numbers), so that the planes are those of the patient, nearly, however
            the scan is stored: seen from the feet, from the front, from the patient's left.
    """
    from matplotlib.figure import Figure  # a figure without pyplot's global state

    order, flips = _patient_axes(direction)
    before_hu, after_hu, lesion_mask = (
        np.flip(np.transpose(volume, order), flips) for volume in (before_hu, after_hu, lesion_mask)
    )
    spacing_mm = [spacing_mm[axis] for axis in order]
    centre = np.rint(np.argwhere(lesion_mask).mean(axis=0)).astype(int)
    half = np.ceil(field_mm / 2 / np.asarray(spacing_mm)).astype(int)
    box = tuple(slice(max(c - h, 0), c + h + 1) for c, h in zip(centre, half, strict=True))
    centre = centre - np.array([s.start for s in box])
    low, high = window[1] - window[0] / 2, window[1] + window[0] / 2
    volumes = [np.asarray(volume[box], np.float32) for volume in (before_hu, after_hu)]
    difference, mask = volumes[1] - volumes[0], np.asarray(lesion_mask[box])
    figure = Figure(figsize=(9.6, 9), layout="constrained")
    axes = figure.subplots(3, 3)
    for row, (plane, axis) in enumerate((("axial", 0), ("coronal", 1), ("sagittal", 2))):
        vertical, horizontal = [spacing_mm[i] for i in range(3) if i != axis]
        style = {"aspect": vertical / horizontal, "origin": "upper" if axis == 0 else "lower"}
        for column, volume in enumerate([*volumes, difference]):
            panel, image = axes[row, column], np.take(volume, centre[axis], axis)
            if column < 2:
                panel.imshow(image, cmap="gray", vmin=low, vmax=high, **style)
            else:
                shown = panel.imshow(image, cmap="RdBu_r", vmin=-800, vmax=800, **style)
                figure.colorbar(shown, ax=panel, shrink=0.75, label="HU" if row == 1 else None)
            if column == 0:
                panel.contour(np.take(mask, centre[axis], axis), levels=[0.5], colors="tab:orange", linewidths=0.7)
            panel.set_title(f"{plane}, {('before', 'after', 'after - before')[column]}", fontsize=9)
            panel.set_xticks([])
            panel.set_yticks([])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _patient_axes(direction: Sequence[float]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How to transpose, then flip (D, H, W) so that the axes run most nearly to the head, to the back, to the left."""
    cosines = np.reshape(direction, (3, 3))[::-1, ::-1]  # row: patient's z, y, x; column: axis of the array
    order = max(permutations(range(3)), key=lambda axes: sum(abs(cosines[row, axis]) for row, axis in enumerate(axes)))
    return order, tuple(row for row, axis in enumerate(order) if cosines[row, axis] < 0)
