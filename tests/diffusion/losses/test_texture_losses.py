import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.filters import gabor_kernel

from autoencoder.losses.wavelet import wavelet_texture_loss
from diffusion.losses.cooccurrence import DIRECTIONS_13, cooccurrence_loss, direction_offsets, soft_bins
from diffusion.losses.dog import dog_loss
from diffusion.losses.gabor import GaborBank, gabor_loss

SHAPE = (9, 12, 11)
BANK = GaborBank(frequencies=(0.2, 0.4), orientations=3)
LOSSES = {
    "gabor": lambda p, t, m, **kw: gabor_loss(p, t, m, BANK, **kw),
    "gabor max": lambda p, t, m, **kw: gabor_loss(p, t, m, BANK, "max", **kw),
    "gabor softmax": lambda p, t, m, **kw: gabor_loss(p, t, m, BANK, "softmax", **kw),
    "cooccurrence": lambda p, t, m, **kw: cooccurrence_loss(p, t, m, bins=6, **kw),
    "dog": dog_loss,
    "wavelet": wavelet_texture_loss,
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def batch(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two samples with masks of different size and place, none filling its box."""
    generator = torch.Generator().manual_seed(seed)
    pred, target = (0.4 * torch.randn(2, 1, *SHAPE, generator=generator, dtype=dtype) for _ in range(2))
    mask = torch.zeros(2, 1, *SHAPE, dtype=torch.uint8)
    mask[0, 0, 2:7, 3:8, 4:10] = torch.rand(5, 5, 6, generator=generator) < 0.8
    mask[1, 0, 0:3, 7:12, 0:4] = 1
    return pred, target, mask


def literal_gabor(pred, target, mask, kernels) -> list[float]:
    """Eq. 6 as written: both regions filtered in full by scipy, slice by slice, in three planes."""
    regions = [image * mask for image in (pred, target)]
    planes = []
    for axis in range(3):
        slices = [np.moveaxis(region, axis, 0) for region in regions]
        inside = np.moveaxis(mask, axis, 0)
        total = 0.0
        for kernel in kernels:
            g, r = (
                np.stack([ndimage.convolve(s.astype(complex), kernel, mode="constant") for s in region])
                for region in slices
            )
            total += (inside * np.abs(g - r) ** 2).sum() / mask.sum()
        planes.append(total / len(kernels))
    return planes


def literal_cooccurrence(pred, target, mask, bins, tau, offsets) -> float:
    """Eq. 7-9 as written, one pair of voxels at a time."""
    centres = -1 + 2 / bins * (np.arange(bins) + 0.5)

    def soft(v):
        e = np.exp(-((v - centres) ** 2) / tau**2)
        return e / e.sum()

    total = 0.0
    for offset in offsets:
        P = []
        for image in (pred, target):
            C = np.zeros((bins, bins))
            for p in np.argwhere(mask):
                q = p + offset
                if (q >= 0).all() and (q < mask.shape).all() and mask[tuple(q)]:
                    C += np.outer(soft(image[tuple(p)]), soft(image[tuple(q)]))
            P.append(C / C.sum() if C.sum() > 0 else C)
        total += np.abs(P[0] - P[1]).sum()
    return total / len(offsets)


def test_default_bank_has_the_64_kernels_of_scikit_image():
    bank = GaborBank()
    assert len(bank) == 64
    for kernel, frequency, theta in zip(bank.kernels(), bank.frequency, bank.theta, strict=True):
        reference = gabor_kernel(frequency, theta=theta)
        assert kernel.shape == reference.shape
        np.testing.assert_allclose(kernel, reference, atol=1e-12)


def test_kernels_of_two_bandwidths_and_half_millimetre_pixels_are_those_of_scikit_image():
    for i, kernel in enumerate(GaborBank((0.2,), 5, bandwidth=2.0).kernels((0.5, 0.5))):
        np.testing.assert_allclose(kernel, gabor_kernel(0.1, theta=i * np.pi / 5, bandwidth=2.0), atol=1e-12)


def test_gabor_loss_equals_the_literal_formula_over_the_full_volume():
    pred, target, mask = batch()
    kernels = [gabor_kernel(f, theta=t) for f, t in zip(BANK.frequency, BANK.theta, strict=True)]
    values = {kind: gabor_loss(pred, target, mask, BANK, kind, reduction="none") for kind in ("mean", "max")}
    for sample in range(2):
        planes = literal_gabor(*(x[sample, 0].double().numpy() for x in (pred, target, mask)), kernels)
        assert values["mean"][sample].item() == pytest.approx(np.mean(planes), rel=1e-5)
        assert values["max"][sample].item() == pytest.approx(np.max(planes), rel=1e-5)
    assert gabor_loss(pred, target, mask, BANK).item() == pytest.approx(values["mean"].mean().item())


def test_softmax_over_planes_lies_between_mean_and_worst_plane_and_scales_with_the_loss():
    pred, target, mask = batch()
    pred = target + torch.linspace(-1, 1, SHAPE[0])[:, None, None] * pred.abs()  # planes that differ
    mean, softmax, worst = (gabor_loss(pred, target, mask, BANK, r).item() for r in ("mean", "softmax", "max"))
    assert mean < softmax < worst
    ten_times = gabor_loss(target + 10 * (pred - target), target, mask, BANK, "softmax").item()
    assert ten_times == pytest.approx(100 * softmax, rel=1e-4)


def test_gabor_loss_measures_millimetres_not_voxels():
    """A smooth texture sampled at 1 mm and at 2 mm in z gives nearly the same loss, once told so."""
    bank = GaborBank((0.05, 0.1, 0.15), 6)
    z, y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in (48, 24, 26)), indexing="ij")
    pred = (torch.sin(2 * math.pi * (0.1 * z + 0.04 * y)) + torch.cos(2 * math.pi * (0.08 * x - 0.06 * z)))[None, None]
    target, mask = torch.zeros_like(pred), torch.ones_like(pred)
    fine = gabor_loss(pred, target, mask, bank).item()
    coarse = [x[:, :, ::2] for x in (pred, target, mask)]
    assert gabor_loss(*coarse, bank, spacing_mm=(2.0, 1.0, 1.0)).item() == pytest.approx(fine, rel=0.05)
    assert abs(gabor_loss(*coarse, bank).item() / fine - 1) > 0.2  # what ignoring the spacing would cost


def test_filters_above_nyquist_are_left_out_of_the_planes_that_cannot_hold_them():
    bank = GaborBank((0.1, 0.4), 2)
    assert bank.representable((1.0, 1.0)).all()
    assert bank.representable((2.5, 1.0)).tolist() == [True, True, True, False]  # 0.4 per mm along 2.5 mm rows
    pred, target, mask = batch()
    with pytest.raises(ValueError, match="Nyquist"):
        gabor_loss(pred, target, mask, GaborBank((0.4,), 2), spacing_mm=(6.0, 6.0, 6.0))


def test_each_sample_may_have_its_own_spacing():
    pred, target, mask = batch()
    spacings = torch.tensor([[1.0, 1.0, 1.0], [2.0, 0.7, 0.7]])
    together = gabor_loss(pred, target, mask, BANK, spacing_mm=spacings, reduction="none")
    for i in range(2):
        alone = gabor_loss(pred[i : i + 1], target[i : i + 1], mask[i : i + 1], BANK, spacing_mm=spacings[i])
        assert together[i].item() == pytest.approx(alone.item(), rel=1e-6)


def test_gabor_weights_keep_their_mean_and_floor_while_trained_to_make_the_loss_small():
    pred, target, mask = batch()
    bank = GaborBank((0.1, 0.3), 3, weight_floor=0.1)
    assert torch.equal(bank.weights(), torch.ones(6))
    optimizer = torch.optim.Adam(bank.parameters(), lr=0.3)
    before = gabor_loss(pred, target, mask, bank).item()
    for _ in range(30):
        optimizer.zero_grad()
        loss = gabor_loss(pred, target, mask, bank)
        loss.backward()
        optimizer.step()
    weights = bank.weights()
    assert loss.item() < before  # it did train
    assert weights.min() >= 0.1
    assert weights.mean().item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("offsets", [DIRECTIONS_13, direction_offsets((2,)), ((0, -3, 5),)])
def test_cooccurrence_loss_equals_the_literal_formula_pair_by_pair(offsets):
    pred, target, mask = batch()
    values = cooccurrence_loss(pred, target, mask, bins=5, tau=0.3, offsets=offsets, reduction="none")
    for sample in range(2):
        images = (x[sample, 0].double().numpy() for x in (pred, target))
        expected = literal_cooccurrence(*images, mask[sample, 0].numpy(), 5, 0.3, offsets)
        assert values[sample].item() == pytest.approx(expected, rel=1e-5)


def test_the_13_directions_and_their_opposites_are_the_26_neighbours():
    both = {*DIRECTIONS_13, *((-z, -y, -x) for z, y, x in DIRECTIONS_13)}
    assert len(DIRECTIONS_13) == 13
    assert len(both) == 26
    assert len(direction_offsets((1, 2, 3))) == 39


def test_soft_bins_are_equation_7_and_stay_finite_far_out_of_range():
    centres = torch.linspace(-1, 1, 7, dtype=torch.float64)
    values = torch.tensor([-0.93, 0.1, 0.5, 1.7], dtype=torch.float64)
    kernel = torch.exp(-((values[:, None] - centres) ** 2) / 0.2**2)
    torch.testing.assert_close(soft_bins(values, centres, 0.2), kernel / kernel.sum(1, keepdim=True))
    torch.testing.assert_close(
        soft_bins(torch.tensor([1e6, -1e6]), centres.float(), 0.2), torch.eye(7)[[6, 0]], rtol=0, atol=0
    )


def test_cooccurrence_of_images_in_different_bins_is_two_and_of_equal_images_zero():
    mask = torch.ones(1, 1, 4, 5, 3)
    dark, bright = torch.full_like(mask, -0.9), torch.full_like(mask, 0.9)
    assert cooccurrence_loss(dark, bright, mask, tau=0.01).item() == pytest.approx(2, rel=1e-6)
    assert cooccurrence_loss(dark, dark, mask).item() == 0


def test_dog_loss_equals_scipy_gaussian_filters():
    pred, target, mask = batch(dtype=torch.float64)
    values = dog_loss(pred, target, mask, (0.6, 1.3), spacing_mm=(2.0, 0.8, 0.7), reduction="none")
    for sample in range(2):
        inside = mask[sample, 0].numpy()
        diff = (pred - target)[sample, 0].numpy() * inside
        narrow, wide = (
            ndimage.gaussian_filter(diff, [s / mm for mm in (2.0, 0.8, 0.7)], mode="constant") for s in (0.6, 1.3)
        )
        assert values[sample].item() == pytest.approx(((narrow - wide) ** 2)[inside > 0].mean(), rel=1e-10)


@each_loss
def test_loss_is_independent_of_everything_outside_the_mask(loss):
    pred, target, mask = batch()
    noise = torch.randn(pred.shape, generator=torch.Generator().manual_seed(9))
    outside = torch.where(mask > 0, 0, 1e6 * noise)
    expected = loss(pred, target, mask, reduction="none")
    for p, t in ((pred + outside, target), (pred, target + outside), (pred + outside, target - outside)):
        assert torch.equal(loss(p, t, mask, reduction="none"), expected)
    broken = torch.where(mask > 0, pred, float("nan")).requires_grad_()
    value = loss(broken, target, mask)
    value.backward()
    assert value.item() == pytest.approx(expected.mean().item())
    assert broken.grad is not None
    assert torch.equal(broken.grad != 0, (broken.grad != 0) & (mask > 0))  # finite, and zero outside


@each_loss
def test_loss_of_a_batch_is_the_loss_of_its_samples_alone(loss):
    pred, target, mask = batch()
    together = loss(pred, target, mask, reduction="none")
    alone = torch.stack([loss(pred[i : i + 1], target[i : i + 1], mask[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone)


@each_loss
@pytest.mark.parametrize("kind", ["empty", "one voxel", "one slice", "two samples, one empty"])
def test_loss_is_finite_with_finite_gradient_for_degenerate_masks(loss, kind):
    pred, target, mask = batch()
    if kind == "two samples, one empty":
        mask[1] = 0
    else:
        mask[:] = 0
        if kind == "one voxel":
            mask[:, :, 4, 11, 0] = 1
        elif kind == "one slice":
            mask[:, :, 4, 3:8, 2:6] = 1
    pred.requires_grad_()
    values = loss(pred, target, mask, reduction="none")
    values.sum().backward()
    assert torch.isfinite(values).all()
    assert torch.isfinite(pred.grad).all()
    empty = mask.flatten(1).sum(1) == 0
    assert (values[empty] == 0).all()
    assert (pred.grad[empty] == 0).all()


@each_loss
def test_gradient_passes_gradcheck_in_float64(loss):
    pred, target, _ = (x[:, :, :3, :4, :2].contiguous() for x in batch(3, torch.float64))
    mask = torch.ones(2, 1, 3, 4, 2)
    mask[0, 0, 1, 0, 0] = 0
    mask[1, 0, :, 2:] = 0
    assert torch.autograd.gradcheck(lambda p: loss(p, target, mask, reduction="none"), pred.requires_grad_())


def test_gradient_of_the_gabor_weights_passes_gradcheck():
    pred, target, mask = batch(dtype=torch.float64)
    bank = GaborBank((0.1, 0.3), 2).double()

    def of_logits(logits):
        return torch.func.functional_call(_LossModule(bank), {"bank.logits": logits}, (pred, target, mask))

    assert torch.autograd.gradcheck(of_logits, torch.randn(4, dtype=torch.float64, requires_grad=True))


class _LossModule(torch.nn.Module):
    def __init__(self, bank):
        super().__init__()
        self.bank = bank

    def forward(self, pred, target, mask):
        return gabor_loss(pred, target, mask, self.bank)


@each_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loss_under_autocast_is_the_float32_loss_of_the_rounded_images(loss, dtype):
    pred, target, mask = batch()
    half_pred = pred.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        value = loss(half_pred, target.to(dtype), mask)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == loss(pred.to(dtype).float(), target.to(dtype).float(), mask).item()
    assert torch.isfinite(half_pred.grad).all()


@each_loss
def test_descent_on_the_loss_moves_a_flat_lesion_towards_the_texture(loss):
    _, target, mask = batch(dtype=torch.float64)
    pred = torch.zeros_like(target).requires_grad_()
    optimizer = torch.optim.Adam([pred], lr=0.02)
    before = loss(pred, target, mask).item()
    for _ in range(40):
        optimizer.zero_grad()
        value = loss(pred, target, mask)
        value.backward()
        optimizer.step()
    assert value.item() < 0.6 * before


@each_loss
def test_wrong_shapes_and_options_are_refused(loss):
    pred, target, mask = batch()
    with pytest.raises(ValueError, match="equal shapes"):
        loss(pred, target[:1], mask)
    with pytest.raises(ValueError, match="one mask per sample"):
        loss(pred, target, mask[:1])
    with pytest.raises(ValueError, match="reduction"):
        loss(pred, target, mask, reduction="sum")


def test_texture_of_latents_is_refused():
    latent, mask = torch.zeros(1, 4, 3, 4, 5), torch.ones(1, 1, 3, 4, 5)
    for loss in (LOSSES["gabor"], LOSSES["cooccurrence"], dog_loss):
        with pytest.raises(ValueError, match="decode latents first"):
            loss(latent, latent, mask)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, t, m: gabor_loss(p, t, m, BANK, "median"), "plane_reduction"),
        (lambda p, t, m: gabor_loss(p, t, m, BANK, spacing_mm=(1, 0, 1)), "spacing_mm"),
        (lambda p, t, m: cooccurrence_loss(p, t, m, bins=1), "bins"),
        (lambda p, t, m: cooccurrence_loss(p, t, m, tau=0.0), "tau"),
        (lambda p, t, m: cooccurrence_loss(p, t, m, offsets=((0, 0, 0),)), "offsets"),
        (lambda p, t, m: dog_loss(p, t, m, (1.0, 0.5)), "sigmas_mm"),
        (lambda p, t, m: GaborBank((0.0,)), "frequencies"),
        (lambda p, t, m: GaborBank(orientations=0), "orientations"),
        (lambda p, t, m: GaborBank(weight_floor=2.0), "weight_floor"),
    ],
)
def test_options_out_of_range_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(*batch())
