"""The loss on the unevenness of cores: closed form, SciPy's Gaussian, what does not count, and its minimum."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.testing import assert_close

from diffusion.losses.core_energy import FLOOR, RIM, SIGMAS, core_energy_loss


def ball(radius: float = 8.0, size: int = 22) -> torch.Tensor:
    z, y, x = torch.meshgrid(*3 * (torch.arange(size) - size / 2,), indexing="ij")
    return ((z**2 + y**2 + x**2) < radius**2).double()[None, None]


def grain(seed: int, like: torch.Tensor) -> torch.Tensor:
    return 0.2 * torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def core_of(mask: torch.Tensor) -> np.ndarray:
    return ndimage.binary_erosion(mask[0, 0].numpy(), ndimage.generate_binary_structure(3, 3), RIM).astype(float)


def test_twice_the_deviation_costs_log_two_whatever_the_mean():
    mask = ball()
    deviation = grain(0, mask)
    loss = core_energy_loss(0.3 + 2 * deviation, deviation - 0.1, mask)
    assert loss.item() == pytest.approx(math.log(2), rel=2e-2)  # the floor takes a little
    assert core_energy_loss(deviation - 0.1, 0.3 + 2 * deviation, mask).item() == pytest.approx(loss.item())


def test_bands_are_those_of_scipy():
    mask = ball()
    pred, target = grain(1, mask), 0.5 * grain(2, mask)
    core = core_of(mask)
    energies = []
    for image in (pred[0, 0].numpy(), target[0, 0].numpy()):
        means = [image]
        for sigma in SIGMAS[1:]:
            blur = {"sigma": sigma, "mode": "constant", "truncate": 4.0}
            weight = ndimage.gaussian_filter(core, **blur).clip(1e-6)
            means.append(ndimage.gaussian_filter(image * core, **blur) / weight)
        energies.append([(((a - b) * core) ** 2).sum() / core.sum() + FLOOR**2 for a, b in pairwise(means)])
    logs = [abs(math.log(a / b)) / 2 for a, b in zip(*energies, strict=True)]
    assert core_energy_loss(pred, target, mask).item() == pytest.approx(sum(logs) / 3, rel=1e-6)


def test_another_grain_costs_little_and_a_blur_much():
    mask = ball()
    real, other = grain(0, mask), grain(1, mask)
    blurred = torch.nn.functional.avg_pool3d(real, 3, 1, 1)
    assert core_energy_loss(other, real, mask) < 0.1 * core_energy_loss(blurred, real, mask)


def test_rim_and_surroundings_do_not_count_and_a_small_lesion_has_no_core():
    mask = ball()
    real, pred = grain(0, mask), grain(1, mask)
    changed = torch.where(torch.from_numpy(core_of(mask)) > 0, pred, pred + 3)
    assert_close(core_energy_loss(changed, real, mask), core_energy_loss(pred, real, mask))
    small = ball(radius=3.0)
    pred.requires_grad_(True)
    losses = core_energy_loss(
        pred.expand(2, -1, -1, -1, -1), real.expand(2, -1, -1, -1, -1), torch.cat([small, mask]), reduction="none"
    )
    losses.sum().backward()
    assert losses[0] == 0 < losses[1]
    assert not pred.grad[mask == 0].any() and pred.grad.any()
