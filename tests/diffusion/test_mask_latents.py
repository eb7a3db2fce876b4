"""A mask on the latent grid: closed forms of the distance, and real shapes there and back."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from diffusion.conditioning import from_octants, octants
from diffusion.mask_latents import largest_part, mask_channels, mask_latent, mask_of_latent, signed_distance
from diffusion.shapes import LesionShapes, drawn_mask

EDGE = 32


@pytest.fixture(scope="module")
def real_masks() -> torch.Tensor:
    shapes = LesionShapes.from_pretrained("models/lung-nodule-small/shapes")
    diameters = np.linspace(5, 20, 12)
    masks = [
        drawn_mask((EDGE,) * 3, (1, 1, 1), (EDGE / 2,) * 3, diameter, {}, seed, shapes)[0]
        for seed, diameter in enumerate(diameters)
    ]
    return torch.from_numpy(np.stack(masks))[:, None]


def test_the_distance_of_a_slab_is_that_to_its_nearer_face():
    mask = np.zeros((12, 4, 5), np.uint8)
    mask[3:9] = 1
    expected = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.5, 1.5, 0.5, -0.5, -1.5, -2.5]
    assert_close(signed_distance(mask)[:, 2, 2], np.array(expected, np.float32), check_dtype=False)
    assert (signed_distance(1 - mask) == -signed_distance(mask)).all()


@pytest.mark.parametrize("full", [False, True])
def test_without_a_border_all_is_far_from_it(full):
    mask = torch.full((1, 1, 4, 4, 8), int(full), dtype=torch.uint8)
    latent = mask_latent(mask, 2, "distance", 3.0, 1.0)
    assert_close(latent, torch.full_like(latent, 1.0 if full else -1.0))
    assert torch.equal(mask_of_latent(latent, 2), mask)


def test_a_plane_is_where_the_latent_says_to_the_octant():
    mask = torch.zeros((1, 1, 16, 8, 8), dtype=torch.uint8)
    mask[:, :, 7:] = 1  # the border at 7 is no border of octants of 2 voxels
    latent = mask_latent(mask, 4, "distance", 8.0, 0.5)
    assert latent.shape == (1, mask_channels(4), 4, 2, 2)
    assert_close(from_octants(latent, 4)[0, 0, 2:6, 0, 0] * 16, torch.tensor([-2.0, 0.0, 2.0, 4.0]), atol=0.05, rtol=0)
    assert torch.equal(mask_of_latent(latent, 4), mask)


def test_octants_lie_side_by_side_again():
    volume = torch.rand(2, 1, 8, 12, 4)
    assert torch.equal(from_octants(octants(volume, 2), 2), volume)
    assert_close(from_octants(octants(volume, 4), 4), torch.nn.functional.avg_pool3d(volume, 2))
    assert torch.equal(from_octants(octants(volume, 1), 1), volume)


@pytest.mark.parametrize(("kind", "least", "lost"), [("distance", 0.94, 0.03), ("coverage", 0.93, 0.06)])
def test_real_shapes_come_back_with_their_volume(real_masks, kind, least, lost):
    back = mask_of_latent(mask_latent(real_masks, 4, kind, 8.0, 1.0), 4)
    both, volumes = (real_masks * back).flatten(1).sum(1), real_masks.flatten(1).sum(1)
    dice = 2 * both / (volumes + back.flatten(1).sum(1))
    assert float(dice.mean()) > least and float(dice.min()) > 0.85
    assert float((back.flatten(1).sum(1) / volumes).mean()) == pytest.approx(1, abs=lost)


def test_of_several_parts_the_largest_stays():
    masks = torch.zeros((2, 1, 6, 6, 6), dtype=torch.uint8)
    masks[0, 0, :2, :2, :2] = 1
    masks[0, 0, 4:, 4:, 5] = 1
    kept = largest_part(masks)
    assert int(kept[0].sum()) == 8 and int(kept[1].sum()) == 0
