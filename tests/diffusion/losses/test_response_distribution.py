"""Losses without a blur as minimum, and the loss at the border."""

import pytest
import torch
from scipy.stats import wasserstein_distance
from skimage.filters import gabor_kernel
from torch.testing import assert_close

from diffusion.losses.border import border_loss
from diffusion.losses.gabor import PLANES, GaborBank
from diffusion.losses.response_distribution import gabor_distribution_loss

BANK = GaborBank(frequencies=(0.2, 0.4), orientations=3)
SHAPE = (9, 12, 11)


def ball(size: tuple[int, int, int] = (20, 22, 24), radius: float = 7.0) -> torch.Tensor:
    z, y, x = torch.meshgrid(*(torch.arange(n) - n / 2 for n in size), indexing="ij")
    return ((z**2 + y**2 + x**2) < radius**2).float()[None, None]


def texture(seed: int, like: torch.Tensor) -> torch.Tensor:
    return 0.2 * torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)) + 0.1


def test_distance_along_one_direction_is_that_of_scipy(monkeypatch):
    bank = GaborBank(frequencies=(0.3,), orientations=1)
    mask = torch.zeros(1, 1, *SHAPE)
    mask[..., 2:7, 3:9, 4:10] = 1
    pred, target = texture(0, mask), texture(1, mask)
    kernel = torch.as_tensor(gabor_kernel(0.3, 0.0, bandwidth=1.0))
    planes = []
    for axes in PLANES.values():
        inside = mask[0, 0].permute(axes) > 0
        values = []
        for image in (pred, target):
            centred = ((image - target[mask > 0].mean()) * mask)[0, 0].permute(axes).to(kernel.dtype)
            padding = [n // 2 for n in kernel.shape]
            response = torch.nn.functional.conv2d(centred[:, None], kernel.flip(0, 1)[None, None], padding=padding)
            values.append(response[:, 0][inside].real)
        planes.append(wasserstein_distance(*values) / values[1].std().item())
    monkeypatch.setattr(torch, "randn", lambda *_, **__: torch.tensor([[1.0, 0.0]]))  # the real part alone
    found = gabor_distribution_loss(pred, target, mask, bank, projections=1)
    assert_close(found.item(), sum(planes) / 3, rtol=1e-4, atol=1e-6)


def test_a_blur_is_worse_than_another_lesion_of_the_same_texture_though_nearer_point_by_point():
    mask = ball()
    real, other = texture(0, mask), texture(1, mask)
    blurred = torch.nn.functional.avg_pool3d(real, 3, 1, 1)
    torch.manual_seed(0)
    of_other, of_blur, of_mean = (
        gabor_distribution_loss(image, real, mask, BANK).item()
        for image in (other, blurred, torch.full_like(real, 0.1))
    )
    assert of_other < 0.3 * of_blur < 0.3 * of_mean
    error_of_other, error_of_blur = (((image - real) ** 2 * mask).sum() for image in (other, blurred))
    assert error_of_blur < 0.6 * error_of_other


def test_descent_gives_a_flat_lesion_the_spread_of_the_real_one():
    mask = ball(radius=5)
    real = texture(0, mask)
    made = torch.full_like(real, 0.1) + 0.01 * texture(1, mask)
    made.requires_grad_(True)
    optimizer = torch.optim.Adam([made], lr=0.01)
    torch.manual_seed(0)
    for _ in range(60):
        optimizer.zero_grad()
        gabor_distribution_loss(made, real, mask, BANK).backward()
        optimizer.step()
    spread = made.detach()[mask > 0].std() / real[mask > 0].std()
    assert 0.6 < spread < 1.4


def test_more_voxels_than_wanted_are_thinned_evenly_and_hardly_change_the_distance():
    mask = ball()
    real, other = texture(0, mask), 2 * texture(1, mask)
    torch.manual_seed(0)
    whole = gabor_distribution_loss(other, real, mask, BANK, projections=64)
    torch.manual_seed(0)
    thinned = gabor_distribution_loss(other, real, mask, BANK, projections=64, most_voxels=300)
    assert_close(thinned, whole, rtol=0.15, atol=0)


@pytest.mark.parametrize("voxels", [0, 1])
def test_a_mask_without_two_voxels_costs_nothing(voxels):
    mask = torch.zeros(1, 1, *SHAPE)
    mask.flatten()[:voxels] = 1
    pred = texture(0, mask).requires_grad_(True)
    loss = gabor_distribution_loss(pred, texture(1, mask), mask, BANK)
    loss.backward()
    assert loss == 0 and not pred.grad.any()


def test_options_out_of_range_are_refused():
    mask = ball(SHAPE, 3)
    with pytest.raises(ValueError, match="projections 0, most_voxels 2048: expected at least 1 and 2"):
        gabor_distribution_loss(texture(0, mask), texture(1, mask), mask, BANK, projections=0)


def test_border_loss_is_the_error_of_the_steps_across_the_border_alone():
    mask = torch.zeros(1, 1, 4, 6, 8)
    mask[..., 1:3, 2:4, 3:5] = 1  # 2 x 2 x 2 voxels: 24 steps cross its border
    target = texture(0, mask)
    assert_close(border_loss(target + 0.3, target, mask), torch.tensor(0.0), atol=1e-6, rtol=0)
    assert_close(border_loss(target + 0.3 * mask, target, mask), torch.tensor(0.3))
    one = target.clone()
    one[0, 0, 1, 2, 3] += 0.6  # a corner of it: three of the steps
    assert_close(border_loss(one, target, mask), torch.tensor(0.6 * 3 / 24))
    far = target.clone()
    far[0, 0, 3, 5, 7] += 5.0
    assert_close(border_loss(far, target, mask), torch.tensor(0.0), atol=1e-6, rtol=0)
    assert_close(border_loss(one, target, torch.zeros_like(mask), reduction="none"), torch.zeros(1))
