"""What the denoiser is told, against scikit-image and scipy."""

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation
from skimage.measure import block_reduce
from tiny_models import pixel_autoencoder
from torch import Tensor
from torch.testing import assert_close

from diffusion.conditioning import (
    BLANK,
    blank,
    blank_whole,
    condition_channels,
    condition_of,
    lesion_neighbourhood,
    map_as_hu,
    mask_coverage,
    octant_coverage,
    show_map,
)
from imaging.semantic_map import HU_EDGES, LABEL_HU, LABELS, semantic_map
from imaging.window import to_norm


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
def test_blanking_darkens_what_is_painted_and_nothing_else(dtype: torch.dtype):
    ct_norm = torch.linspace(-0.9, 0.9, 2 * 8 * 12 * 16).view(2, 1, 8, 12, 16)
    before, mask = ct_norm.clone(), random_mask(dtype)
    blanked = blank(ct_norm, mask)
    assert torch.equal(blanked[mask > 0], torch.full_like(blanked[mask > 0], BLANK))
    assert torch.equal(blanked[mask == 0], ct_norm[mask == 0])
    assert torch.equal(ct_norm, before) and BLANK == -1


@pytest.mark.parametrize("factor", [2, 4])
def test_octants_are_the_means_of_each_cells_eight_parts(factor: int):
    mask = random_mask()
    found = octant_coverage(mask, factor)
    half = factor // 2
    for number in range(8):
        z, y, x = (half * (number >> shift & 1) for shift in (2, 1, 0))
        # the octants of one place, side by side, are the mask with every other half-cell taken out
        parts = [
            block[:, :, z // half :: 2, y // half :: 2, x // half :: 2]
            for block in [block_reduce(mask.numpy().astype(np.float32), (1, 1, half, half, half), np.mean)]
        ]
        channel = (found - torch.from_numpy(parts[0])).abs().flatten(2).amax(2).amax(0).argmin()
        assert_close(found[:, channel : channel + 1], torch.from_numpy(parts[0]))
    assert_close(found.mean(1, keepdim=True), mask_coverage(mask, factor))
    assert torch.equal(octant_coverage(mask, 1), mask.float())


def test_condition_is_blanked_latent_octants_paint_and_valid():
    lesion, blanked = random_mask(), torch.randn(2, 3, 4, 6, 8)
    paint, valid = random_mask(torch.bool), torch.ones_like(lesion)
    valid[:, :, :3] = 0
    condition = condition_of(blanked, lesion, paint, valid, 2)
    parts = [blanked, octant_coverage(lesion, 2), mask_coverage(paint, 2), mask_coverage(valid, 2)]
    assert torch.equal(condition, torch.cat(parts, dim=1)) and condition.shape[1] == condition_channels(3, 2)
    assert condition_of(blanked.half(), lesion, paint, valid, 2).dtype == torch.float16
    assert condition_channels(1, 1) == 1 + 1 + 2


def test_a_whole_crop_is_blanked_for_the_chosen_samples_alone():
    batch = {"blanked_latent": torch.randn(2, 3, 4, 6, 8), "paint_mask": random_mask(), "draw": torch.arange(2)}
    empty = torch.randn(1, 3, 4, 6, 8)
    whole = blank_whole(batch, torch.tensor([True, False]), empty)
    assert torch.equal(whole["blanked_latent"][0], empty[0]) and whole["paint_mask"][0].all()
    for name in ("blanked_latent", "paint_mask"):
        assert torch.equal(whole[name][1], batch[name][1])
    assert not batch["paint_mask"].all() and whole["draw"] is batch["draw"]


def test_a_map_drawn_as_ct_has_that_map_again():
    labels = torch.randint(0, 4, (4, 6, 8), generator=torch.Generator().manual_seed(0))
    assert len(LABEL_HU) == len(LABELS) and np.digitize(LABEL_HU[:4], HU_EDGES).tolist() == [0, 1, 2, 3]
    again = semantic_map(map_as_hu(labels).numpy(), lung=np.zeros(labels.shape, bool))
    assert np.array_equal(again, labels)


def test_the_encoded_map_takes_the_ct_s_place_in_the_chosen_samples_alone():
    vae = pixel_autoencoder()
    labels = torch.randint(0, 8, (2, 1, 4, 6, 8), generator=torch.Generator().manual_seed(0))
    batch = {
        "blanked_latent": torch.randn(2, 1, 4, 6, 8),
        "paint_mask": torch.zeros(2, 1, 4, 6, 8),
        "semantic_map": labels.to(torch.uint8),
    }
    whole = show_map(batch, torch.tensor([False, True]), vae)
    drawn = to_norm(torch.tensor(LABEL_HU)[labels])
    assert_close(whole["blanked_latent"][1], (drawn[1] + 0.2) / 0.5)  # standardised
    assert torch.equal(whole["blanked_latent"][0], batch["blanked_latent"][0])
    assert whole["paint_mask"][1].all() and not whole["paint_mask"][0].any()
    assert show_map(batch, torch.tensor([False, False]), vae)["blanked_latent"] is batch["blanked_latent"]
