"""Folders of outlines for the tests: ellipsoids, and cubes with spikes, whose ratings say which they are."""

from pathlib import Path

import numpy as np
import pandas as pd

from imaging.dataset.shape_files import NoduleShape


def ellipsoid(radii: tuple[float, float, float]) -> np.ndarray:
    """Bool, radii z, y, x in voxels of 1 mm, cut to its box."""
    axes = [np.arange(-int(radius), int(radius) + 1) / radius for radius in radii]
    return sum(axis**2 for axis in np.ix_(*axes)) <= 1


def spiked(diameter: float) -> np.ndarray:
    """A ball with a spike of its radius along each axis of the plane."""
    radius = diameter / 2
    body = np.pad(ellipsoid((radius, radius, radius)), int(radius))
    middle = body.shape[1] // 2
    level = slice(body.shape[0] // 2 - 1, body.shape[0] // 2 + 2)  # three voxels thick
    body[level, middle - 1 : middle + 2, :] = True
    body[level, :, middle - 1 : middle + 2] = True
    return body[int(radius) : -int(radius)]


def nodule_shapes(count: int = 60, seed: int = 0) -> list[NoduleShape]:
    """Two nodules of each patient; spiculation 5 where there are spikes and 1 where there are none."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        sharp, radius = number % 2 == 1, float(rng.uniform(3, 7))
        outline = spiked(2 * radius) if sharp else ellipsoid((radius, radius * rng.uniform(0.7, 1), radius))
        ratings = {"lobulation": float(rng.uniform(1, 5)), "spiculation": 5.0 if sharp else 1.0}
        ratings |= {"sphericity": 3.0 + (number % 3), "texture": 5.0}
        made.append(
            NoduleShape(f"n{number}", f"patient{number // 2}", outline, 3.0 if number % 5 == 0 else 1.0, ratings)
        )
    return made


def write_shapes(folder: Path, shapes: list[NoduleShape]) -> Path:
    """As the folder of outlines of LIDC-IDRI."""
    folder.mkdir(parents=True)
    rows = [
        {
            "shape": shape.name,
            "patient_id": shape.patient_id,
            **dict(zip(("depth", "height", "width"), shape.outline.shape, strict=True)),
            "slice_mm": shape.slice_mm,
            **shape.ratings,
        }
        for shape in shapes
    ]
    pd.DataFrame(rows).to_csv(folder / "shapes.csv", index=False)
    np.savez(folder / "shapes.npz", **{shape.name: np.packbits(shape.outline.ravel()) for shape in shapes})
    return folder
