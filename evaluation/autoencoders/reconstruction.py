"""What an autoencoder loses of a CT crop: the figures of one original and its reconstruction."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evaluation.autoencoders.power_spectrum import BANDS, band_edges_per_mm, homogeneous_box, power_ratio, valid_box
from evaluation.image_quality import MS_SSIM_SCALES, fitting_scales, ms_ssim, psnr, ssim
from imaging.dataset.nodules import AIR_HU
from imaging.semantic_map import lung_mask
from imaging.window import to_hu

NORM_RANGE = 2.0  # width of ct_norm
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class CropRegions:
    """Where a crop is judged; made once per crop, for all its reconstructions.

    Attributes:
        masks: "crop" (all valid voxels), "lung" (with its vessels, without the lesion) and "lesion", each bool
            (D, H, W); a region without voxels is missing.
        boxes: "crop" (all valid voxels, if they fill a box) and "noise" (a cube of 16 voxels outside the lesion with
            the least structure): where the power spectrum is taken. A missing or constant one is left out.
    """

    masks: dict[str, np.ndarray]
    boxes: dict[str, tuple[slice, ...]]


def crop_regions(
    original_norm: np.ndarray,
    valid_mask: np.ndarray,
    lesion_mask: np.ndarray,
    window: tuple[float, float],
    spacing_mm: Spacing,
) -> CropRegions:
    """The regions of a crop.

    The lung is `imaging.semantic_map.lung_mask` of the crop. The noise of voxels at an end of the window, or at the
    dataset's floor of -1024 HU, is cut off, so the noise cube holds none of them.

    Args:
        original_norm: ct_norm, (D, H, W), in [-1, 1].
        valid_mask: Same shape, 0 on padding.
        lesion_mask: Same shape, non-zero inside the lesion.
        window: (width, level) of ct_norm in HU.
        spacing_mm: (z, y, x).
    Returns: Masks and boxes.
    Raises: ValueError: If no voxel is valid.
    """
    valid, lesion = np.asarray(valid_mask) != 0, np.asarray(lesion_mask) != 0
    if not valid.any():
        raise ValueError("valid_mask is 0 everywhere; leave the crop out")
    ct_hu = to_hu(np.asarray(original_norm, np.float32), *window)
    lung = lung_mask(ct_hu, spacing_mm, whole_scan=False, valid_mask=valid)
    masks = {"crop": valid, "lung": lung & valid & ~lesion, "lesion": lesion & valid}
    unclipped = (np.abs(original_norm) < 1) & (ct_hu > AIR_HU + 0.5)
    boxes = {"crop": valid_box(valid), "noise": homogeneous_box(original_norm, unclipped & valid & ~lesion, spacing_mm)}
    return CropRegions(
        {name: mask for name, mask in masks.items() if mask.any()},
        {name: box for name, box in boxes.items() if box is not None and np.ptp(original_norm[box]) > 0},
    )


def reconstruction_figures(
    original_norm: np.ndarray,
    reconstruction_norm: np.ndarray,
    valid_mask: np.ndarray,
    lesion_mask: np.ndarray,
    window: tuple[float, float],
    spacing_mm: Spacing,
    regions: CropRegions | None = None,
) -> dict[str, float]:
    """Everything that is measured on one crop and its reconstruction; padding never counts.

    Args:
        original_norm: ct_norm, (D, H, W), in [-1, 1].
        reconstruction_norm: Same shape; clamped to [-1, 1] here, as every user of the autoencoder does.
        valid_mask: Same shape, 0 on padding.
        lesion_mask: Same shape, non-zero inside the lesion.
        window: (width, level) of ct_norm in HU. Errors are those within it: the original is clipped already.
        spacing_mm: (z, y, x).
        regions: From `crop_regions`, where it is at hand.
    Returns: Those of the following that the crop allows.
        psnr_db, psnr_lesion_db: Infinite for equal images.
        ssim, ms_ssim: Of the whole crop, the latter with `crop_scales` scales.
        hu_bias_R, hu_mae_R: Mean and mean absolute of reconstruction − original in HU, for R of crop, lung, lesion.
        crop_power_ratio_B, noise_power_ratio_B: Power of the reconstruction over the original's in the whole crop
            and in its noise cube, for B of coarse, middle, fine, finest (`power_spectrum.BANDS`).
    Raises: ValueError: If shapes differ, no voxel is valid, or a valid voxel is not finite.
    """
    original, made = (np.asarray(volume, np.float64) for volume in (original_norm, reconstruction_norm))
    for name, array in (("reconstruction_norm", made), ("valid_mask", valid_mask), ("lesion_mask", lesion_mask)):
        if original.ndim != 3 or array.shape != original.shape:
            raise ValueError(
                f"{name} has shape {tuple(array.shape)} and original_norm {original.shape}, expected equal (D, H, W)"
            )
    if regions is None:
        regions = crop_regions(original, valid_mask, lesion_mask, window, spacing_mm)
    valid = regions.masks["crop"][None, None]
    pair = made.clip(-1, 1)[None, None], original[None, None]
    figures = {"psnr_db": psnr(*pair, NORM_RANGE, valid).item()}
    if "lesion" in regions.masks:
        figures["psnr_lesion_db"] = psnr(*pair, NORM_RANGE, regions.masks["lesion"][None, None]).item()
    with suppress(ValueError):  # no window of SSIM fits between the padding
        figures["ssim"] = ssim(*pair, NORM_RANGE, valid).item()
        figures["ms_ssim"] = ms_ssim(*pair, NORM_RANGE, valid, scales=crop_scales(original.shape)).item()
    error_hu = (made.clip(-1, 1) - original) * (window[0] / 2)
    for name, mask in regions.masks.items():
        figures[f"hu_bias_{name}"] = float(error_hu[mask].mean())
        figures[f"hu_mae_{name}"] = float(np.abs(error_hu[mask]).mean())
    for name, box in regions.boxes.items():
        ratios = power_ratio(made.clip(-1, 1)[box], original[box], spacing_mm, band_edges_per_mm(spacing_mm))
        figures |= {f"{name}_power_ratio_{band}": float(ratio) for band, ratio in zip(BANDS, ratios, strict=True)}
    return figures


@torch.no_grad()
def reconstruct(autoencoder: Any, original_norm: np.ndarray) -> np.ndarray:
    """The crop encoded and decoded, without drawing: the decoded mode of the posterior, clamped to [-1, 1].

    Args:
        autoencoder: From `autoencoder.loading.load_autoencoder`, on any device.
        original_norm: ct_norm, (D, H, W), each axis divisible by the factor.
    Returns: Same shape, float32.
    Raises: ValueError: If a voxel is not finite.
    """
    sample = torch.from_numpy(original_norm)[None, None].to(autoencoder.device, autoencoder.dtype)
    made = autoencoder.decode(autoencoder.encode(sample).latent_dist.mode()).sample
    if not torch.isfinite(made).all():
        raise ValueError("the reconstruction has NaN or infinite voxels; the autoencoder is broken, train it again")
    return made[0, 0].float().clamp(-1, 1).cpu().numpy()


def crop_scales(shape: Sequence[int]) -> int:
    """Scales of MS-SSIM that a crop is judged with.

    Args:
        shape: (D, H, W).
    Returns: Three, or as many as fit, at least one.
    """
    return max(1, min(MS_SSIM_SCALES, fitting_scales(shape)))
