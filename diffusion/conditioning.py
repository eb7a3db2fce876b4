"""What the denoiser is told about the place of the lesion: the blanked CT, the mask's coverage, the semantic map."""

import torch
from torch import Tensor
from torch.nn import functional as F

BLANK = -1.0  # ct_norm inside the mask: the floor of the window, darker than lung, so the hole is plainly a hole


def blank_lesion(ct_norm: Tensor, lesion_mask: Tensor) -> Tensor:
    """ct_norm with the lesion's voxels replaced by `BLANK`; both (B, 1, D, H, W)."""
    return torch.where(lesion_mask > 0, torch.full_like(ct_norm, BLANK), ct_norm)


def mask_coverage(lesion_mask: Tensor, factor: int) -> Tensor:
    """Fraction of each latent cell that the mask covers: (B, 1, D, H, W) -> float (B, 1, D/f, H/f, W/f) in [0, 1]."""
    return F.avg_pool3d(lesion_mask.float(), factor) if factor > 1 else lesion_mask.float()


def unet_input(noisy_latent: Tensor, blanked_latent: Tensor, lesion_mask: Tensor, factor: int) -> Tensor:
    """Concatenate what the U-Net sees: noisy latent (B, C, d, h, w), blanked CT's latent, mask coverage."""
    return torch.cat([noisy_latent, blanked_latent, mask_coverage(lesion_mask, factor).to(noisy_latent.dtype)], dim=1)


def lesion_neighbourhood(lesion_mask: Tensor, factor: int, cells: int = 1) -> Tensor:
    """Latent cells that touch the lesion, dilated by max-pooling over `cells`: float 0/1 (B, 1, d, h, w).

    LSDM's in-painting mask (eq. 3.8), and where the diffusion loss counts in full.
    """
    touched = F.max_pool3d((lesion_mask > 0).float(), factor)
    return F.max_pool3d(touched, 2 * cells + 1, stride=1, padding=cells) if cells else touched
