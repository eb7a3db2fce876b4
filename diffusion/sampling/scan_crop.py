"""A lesion into a whole scan: native geometry -> model grid -> paint -> the difference back, only where painted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from diffusion.sampling.crops import Crops
from imaging.files.hounsfield import check_hu
from imaging.geometry import (
    bounding_box,
    check_same_grid,
    empty_grid,
    paste_difference,
    point_of_index,
    sample_grid,
    sample_mask,
    soft_edge,
)
from imaging.lesions.mask import binary_mask, grown_mask

MARGIN_MM = 2.0  # CT that the model must see on every side of what it paints


@dataclass(frozen=True)
class ScanCrop(Crops):
    """The part of a scan around a lesion, on the model's grid: one crop.

    Attributes:
        scan: The scan.
        grid: Image with the geometry of the model's grid.
        region: The painted region on the scan's grid, uint8.
    """

    scan: Any = None
    grid: Any = None
    region: Any = None

    def paste(self, made_hu: Tensor, blend_mm: float, output_type: str) -> Any:
        """The scan with each version of the lesion.

        Args:
            made_hu: What the model made, (n, 1, D, H, W), HU.
            blend_mm: As :func:`paste_into_scan`.
            output_type: "input" for images, "pt" or "np" for (n, 1, D, H, W).
        Returns: An image, a list of n > 1 images, or all as one tensor or array.
        """
        scans = [paste_into_scan(self, volume, blend_mm) for volume in made_hu[:, 0].cpu().numpy()]
        if output_type == "input":
            return scans if len(scans) > 1 else scans[0]
        volumes = np.stack([sitk.GetArrayFromImage(scan) for scan in scans])[:, None]
        return torch.from_numpy(volumes) if output_type == "pt" else volumes

    def painted(self, output_type: str) -> sitk.Image:
        """The painted region on the scan's grid, uint8; an image for every output type."""
        return self.region


def crop_of_scan(ct: sitk.Image, mask: sitk.Image, crop_size: int, spacing_mm: float, margin_mm: float) -> ScanCrop:
    """Bring the surroundings of a lesion to the model's grid.

    Args:
        ct: Scan in HU.
        mask: The lesion, in the geometry of `ct`; one lesion, as `binary_mask` says.
        crop_size: Edge of the model's grid, voxels.
        spacing_mm: Of the model's grid, isotropic.
        margin_mm: What is painted around the lesion.
    Raises: ValueError: If the geometries differ, the scan is not in HU, the mask is empty or no mask, or the lesion
        does not fit the grid.
    """
    check_same_grid(mask, ct, "mask")
    check_hu(sitk.GetArrayViewFromImage(ct), "ct")
    binary = _binary_image(mask)
    middle = _middle(binary, crop_size * spacing_mm, margin_mm)
    ct_hu, valid_mask, grid = sample_grid(ct, middle, crop_size, spacing_mm)
    lesion_mask = _lesion_on_grid(binary, grid, spacing_mm)
    paint_mask = grown_mask(lesion_mask, margin_mm, 3 * (spacing_mm,)) * valid_mask
    region = sitk.GetImageFromArray(grown_mask(sitk.GetArrayViewFromImage(binary), margin_mm, ct.GetSpacing()[::-1]))
    region.CopyInformation(ct)
    arrays = (ct_hu, lesion_mask, paint_mask, valid_mask)
    given, lesion, paint, valid = (torch.from_numpy(np.ascontiguousarray(array))[None, None] for array in arrays)
    return ScanCrop(given, lesion, paint, valid, scan=ct, grid=grid, region=region)


@dataclass(frozen=True)
class ScanCrops(Crops):
    """Crops of several scans, or of several places in one, which are painted together and pasted each into its own.

    Attributes:
        parts: One of each scan.
    """

    parts: tuple[ScanCrop, ...] = ()

    def paste(self, made_hu: Tensor, blend_mm: float, output_type: str) -> list[Any]:
        """What :meth:`ScanCrop.paste` gives for each scan; made_hu is (B n, 1, D, H, W), n versions of each."""
        versions = made_hu.split(len(made_hu) // len(self.parts))
        return [part.paste(made, blend_mm, output_type) for part, made in zip(self.parts, versions, strict=True)]

    def painted(self, output_type: str) -> list[sitk.Image]:
        """The painted region on each scan's grid."""
        return [part.region for part in self.parts]


def crops_of_scans(
    cts: Sequence[sitk.Image], masks: Sequence[sitk.Image], crop_size: int, spacing_mm: float, margin_mm: float
) -> ScanCrops:
    """:func:`crop_of_scan` for B scans with a lesion each. Raises ValueError as it does, or for unequal numbers."""
    if len(cts) != len(masks) or not cts:
        raise ValueError(f"{len(cts)} scans and {len(masks)} masks, expected a mask for each scan, and at least one")
    parts = tuple(crop_of_scan(ct, mask, crop_size, spacing_mm, margin_mm) for ct, mask in zip(cts, masks, strict=True))
    names = ("ct_hu", "lesion_mask", "paint_mask", "valid_mask")
    ct_hu, lesion, paint, valid = (torch.cat([getattr(part, name) for part in parts]) for name in names)
    return ScanCrops(ct_hu, lesion, paint, valid, parts=parts)


def check_lesion_fits(mask: sitk.Image, crop_size: int, spacing_mm: float, margin_mm: float) -> None:
    """Raise ValueError where :func:`crop_of_scan` would refuse a lesion; reads the mask alone, no CT.

    Args:
        mask: The lesion on its scan's grid.
        crop_size, spacing_mm, margin_mm: As there.
    """
    binary = _binary_image(mask)
    middle = _middle(binary, crop_size * spacing_mm, margin_mm)
    _lesion_on_grid(binary, empty_grid(binary, middle, crop_size, spacing_mm), spacing_mm)


def paste_into_scan(crop: ScanCrop, made_hu: np.ndarray, blend_mm: float) -> sitk.Image:
    """The scan with what the model made, on its own grid; every voxel outside `crop.region` is the scan's.

    Args:
        crop: From :func:`crop_of_scan`.
        made_hu: What the model made, (D, H, W), HU.
        blend_mm: Width over which the change is blended in from the border of the painted region inwards.
    Returns: Image of the pixel type, geometry and metadata of the scan.
    """
    ct = crop.scan
    around = _around(crop.region)  # a whole scan's weights would be as large as two scans
    ct_hu = crop.ct_hu[0, 0].numpy()
    weights = soft_edge(crop.region[around], blend_mm)
    patch = paste_difference(ct[around], crop.grid, made_hu - ct_hu, weights, sampled_hu=ct_hu)
    result = sitk.Image(ct)
    result[around] = patch
    for key in ct.GetMetaDataKeys():
        result.SetMetaData(key, ct.GetMetaData(key))
    return result


def _binary_image(mask: sitk.Image) -> sitk.Image:
    image = sitk.GetImageFromArray(binary_mask(sitk.GetArrayViewFromImage(mask)))
    image.CopyInformation(mask)
    return image


def _lesion_on_grid(binary: sitk.Image, grid: sitk.Image, spacing_mm: float) -> np.ndarray:
    lesion_mask = sample_mask(binary, grid)
    if not lesion_mask.any():
        raise ValueError(f"the mask vanishes on the model's grid of {spacing_mm} mm; the lesion is too small to paint")
    return lesion_mask


def _around(mask: sitk.Image) -> tuple[slice, ...]:
    """Slices (x, y, z) around the mask, with a voxel to spare where the scan has one."""
    return tuple(slice(max(along.start - 1, 0), along.stop + 1) for along in bounding_box(mask))


def _middle(mask: sitk.Image, grid_mm: float, paint_margin_mm: float) -> tuple[float, ...]:
    """Physical point (x, y, z) in the middle of the mask's extent, which must fit into the grid with its margin."""
    box = bounding_box(mask)[::-1]  # z, y, x
    first, last = np.array([along.start for along in box]), np.array([along.stop for along in box]) - 1
    extent_mm = (last - first + 1) * np.array(mask.GetSpacing()[::-1])
    margin_mm = MARGIN_MM + paint_margin_mm
    if extent_mm.max() + 2 * margin_mm > grid_mm:
        raise ValueError(
            f"the mask spans {np.round(extent_mm, 1).tolist()} mm (z, y, x), the model's grid {grid_mm:g} mm; "
            f"expected at most {grid_mm - 2 * margin_mm:g} mm; paint one lesion at a time, or use a pipeline with a "
            "larger crop_size"
        )
    return point_of_index(mask, (first + last) / 2)
