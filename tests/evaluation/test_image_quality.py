import math

import numpy as np
import pytest
import torch
from monai.metrics.regression import compute_ms_ssim
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from evaluation.image_quality import MS_SSIM_WEIGHTS, ms_ssim, mse, psnr, ssim


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    target = rng.uniform(-1, 1, (2, 1, 16, 18, 20))
    return np.clip(target + rng.normal(0, 0.2, target.shape), -1, 1), target


def test_mse_and_psnr_of_each_sample_equal_scikit_image(pair):
    pred, target = pair
    expected_mse = [mean_squared_error(t, p) for p, t in zip(pred, target, strict=True)]
    expected_psnr = [peak_signal_noise_ratio(t, p, data_range=2) for p, t in zip(pred, target, strict=True)]
    np.testing.assert_allclose(mse(pred, target), expected_mse, rtol=1e-12)
    np.testing.assert_allclose(psnr(pred, target, 2.0), expected_psnr, rtol=1e-12)


def test_ssim_of_each_sample_equals_scikit_image(pair):
    pred, target = pair
    options = {"data_range": 2, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = [structural_similarity(t[0], p[0], **options) for p, t in zip(pred, target, strict=True)]
    np.testing.assert_allclose(ssim(pred, target, 2.0), expected, rtol=1e-10)


def test_ssim_over_a_region_equals_the_mean_of_scikit_images_map_there(pair):
    pred, target = pair
    region = np.zeros_like(target)
    region[..., 7:9, 6:11, 8:12] = 1
    options = {"data_range": 2, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    expected = [
        structural_similarity(t[0], p[0], **options)[1][r[0] > 0].mean()
        for p, t, r in zip(pred, target, region, strict=True)
    ]
    np.testing.assert_allclose(ssim(pred, target, 2.0, region_mask=region), expected, rtol=1e-10)


def test_ms_ssim_equals_monai():
    rng = np.random.default_rng(1)
    target = torch.from_numpy(rng.uniform(0, 1, (2, 1, 44, 46, 48)))
    pred = (target + 0.1 * torch.from_numpy(rng.normal(size=target.shape))).clip(0, 1)
    weights = tuple(w / sum(MS_SSIM_WEIGHTS[:2]) for w in MS_SSIM_WEIGHTS[:2])
    expected = compute_ms_ssim(
        pred, target, spatial_dims=3, data_range=1.0, kernel_type="gaussian", kernel_size=11, kernel_sigma=1.5,
        weights=weights,
    )  # fmt: skip
    torch.testing.assert_close(ms_ssim(pred, target, 1.0, scales=2), expected.flatten().double(), rtol=1e-4, atol=1e-5)


def test_ms_ssim_of_one_scale_is_ssim(pair):
    pred, target = pair
    np.testing.assert_allclose(ms_ssim(pred, target, 2.0, scales=1), ssim(pred, target, 2.0), rtol=1e-12)


def test_tensors_and_arrays_give_the_same_values(pair):
    pred, target = pair
    for metric in (lambda a, b: psnr(a, b, 2.0), lambda a, b: ssim(a, b, 2.0), mse):
        value = metric(torch.from_numpy(pred), torch.from_numpy(target))
        assert isinstance(value, torch.Tensor) and value.shape == (2,)
        np.testing.assert_array_equal(value.numpy(), metric(pred, target))


def test_invalid_voxels_have_no_influence(pair):
    pred, target = pair
    valid = np.ones_like(target)
    valid[..., :3, :, :] = 0
    spoilt = np.where(valid > 0, pred, np.nan)
    for metric in (mse, lambda a, b, v: psnr(a, b, 2.0, v), lambda a, b, v: ssim(a, b, 2.0, v)):
        np.testing.assert_array_equal(metric(spoilt, target, valid), metric(pred, target, valid))
    np.testing.assert_allclose(
        ssim(spoilt, target, 2.0, valid), ssim(pred[:, :, 3:], target[:, :, 3:], 2.0), rtol=1e-10
    )


def test_equal_volumes_give_the_best_value(pair):
    _, target = pair
    assert mse(target, target).max() == 0
    assert all(math.isinf(value) for value in psnr(target, target, 2.0))
    np.testing.assert_allclose(ssim(target, target, 2.0), 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, t, v: (p[..., 1:], t, v), "expected the same"),
        (lambda p, t, v: (p[0], t[0], v), r"\(B, C, D, H, W\)"),
        (lambda p, t, v: (p * np.nan, t, v), r"pred: samples \[0, 1\] have NaN"),
        (lambda p, t, v: (p, t, v * 0), r"samples \[0, 1\] have no voxel"),
        (lambda p, t, v: (p, t, v[..., 1:]), "valid_mask has shape"),
    ],
)
def test_bad_input_is_named(pair, change, message):
    pred, target = pair
    for metric in (mse, lambda a, b, v: psnr(a, b, 2.0, v), lambda a, b, v: ssim(a, b, 2.0, v)):
        with pytest.raises(ValueError, match=message):
            metric(*change(pred, target, np.ones_like(target)))


def test_too_many_scales_names_how_many_fit(pair):
    with pytest.raises(ValueError, match="expected 1 to 1"):
        ms_ssim(*pair, 2.0, scales=3)
