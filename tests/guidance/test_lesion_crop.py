"""The crop around the lesion: where it lies, and that a decoded one is that of the whole decoded volume."""

import torch
from tiny_models import randomised
from torch.testing import assert_close

from autoencoder.kl import AutoencoderKL3D
from autoencoder.latents import unstandardise
from diffusion.conditioning import mask_coverage
from guidance.lesion_crop import lesion_crops


def autoencoder() -> AutoencoderKL3D:
    torch.manual_seed(0)
    statistics = {"latents_mean": [0.5, -1.0], "latents_std": [2.0, 0.7]}
    return randomised(AutoencoderKL3D((4, 6), 1, 2, **statistics)).double()


def masks() -> torch.Tensor:
    """In the middle, at two faces, and larger than the crop; 48 x 56 x 64 voxels, 12 x 14 x 16 cells of 4."""
    mask = torch.zeros(3, 1, 48, 56, 64, dtype=torch.uint8)
    mask[0, 0, 22:27, 27:30, 40:47] = 1
    mask[1, 0, :3, 53:, 10:12] = 1
    mask[2, 0, 4:44, 8:48, 16:56] = 1
    return mask


def test_crop_lies_around_the_middle_of_the_lesion_and_inside_the_volume():
    crops = lesion_crops(masks(), 4, "latent", autoencoder())
    # middles in cells: (6.1, 7.1, 10.9), (0.4, 13.6, 2.8), (6, 7, 9); two cells on either side, shifted inwards
    assert crops.windows.starts == [[4, 5, 9], [0, 10, 1], [4, 5, 7]] and crops.windows.size == (4, 4, 4)
    coverage = mask_coverage(masks(), 4)
    assert torch.equal(crops.lesion[1], coverage[1, :, 0:4, 10:14, 1:5]) and crops.lesion[1].sum() > 0
    small = lesion_crops(masks()[..., :24], 8, "latent", autoencoder())
    assert small.windows.size == (8, 8, 6) and [start[2] for start in small.windows.starts] == [0, 0, 0]


def test_decoded_crop_and_its_gradient_are_those_of_the_whole_decoded_volume():
    vae, mask = autoencoder(), masks()
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(3, 2, 12, 14, 16, dtype=torch.float64, generator=generator).requires_grad_(True)
    crops = lesion_crops(mask, 4, "decoded", vae)
    assert crops.wide is not None and crops.wide.size != (12, 14, 16)  # less than the whole is decoded
    made = crops.of(latent, vae)
    whole = vae.decode(unstandardise(latent, vae.config)).sample
    expected = torch.stack(
        [
            whole[0, :, 16:32, 20:36, 36:52],
            whole[1, :, 0:16, 40:56, 4:20],
            whole[2, :, 16:32, 20:36, 28:44],
        ]
    )
    assert_close(made, expected, rtol=1e-6, atol=1e-8)
    lesion = torch.stack(
        [mask[0, :, 16:32, 20:36, 36:52], mask[1, :, 0:16, 40:56, 4:20], mask[2, :, 16:32, 20:36, 28:44]]
    )
    assert torch.equal(crops.lesion, lesion.float())
    weight = torch.randn(made.shape, dtype=torch.float64, generator=generator)
    (gradient,), (other,) = (torch.autograd.grad((weight * crop).sum(), latent) for crop in (made, expected))
    assert_close(gradient, other, rtol=1e-5, atol=1e-6)
    assert gradient.abs().sum() > 0 and not gradient[0, :, :, :, 0].any()
