"""Tiles give what the whole volume gives."""

import pytest
import torch

from autoencoder import AutoencoderKL3D, IdentityAutoencoder, VQAutoencoder3D
from autoencoder.tiling import decode_volume, encode_volume


def trained_like(kind, **settings):
    """A model none of whose weights is zero: fresh ones ignore their residual blocks."""
    torch.manual_seed(0)
    model = kind(**{"channels": (6, 8), "blocks_per_level": 1, "latent_channels": 3} | settings).eval()
    for parameter in model.parameters():
        if not parameter.any():
            parameter.data = 0.1 * torch.randn(parameter.shape)
    return model


@pytest.mark.parametrize("tile_cells", [3, 5, 100])
@pytest.mark.parametrize(
    "model",
    [
        trained_like(AutoencoderKL3D),
        trained_like(VQAutoencoder3D, codebook_size=32),
        trained_like(AutoencoderKL3D, channels=(6,), blocks_per_level=2),
        trained_like(AutoencoderKL3D, channels=(4, 6, 8), stem="conv"),
        IdentityAutoencoder(),
    ],
    ids=["kl", "vq", "factor 2", "factor 8, conv stem", "identity"],
)
@torch.no_grad()
def test_tiled_encoding_and_decoding_equal_those_in_one_piece(model, tile_cells):
    if model.factor == 1:
        tile_cells *= 4
    size = [n * max(model.factor, 4) for n in (7, 11, 13)] if model.factor < 8 else [56, 64, 72]
    ct_norm = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    whole = model.encode(ct_norm).latent_dist.mode()
    tiled = encode_volume(model, ct_norm, tile_cells, progress=False)
    torch.testing.assert_close(tiled, whole, atol=2e-6, rtol=1e-5)
    decoded = decode_volume(model, whole, tile_cells, progress=False)
    torch.testing.assert_close(decoded, model.decode(whole).sample, atol=2e-6, rtol=1e-5)


def test_margins_are_as_small_as_they_may_be():
    model = trained_like(AutoencoderKL3D)
    margin = model.decoder_margin
    latent = torch.randn(1, 3, 2 * margin + 5, 4, 4, requires_grad=True)
    model.decode(latent).sample[0, 0, 4 * (margin + 2) : 4 * (margin + 3)].sum().backward()
    reach = latent.grad.abs().amax(dim=(0, 1, 3, 4)).nonzero().flatten()
    assert reach.min() >= 2 and reach.max() <= 2 * margin + 2  # nothing farther than the margin
    assert reach.max() - reach.min() + 1 >= 2 * margin - 1  # a receptive field ends inside a cell


def test_models_that_are_no_local_operators_are_refused():
    for settings in ({"norm": "group"}, {"mid_attention": True}):
        model = trained_like(AutoencoderKL3D, **settings)
        with pytest.raises(ValueError, match="tiles would disagree"):
            encode_volume(model, torch.zeros(1, 1, 8, 8, 8))


def test_shapes_that_do_not_fit_are_named():
    model = trained_like(AutoencoderKL3D)
    with pytest.raises(ValueError, match=r"\(1, 1, 8, 8, 10\): expected D, H, W divisible by 4"):
        encode_volume(model, torch.zeros(1, 1, 8, 8, 10))
    with pytest.raises(ValueError, match=r"latent has shape \(2, 3, 4, 4, 4\), expected \(1, 3"):
        decode_volume(model, torch.zeros(2, 3, 4, 4, 4))
    with pytest.raises(ValueError, match="tile_cells 0"):
        decode_volume(model, torch.zeros(1, 3, 4, 4, 4), tile_cells=0)
