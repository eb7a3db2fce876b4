import numpy as np
import pytest
import pywt
import torch

from autoencoder.losses.wavelet import dwtn, wavelet_texture_loss

ORTHOGONAL = [name for name in pywt.wavelist(kind="discrete") if pywt.Wavelet(name).orthogonal]
AXES = [(-3, -2, -1), (-2, -1), (-3, -1), (-3, -2)]


def volume(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def literal_loss(x, y, alpha, beta, eps, wavelet, planes) -> float:
    """Eq. 10-11 with PyWavelets' own coefficients, for one sample (D, H, W)."""
    losses = []
    for axes in planes:
        W_x, W_y = (pywt.dwtn(image, wavelet, axes=axes) for image in (x, y))
        bands = [band for band in W_x if "d" in band]
        energy = sum(W_y[b] ** 2 for b in bands)
        R = energy / energy.max()
        losses.append(sum((alpha + beta * R) * np.sqrt((W_x[b] - W_y[b]) ** 2 + eps**2) for b in bands).mean())
    return float(np.mean(losses))


@pytest.mark.parametrize("wavelet", ORTHOGONAL)
def test_coefficients_equal_pywavelets_for_every_orthogonal_filter(wavelet):
    x = volume(0, 7, 10, 9)
    for axes in AXES:
        expected = pywt.dwtn(x.numpy(), wavelet, axes=axes)
        bands = dwtn(x.float(), wavelet, axes)
        assert bands.keys() == expected.keys()
        for key, band in bands.items():
            np.testing.assert_allclose(band.numpy(), expected[key], atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["zero", "symmetric", "periodization", "reflect"])
def test_coefficients_equal_pywavelets_for_every_boundary_mode_and_leading_axes(mode):
    x = volume(1, 2, 3, 8, 5, 6)
    for key, band in dwtn(x, "db3", mode=mode).items():
        expected = pywt.dwtn(x.numpy(), "db3", mode=mode, axes=(-3, -2, -1))[key]
        np.testing.assert_allclose(band.numpy(), expected, atol=1e-12)


def test_an_orthogonal_periodic_transform_keeps_the_energy():
    x = volume(2, 8, 6, 10)
    bands = dwtn(x, "sym4", mode="periodization")
    assert sum(band.square().sum() for band in bands.values()).item() == pytest.approx(x.square().sum().item())


@pytest.mark.parametrize("wavelet", ["haar", "db2", "coif1"])
@pytest.mark.parametrize(("transform", "planes"), [("triplanar", AXES[1:]), ("volume", AXES[:1])])
def test_loss_equals_the_literal_formula_on_pywavelets_coefficients(wavelet, transform, planes):
    pred, target = volume(3, 2, 1, 7, 10, 8), volume(4, 2, 1, 7, 10, 8)
    values = wavelet_texture_loss(pred, target, None, 0.7, 2.0, 0.01, wavelet, transform=transform, reduction="none")
    for sample in range(2):
        images = (x[sample, 0].numpy() for x in (pred, target))
        assert values[sample].item() == pytest.approx(literal_loss(*images, 0.7, 2.0, 0.01, wavelet, planes), rel=1e-9)


def test_a_mask_of_the_whole_volume_is_no_mask():
    pred, target = volume(3, 1, 2, 6, 9, 8), volume(4, 1, 2, 6, 9, 8)
    for wavelet in ("haar", "db3"):
        masked = wavelet_texture_loss(pred, target, torch.ones(1, 1, 6, 9, 8), wavelet=wavelet)
        assert masked.item() == pytest.approx(wavelet_texture_loss(pred, target, wavelet=wavelet).item(), rel=1e-9)


@pytest.mark.parametrize("wavelet", ["haar", "db2", "sym5"])
@pytest.mark.parametrize("transform", ["triplanar", "volume"])
def test_working_on_the_lesions_box_equals_working_on_the_volume(wavelet, transform):
    """Coefficients that meet the mask, by a transform of the full volume with the same zeros outside."""
    shape = (25, 31, 28)
    pred, target = volume(5, *shape), volume(6, *shape) + 3
    mask = torch.zeros(shape, dtype=torch.float64)
    mask[11:15, 24:31, 9:14] = (torch.rand(4, 7, 5, generator=torch.Generator().manual_seed(0)) < 0.8).double()
    y = (target - target[mask > 0].mean()) * mask
    diff = (pred - target) * mask
    planes = []
    for axes in AXES[1:] if transform == "triplanar" else AXES[:1]:
        W_diff, W_y = ({k: v for k, v in dwtn(x, wavelet, axes).items() if "d" in k} for x in (diff, y))
        energy = sum(w**2 for w in W_y.values())
        terms = sum((1 + energy / energy.max()) * torch.sqrt(w**2 + 1e-6) for w in W_diff.values())
        meets = torch.zeros_like(terms, dtype=torch.bool)
        for voxel in mask.nonzero():  # a coefficient meets the mask if it answers to one of its voxels
            impulse = torch.zeros(shape, dtype=torch.float64)
            impulse[tuple(voxel)] = 1
            meets |= sum(w.abs() for w in dwtn(impulse, wavelet, axes).values()) > 1e-12
        planes.append(terms[meets].mean())
    loss = wavelet_texture_loss(
        pred[None, None], target[None, None], mask[None, None], wavelet=wavelet, transform=transform
    )
    assert loss.item() == pytest.approx(torch.stack(planes).mean().item(), rel=1e-9)


def test_beta_weighs_errors_more_where_the_real_image_has_texture():
    target = torch.zeros(1, 1, 8, 8, 8)
    target[..., :4, ::2] = 1.0  # texture in one half only
    error = 0.1 * volume(7, 1, 1, 8, 4, 8).float()
    in_texture, in_flat = target.clone(), target.clone()
    in_texture[..., :4, :] += error
    in_flat[..., 4:, :] += error
    assert wavelet_texture_loss(in_texture, target, beta=0.0).item() == pytest.approx(
        wavelet_texture_loss(in_flat, target, beta=0.0).item(), rel=1e-5
    )
    assert wavelet_texture_loss(in_texture, target, beta=2.0) > 1.2 * wavelet_texture_loss(in_flat, target, beta=2.0)


def test_equal_or_constant_images_have_the_loss_of_rho_at_zero_and_no_gradient():
    flat = torch.full((1, 1, 5, 6, 7), 0.3, requires_grad=True)
    loss = wavelet_texture_loss(flat, flat.detach() + 0.5, alpha=1.5, eps=0.01)
    loss.backward()
    assert loss.item() == pytest.approx(3 * 1.5 * 0.01, rel=1e-5)
    assert flat.grad.abs().max() < 1e-6


def test_gradient_without_a_mask_passes_gradcheck():
    target = volume(8, 1, 1, 4, 3, 2)
    for transform in ("triplanar", "volume"):
        assert torch.autograd.gradcheck(
            lambda p, t=transform: wavelet_texture_loss(p, target, wavelet="db2", transform=t),
            volume(9, 1, 1, 4, 3, 2).requires_grad_(),
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [({"eps": 0.0}, "eps"), ({"transform": "2d"}, "transform"), ({"wavelet": "harr"}, "harr")],
)
def test_options_out_of_range_are_refused_by_name(options, message):
    x = torch.zeros(1, 1, 4, 4, 4)
    with pytest.raises(ValueError, match=message):
        wavelet_texture_loss(x, x, **options)
