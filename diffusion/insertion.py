"""A lesion into a whole scan: native geometry -> model grid -> inpaint -> the difference back, inside the mask only."""

from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
import torch

from imaging.geometry import check_same_grid, paste_difference, point_of_index, sample_grid, sample_mask, soft_edge
from imaging.window import to_hu, to_norm

if TYPE_CHECKING:
    from diffusion.pipeline import LesionInpaintPipeline

MARGIN_MM = 4.0  # lung that the model must see on every side of the lesion


def inpaint_scan(
    pipeline: "LesionInpaintPipeline", ct: sitk.Image, mask: sitk.Image, blend_mm: float, **options: Any
) -> sitk.Image:
    """Inpaint one lesion into a whole scan.

    The model sees a cube of `crop_size` voxels of `spacing_mm` around the mask. What it changes goes back as a
    difference, so the scan's own noise stays in the lesion and every voxel outside the mask is the input's.

    Args:
        pipeline: Loaded pipeline; its `crop_size` and `spacing_mm` give the grid.
        ct: Scan in HU.
        mask: 1 where the lesion is painted, in the geometry of `ct`; one lesion.
        blend_mm: Width over which the lesion is blended in from the border of the mask inwards.
        options: Passed to :meth:`LesionInpaintPipeline.generate`.
    Returns: The scan with the lesion, of the pixel type, geometry and metadata of `ct`.
    Raises: ValueError: If the geometries differ, the mask is empty, or the lesion does not fit the model's grid.
    """
    check_same_grid(mask, ct, "mask")
    size, spacing = pipeline.config["crop_size"], pipeline.config["spacing_mm"]
    ct_hu, _, grid = sample_grid(ct, _middle(mask, size * spacing), size, spacing)
    lesion_mask = sample_mask(mask, grid)
    if not lesion_mask.any():
        raise ValueError(f"the mask vanishes on the model's grid of {spacing} mm; the lesion is too small to paint")
    crop = torch.from_numpy(np.ascontiguousarray(ct_hu))[None, None]
    crop_mask = torch.from_numpy(lesion_mask)[None, None]
    spacing_mm = torch.full((1, 3), float(spacing))
    generated_hu = pipeline.generate(crop, crop_mask, crop_mask, spacing_mm, **options)[0, 0].cpu().numpy()
    window = (pipeline.vae.config["window_width"], pipeline.vae.config["window_level"])
    seen_hu = to_hu(to_norm(ct_hu, *window), *window)
    return paste_difference(ct, grid, generated_hu - seen_hu, soft_edge(mask, blend_mm + min(ct.GetSpacing())))


def _middle(mask: sitk.Image, grid_mm: float) -> tuple[float, ...]:
    """Physical point (x, y, z) in the middle of the mask's extent, which must fit into the grid with its margin."""
    indices = np.argwhere(sitk.GetArrayViewFromImage(mask) > 0)
    if len(indices) == 0:
        raise ValueError("the lesion mask is empty, expected at least one voxel above 0")
    first, last = indices.min(0), indices.max(0)
    extent_mm = (last - first + 1) * np.array(mask.GetSpacing()[::-1])
    if extent_mm.max() + 2 * MARGIN_MM > grid_mm:
        raise ValueError(
            f"the mask spans {np.round(extent_mm, 1).tolist()} mm (z, y, x), the model's grid {grid_mm:g} mm; "
            f"expected at most {grid_mm - 2 * MARGIN_MM:g} mm; paint one lesion at a time, or use a pipeline with a "
            "larger crop_size"
        )
    return point_of_index(mask, (first + last) / 2)
