"""A chest phantom with nodules: CT-like volumes of known truth, so that all runs without patient data.

`chest_phantom` renders one patient on any grid; `phantom_nodules` yields the rows of a prepared dataset, rendering
each nodule's surroundings directly at the crop's spacing. Anatomy is in `phantom_anatomy`, tissue in `phantom_tissue`,
the nodules' shapes in `shapes`. The same seed gives the same voxels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imaging.dataset.nodules import AIR_HU, RATINGS
from imaging.lesions.shapes import nodule_mask, nodule_occupancy
from imaging.phantom.anatomy import Anatomy, Array, Grid, draw_anatomy, grid_mm, lung_surface, smooth_noise
from imaging.phantom.tissue import chest_hu, ct_noise, noise_level

if TYPE_CHECKING:
    import SimpleITK

NODULES_PER_PATIENT = 6
SPLIT_OF = {1: "test", 2: "validation"}  # of the second and the third of every ten patients
SOLID_HU, GROUND_GLASS_HU, CALCIUM_HU = 35.0, -600.0, 480.0
_CORE_FRACTION = ((1.0, 2.0, 3.0, 4.0, 5.0), (0.0, 0.35, 0.6, 0.82, 1.0))  # texture rating -> core / whole diameter


@dataclass(frozen=True)
class PhantomNodule:
    """One nodule's truth.

    Attributes:
        center_mm: Position (z, y, x) from the centre of the chest, mm.
        center_zyx: The same as a fractional voxel index of the phantom's array.
        diameter_mm: Diameter of the sphere of equal volume, mm.
        ratings: The LIDC characteristics by name, 1..5, but calcification, on LIDC's scale, 3 (solid), 5 (central)
            or 6 (absent).
        seed: Seed of the shape.
    """

    center_mm: tuple[float, float, float]
    center_zyx: tuple[float, float, float]
    diameter_mm: float
    ratings: Mapping[str, float]
    seed: int


@dataclass(frozen=True)
class ChestPhantom:
    """A rendered patient.

    Attributes:
        ct_hu: int16 (D, H, W), HU, at least -1024.
        spacing_mm: (z, y, x), mm.
        nodules: The nodules' truth.
        nodule_labels: uint8 (D, H, W); i + 1 inside nodule i, 0 elsewhere.
        lung_mask: uint8 (D, H, W); 1 inside the lungs, with their vessels, bronchi and nodules.
    """

    ct_hu: NDArray[np.int16]
    spacing_mm: tuple[float, float, float]
    nodules: tuple[PhantomNodule, ...]
    nodule_labels: NDArray[np.uint8]
    lung_mask: NDArray[np.uint8]


def chest_phantom(
    shape: Sequence[int] = (96, 160, 160),
    spacing_mm: Sequence[float] = (2.75, 2.25, 2.25),
    n_nodules: int = 4,
    seed: int = 0,
    center_mm: Sequence[float] = (0.0, 0.0, 0.0),
) -> ChestPhantom:
    """Render a chest of adult size; the grid is a field of view on it, so a small one shows a part.

    Args:
        shape: (D, H, W). The default covers the whole chest.
        spacing_mm: (z, y, x), mm.
        n_nodules: Number of nodules, all within the field of view, at most 255.
        seed: Patient, nodules and noise; not negative.
        center_mm: Middle of the field of view, from the centre of the chest, mm.
    Returns: The phantom; z points cranial, y posterior, x to the patient's left.
    Raises: ValueError: If shape or spacing is unusable or the nodules find no place in the lung that is in view.
    """
    if len(shape) != 3 or min(shape) < 8 or len(spacing_mm) != 3 or min(spacing_mm) <= 0 or not 0 <= n_nodules <= 255:
        raise ValueError(
            f"shape {tuple(shape)}, spacing_mm {tuple(spacing_mm)}, n_nodules {n_nodules}: expected three sizes of at "
            "least 8 voxels, three positive spacings and 0 to 255 nodules"
        )
    anatomy = draw_anatomy(seed)
    half = np.asarray(shape) * spacing_mm / 2
    least = 2.05 * float(np.prod(spacing_mm) ** (1 / 3))
    nodules = place_nodules(anatomy, n_nodules, np.asarray(center_mm) - half, np.asarray(center_mm) + half, least)
    grid = grid_mm(shape, spacing_mm, center_mm)
    nodules = [_on_grid(nodule, grid, spacing_mm) for nodule in nodules]
    ct_hu, lung = render(anatomy, nodules, grid, spacing_mm, np.random.default_rng((seed, 2)))
    labels = np.zeros(tuple(shape), dtype=np.uint8)
    for i, nodule in enumerate(nodules):
        labels[_mask(nodule, shape, spacing_mm) > 0] = i + 1
    z, y, x = spacing_mm
    lung_mask = ((lung < 0) | (labels > 0)).astype(np.uint8)
    return ChestPhantom(ct_hu, (float(z), float(y), float(x)), tuple(nodules), labels, lung_mask)


def phantom_nodules(n: int, crop_size: int, spacing_mm: float = 1.0, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the rows of a prepared dataset, see `imaging.dataset.nodules.nodule_features`.

    Each patient gives six nodules; one patient in ten, beginning with the second, is a test patient. The crop's
    middle lies within half a voxel of the nodule's centre; it is rendered at its own spacing, never interpolated.

    Args:
        n: Number of nodules.
        crop_size: Edge of the cubic crops, voxels.
        spacing_mm: Isotropic spacing, mm.
        seed: Same seed, same rows; the first rows do not depend on `n`.
    Raises: ValueError: If the crop cannot hold a nodule or `n` is not positive.
    """
    extent = crop_size * spacing_mm
    if n < 1 or extent < 12:
        raise ValueError(f"n {n}, crop of {extent} mm: expected at least 1 nodule and 12 mm; enlarge the crop")
    chest = np.array([130.0, 105.0, 140.0])
    for patient in range(-(-n // NODULES_PER_PATIENT)):
        patient_seed = seed * 100_003 + patient
        anatomy = draw_anatomy(patient_seed)
        placed = place_nodules(anatomy, NODULES_PER_PATIENT, -chest, chest, 2.05 * spacing_mm, 0.6 * extent)
        for i, target in enumerate(placed[: n - patient * NODULES_PER_PATIENT]):
            rng = np.random.default_rng((patient_seed, 3, i))
            middle = np.asarray(target.center_mm) + rng.uniform(-0.5, 0.5, 3) * spacing_mm
            shape, spacing = (crop_size,) * 3, (spacing_mm,) * 3
            grid = grid_mm(shape, spacing, middle.tolist())
            around = [_on_grid(nodule, grid, spacing) for nodule in placed]
            ct_hu, _ = render(anatomy, around, grid, spacing, rng)
            mask = _mask(around[i], shape, spacing)
            patient_id = f"phantom-{seed}-{patient:04d}"
            yield {
                "nodule_id": f"{patient_id}-{i}",
                "patient_id": patient_id,
                "source": "phantom",
                "split": SPLIT_OF.get(patient % 10, "train"),
                "ct_hu": ct_hu,
                "lesion_mask": mask,
                "valid_mask": np.ones(shape, dtype=np.uint8),
                "spacing_mm": np.full(3, spacing_mm, dtype=np.float32),
                "diameter_mm": target.diameter_mm,
                "volume_mm3": np.pi / 6 * target.diameter_mm**3,
                **target.ratings,
            }


def phantom_image(phantom: ChestPhantom) -> SimpleITK.Image:
    """The CT as an image in LPS orientation: index axes x (left), y (posterior), z (cranial)."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(phantom.ct_hu)
    image.SetSpacing(phantom.spacing_mm[::-1])
    return image


def render(
    anatomy: Anatomy,
    nodules: Sequence[PhantomNodule],
    grid: Grid,
    spacing_mm: Sequence[float],
    rng: np.random.Generator,
) -> tuple[NDArray[np.int16], Array]:
    """CT of the patient on a grid, with nodules, the scanner's blur and its noise.

    Args:
        anatomy: The patient; its seed also chooses kernel and dose.
        nodules: Nodules with `center_zyx` on this grid; those out of reach change nothing.
        grid, spacing_mm: Voxel centres and spacing, mm.
        rng: Random generator of texture and noise.
    Returns: int16 (D, H, W), HU, and the lungs' surface as in `chest_hu`.
    """
    protocol = np.random.default_rng((anatomy.seed, 4))
    cutoff, dose_noise = protocol.uniform(0.28, 0.6), protocol.uniform(0.5, 1.5)
    ct, lung = chest_hu(anatomy, grid, spacing_mm, rng)
    for nodule in nodules:
        _paint_nodule(ct, nodule, spacing_mm)
    blur_mm = 0.2 / cutoff
    ct = ndimage.gaussian_filter(ct, blur_mm / np.asarray(spacing_mm), mode="nearest")
    sigma = 80 * cutoff * dose_noise * noise_level(grid)
    ct += sigma * ct_noise(ct.shape, spacing_mm, cutoff, rng)
    return np.rint(ct.clip(AIR_HU, 3000)).astype(np.int16), lung


def place_nodules(
    anatomy: Anatomy,
    n: int,
    low_mm: NDArray,
    high_mm: NDArray,
    least_mm: float = 4.0,
    most_mm: float = 25.0,
) -> list[PhantomNodule]:
    """Draw nodules and positions inside the lung of a box, without overlap; one in four touches the pleura.

    Args:
        anatomy: The patient; its seed chooses everything.
        n: Number of nodules.
        low_mm, high_mm: Corners (z, y, x) of the box, mm; each nodule's sphere lies inside.
        least_mm, most_mm: Range of diameters besides 4..25 mm.
    Returns: `n` nodules; `center_zyx` is not set yet (NaN).
    Raises: ValueError: If the lung inside the box is too small.
    """
    rng = np.random.default_rng((anatomy.seed, 5))
    z, y, x = (rng.uniform(a, b, 20_000).astype(np.float32) for a, b in zip(low_mm, high_mm, strict=True))
    depth = -lung_surface(anatomy, (z, y, x))
    points, depth = np.stack([z, y, x], axis=1)[depth > 1], depth[depth > 1]
    nodules: list[PhantomNodule] = []
    for _ in range(n):
        diameter = float(np.clip(rng.gamma(2.2, 3.2) + 4, max(4.0, least_mm), max(min(25.0, most_mm), least_mm)))
        ratings, seed = _draw_ratings(diameter, rng), int(rng.integers(2**31))
        radius = diameter / 2
        at_pleura = rng.random() < 0.25
        fits = (depth < radius) & (depth > 0.6 * radius) if at_pleura else (depth > 1.25 * radius)
        fits &= np.all((points - low_mm > radius) & (high_mm - points > radius), axis=1)
        for other in nodules:
            gap = 1.3 * (radius + other.diameter_mm / 2) + 2
            fits &= np.linalg.norm(points - other.center_mm, axis=1) > gap
        if not fits.any():
            raise ValueError(
                f"no place for nodule {len(nodules) + 1} of {n} ({diameter:.1f} mm) in the lung between "
                f"{np.round(low_mm)} and {np.round(high_mm)} mm; ask for fewer nodules or a larger field of view"
            )
        cz, cy, cx = points[rng.choice(np.flatnonzero(fits))].tolist()
        nodules.append(PhantomNodule((cz, cy, cx), (np.nan,) * 3, diameter, ratings, seed))
    return nodules


def _draw_ratings(diameter_mm: float, rng: np.random.Generator) -> dict[str, float]:
    """Ratings in steps of a quarter, the mean of four readers. Malignancy, as in LIDC, follows size and outline:

    m = 2.8 + 0.14·(d − 10) + 0.3·(lobulation − 2) + 0.4·(spiculation − 2) − 2·[calcified] + N(0, 0.4), cut to 1..5.
    """
    lobulation, spiculation = 1 + 4 * rng.beta(0.7, 1.3, 2)
    texture = 5.0 if rng.random() < 0.55 else rng.uniform(1, 5)
    margin = np.clip(1 + 4 * rng.beta(2.5, 1.2) - 0.3 * (5 - texture), 1, 5)
    calcified = texture == 5 and spiculation < 2 and rng.random() < 0.35
    malignancy = 2.8 + 0.14 * (diameter_mm - 10) + 0.3 * (lobulation - 2) + 0.4 * (spiculation - 2)
    values = {
        "subtlety": 1.5 + 0.15 * diameter_mm + 0.35 * (texture - 1),
        "internal_structure": 1.0,
        "calcification": (3.0 if rng.random() < 0.5 else 5.0) if calcified else 6.0,
        "sphericity": 5 - 0.35 * (lobulation - 1) - 0.2 * (spiculation - 1) + rng.normal(0, 0.3),
        "margin": margin,
        "lobulation": lobulation,
        "spiculation": spiculation,
        "texture": texture,
        "malignancy": malignancy - 2 * calcified + rng.normal(0, 0.4),
    }
    return {k: float(np.clip(round(4 * values[k]) / 4, 1, 6 if k == "calcification" else 5)) for k in RATINGS}


def _on_grid(nodule: PhantomNodule, grid: Grid, spacing_mm: Sequence[float]) -> PhantomNodule:
    z, y, x = ((nodule.center_mm[i] - float(grid[i].flat[0])) / spacing_mm[i] for i in range(3))
    return replace(nodule, center_zyx=(z, y, x))


def _mask(nodule: PhantomNodule, shape: Sequence[int], spacing_mm: Sequence[float]) -> NDArray[np.uint8]:
    outline = nodule.ratings["lobulation"], nodule.ratings["spiculation"], nodule.seed
    return nodule_mask(shape, spacing_mm, nodule.center_zyx, nodule.diameter_mm, *outline)


def _paint_nodule(ct: Array, nodule: PhantomNodule, spacing_mm: Sequence[float]) -> None:
    """Ground glass, then the solid core, then calcium; each only adds attenuation, so bone and vessels stay.

    The rating of texture sets the core's share of the diameter: 1 none (ground glass) ... 5 all (solid).
    """
    rating, center = nodule.ratings, nodule.center_zyx
    reach = 1.5 * nodule.diameter_mm
    low = [max(int(np.floor(center[i] - reach / spacing_mm[i])), 0) for i in range(3)]
    high = [min(int(np.ceil(center[i] + reach / spacing_mm[i])) + 1, ct.shape[i]) for i in range(3)]
    if any(b <= a for a, b in zip(low, high, strict=True)):
        return
    box = ct[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]  # a view: painted in place
    local = [c - a for c, a in zip(center, low, strict=True)]
    grain = smooth_noise(box.shape, spacing_mm, 3.0, np.random.default_rng(nodule.seed))
    softness_mm = (5 - rating["margin"]) / 4 * min(0.12 * nodule.diameter_mm, 1.8)
    core = float(np.interp(rating["texture"], *_CORE_FRACTION))
    calcium = {3.0: 0.9, 5.0: 0.45}.get(rating["calcification"], 0.0)
    layers = ((1.0, GROUND_GLASS_HU + 45 * grain), (core, SOLID_HU + 12 * grain), (calcium, CALCIUM_HU + 60 * grain))
    for fraction, hu in layers:
        if fraction > 0:
            outline = rating["lobulation"], rating["spiculation"], nodule.seed, softness_mm
            occupancy = nodule_occupancy(box.shape, spacing_mm, local, fraction * nodule.diameter_mm, *outline)
            box += occupancy * np.maximum(hu - box, 0)
