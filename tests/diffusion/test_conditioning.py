"""What the denoiser is told, against scikit-image and scipy."""

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation
from skimage.measure import block_reduce
from torch import Tensor
from torch.testing import assert_close

from diffusion.conditioning import BLANK, blank_lesion, lesion_neighbourhood, mask_coverage, unet_input


def random_mask(dtype: torch.dtype = torch.uint8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(2, 1, 8, 12, 16, dtype=dtype)
    mask[..., 2:7, 3:8, 4:11] = (torch.rand(2, 1, 5, 5, 7, generator=generator) > 0.6).to(dtype)
    return mask


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float32])
def test_coverage_is_the_mean_of_each_block(factor: int, dtype: torch.dtype):
    mask = random_mask(dtype)
    expected = block_reduce(mask.numpy().astype(np.float32), (1, 1, factor, factor, factor), np.mean)
    assert_close(mask_coverage(mask, factor), torch.from_numpy(expected))


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("cells", [0, 1, 2])
def test_neighbourhood_is_the_touched_cells_dilated_by_a_cube(factor: int, cells: int):
    mask = random_mask()
    touched = block_reduce(mask.numpy(), (1, 1, factor, factor, factor), np.max)
    cube = np.ones((1, 1, *[2 * cells + 1] * 3))
    assert_close(lesion_neighbourhood(mask, factor, cells), torch.from_numpy(binary_dilation(touched, cube)).float())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool])
def test_blanking_darkens_the_lesion_and_nothing_else(dtype: torch.dtype):
    ct_norm = torch.linspace(-0.9, 0.9, 2 * 8 * 12 * 16).view(2, 1, 8, 12, 16)
    before, mask = ct_norm.clone(), random_mask(dtype)
    blanked = blank_lesion(ct_norm, mask)
    assert torch.equal(blanked[mask > 0], torch.full_like(blanked[mask > 0], BLANK))
    assert torch.equal(blanked[mask == 0], ct_norm[mask == 0])
    assert torch.equal(ct_norm, before) and BLANK == -1


def test_input_is_noisy_latent_then_blanked_latent_then_coverage():
    mask, noisy, blanked = random_mask(), torch.randn(2, 3, 4, 6, 8), torch.randn(2, 3, 4, 6, 8)
    sample = unet_input(noisy, blanked, mask, 2)
    assert torch.equal(sample, torch.cat([noisy, blanked, mask_coverage(mask, 2)], dim=1))
    assert unet_input(noisy.half(), blanked.half(), mask, 2).dtype == torch.float16
