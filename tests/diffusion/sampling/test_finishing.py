"""Finishing of the decoded lesion: an even core, a sharper rim, and a border that is the label's."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.testing import assert_close

from diffusion.sampling.finishing import NEAR_HU, NEAR_VOXELS, bilateral, border_moved, finished

SHAPE = (32, 32, 32)


@pytest.fixture
def masks() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A ball of 16 voxels, 3 voxels around it, and a scan that ends at one side."""
    distance = np.linalg.norm(np.indices(SHAPE) - 15.5, axis=0)
    lesion, paint = (torch.from_numpy(distance <= radius)[None, None].to(torch.uint8) for radius in (8, 11))
    valid = torch.ones_like(lesion)
    valid[..., :2] = 0
    return lesion, paint, valid


def lesion_hu(lesion: torch.Tensor, inside: float, unevenness: float) -> torch.Tensor:
    """A blurred lesion in lung of -850 HU, mottled at the scale of two voxels."""
    random = np.random.default_rng(0)
    blurred = gaussian_filter(np.where(lesion[0, 0].numpy() > 0, inside, -850.0), 0.7)
    mottling = gaussian_filter(random.standard_normal(SHAPE), 0.8)
    return torch.from_numpy(blurred + unevenness * mottling / mottling.std()).float()[None, None]


def core_of(hu: torch.Tensor) -> torch.Tensor:
    return hu[0, 0, 12:20, 12:20, 12:20]


def test_a_solid_core_is_made_even_and_keeps_its_mean(masks):
    before = lesion_hu(masks[0], 0.0, 30.0)
    after = finished(before, masks[0], masks[1], masks[2])
    assert core_of(after).std() < 0.6 * core_of(before).std()
    assert float(core_of(after).mean()) == pytest.approx(float(core_of(before).mean()), abs=12)


def test_ground_glass_keeps_its_texture(masks):
    before = lesion_hu(masks[0], -620.0, 30.0)
    after = finished(before, masks[0], masks[1], masks[2])
    assert float(core_of(after).std()) == pytest.approx(1.15 * float(core_of(before).std()), rel=0.1)  # sharpened only


def test_the_rim_gets_steeper_and_what_is_not_painted_stays(masks):
    before = lesion_hu(masks[0], 0.0, 0.0)
    after = finished(before, masks[0], masks[1], masks[2])
    outside = masks[1] == 0
    assert torch.equal(after[outside], before[outside])
    row = (0, 0, 16, 16)
    assert after[row].diff().abs().max() > 1.05 * before[row].diff().abs().max()


def test_the_whole_label_is_lesion(masks):
    before = lesion_hu(masks[0], 0.0, 10.0)
    before[0, 0, :, :, 20:] = -850.0  # a part of the label was left empty
    middle = (before[masks[0] > 0].median() - 850) / 2
    assert (before[masks[0] > 0] < middle).float().mean() > 0.1
    after = finished(before, masks[0], masks[1], masks[2])
    assert (after[masks[0] > 0] < middle - 5).float().mean() < 0.03  # smoothing moves the label's median a little


def test_the_border_moves_to_the_label_from_both_sides_and_the_mean_stays(masks):
    lesion, paint, valid = masks
    shifted = torch.roll(lesion_hu(lesion, 0.0, 0.0), 1, dims=4)  # one voxel beside its label
    after = border_moved(shifted[0, 0], lesion[0, 0] > 0, paint[0, 0] > 0, valid[0, 0] > 0)[None, None]

    def dice(volume: torch.Tensor) -> float:
        outline = volume[0, 0] > -425
        return 2 * float((outline & (lesion[0, 0] > 0)).sum()) / float(outline.sum() + lesion.sum())

    assert dice(shifted) < 0.93 and dice(after) > 0.98
    assert_close(after[lesion > 0].mean(), shifted[lesion > 0].mean(), rtol=0, atol=0.5)
    centre = (0, 0, slice(12, 20), slice(12, 20), slice(12, 20))
    assert float((after - shifted)[centre].abs().max()) < 60  # the contrast alone, scaled


def test_a_vessel_that_enters_the_lesion_stays(masks):
    lesion, paint, valid = masks
    before = lesion_hu(lesion, 0.0, 0.0)
    before[0, 0, 15:17, 15:17, 23:] = -50.0  # along x, from inside the label to the end of the crop
    after = border_moved(before[0, 0], lesion[0, 0] > 0, paint[0, 0] > 0, valid[0, 0] > 0)
    assert (after[15:17, 15:17, 24:27] > -300).all()


def test_a_lesion_without_lung_around_is_not_raised(masks):
    before = lesion_hu(masks[0], 40.0, 10.0).clamp(-100)
    after = finished(before, masks[0], masks[1], masks[2])
    assert after.isfinite().all() and float((after - before).abs().max()) < 100


def test_each_lesion_of_a_batch_is_finished_as_alone(masks):
    volumes = torch.cat([lesion_hu(masks[0], inside, 20.0) for inside in (0.0, -300.0)])
    together = finished(volumes, *(torch.cat([mask, mask]) for mask in masks))
    for index in range(2):
        assert_close(together[index : index + 1], finished(volumes[index : index + 1], *masks))


def test_the_bilateral_filter_is_its_formula():
    volume = 100 * torch.rand(7, 8, 9, generator=torch.Generator().manual_seed(0))
    at, values = np.indices(volume.shape), volume.double().numpy()
    here = np.array([3, 4, 5])
    squared = ((at - here[:, None, None, None]) ** 2).sum(0)
    weight = np.exp(-squared / (2 * NEAR_VOXELS**2) - (values - values[3, 4, 5]) ** 2 / (2 * NEAR_HU**2))
    weight *= squared <= 5
    assert float(bilateral(volume)[3, 4, 5]) == pytest.approx((weight * values).sum() / weight.sum(), rel=1e-5)
