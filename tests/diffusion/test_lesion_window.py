import torch

from autoencoder import AutoencoderKL3D
from diffusion.lesion_window import decode_windows, lesion_windows


def test_decoded_window_equals_the_full_decode_inside_the_lesion():
    torch.manual_seed(0)
    vae = AutoencoderKL3D(channels=(8, 16), blocks_per_level=1)
    for parameter in vae.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    lesion_mask = torch.zeros(2, 1, 64, 56, 72)
    lesion_mask[0, :, 30:37, 25:34, 33:39] = 1
    lesion_mask[1, :, 2:9, 40:52, 60:71] = 1  # at the volume's border
    latent = torch.randn(2, 4, 16, 14, 18)
    windows = lesion_windows(lesion_mask, vae.factor, vae.decoder_margin)
    assert windows.size[0] < 16
    full = windows.of_voxels(vae.decode(latent).sample)
    window = decode_windows(vae, latent, windows)
    inside = windows.of_voxels(lesion_mask) > 0
    assert inside.sum() == lesion_mask.sum()
    assert torch.allclose(window[inside], full[inside], atol=1e-5)

    narrow = lesion_windows(lesion_mask, vae.factor, vae.decoder_margin - 2)
    differs = (decode_windows(vae, latent, narrow) - narrow.of_voxels(vae.decode(latent).sample)).abs()
    assert differs[narrow.of_voxels(lesion_mask) > 0].max() > 1e-4  # the margin is needed


def test_gradient_through_the_window_equals_the_gradient_through_the_full_decode():
    torch.manual_seed(0)
    vae = AutoencoderKL3D(channels=(8, 16), blocks_per_level=1).requires_grad_(False)
    lesion_mask = torch.zeros(1, 1, 48, 56, 64)
    lesion_mask[:, :, 20:27, 25:34, 30:39] = 1
    latent = torch.randn(1, 4, 12, 14, 16, requires_grad=True)
    windows = lesion_windows(lesion_mask, vae.factor, vae.decoder_margin)
    inside = windows.of_voxels(lesion_mask)
    (of_window,) = torch.autograd.grad((decode_windows(vae, latent, windows) * inside).square().sum(), latent)
    (of_whole,) = torch.autograd.grad((vae.decode(latent).sample * lesion_mask).square().sum(), latent)
    assert torch.allclose(of_window, of_whole, atol=1e-5)


def test_window_of_a_sample_without_lesion_lies_inside_the_volume():
    lesion_mask = torch.zeros(2, 1, 16, 16, 24)
    lesion_mask[0, :, 10:15, 10:15, 18:23] = 1
    windows = lesion_windows(lesion_mask, factor=4, margin=1)
    assert windows.of_voxels(lesion_mask).shape[2:] == tuple(4 * n for n in windows.size)
