import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from autoencoder import AutoencoderKL3D
from autoencoder.identity import IdentityAutoencoder
from evaluation.autoencoders.reconstruction import crop_regions, crop_scales, reconstruct, reconstruction_figures
from imaging.window import to_norm

SHAPE, SPACING_MM = (34, 36, 44), (1.0, 1.25, 0.9)
WINDOW = (1500.0, -400.0)


@pytest.fixture(scope="module")
def crop():
    """Lung with a nodule, chest wall at one end of x, and two slices of padding."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    lesion = (z - 17) ** 2 + (y - 9) ** 2 + (x - 8) ** 2 <= 16
    wall = x >= 34
    ct_hu = np.where(wall, 40.0, np.where(lesion, 20.0, -850.0)) + 30 * rng.standard_normal(SHAPE)
    valid = z >= 2
    ct_hu[~valid] = -1024
    return to_norm(ct_hu.astype(np.float32), *WINDOW), valid, lesion, wall


def figures(crop, made):
    original, valid, lesion, _ = crop
    return reconstruction_figures(original, made, valid, lesion, WINDOW, SPACING_MM)


def test_a_crop_is_its_own_perfect_reconstruction(crop):
    found = figures(crop, crop[0])
    assert found.pop("psnr_db") == found.pop("psnr_lesion_db") == np.inf
    assert {name: value for name, value in found.items() if name.startswith("hu_")} == {
        f"hu_{figure}_{region}": 0 for region in ("crop", "lung", "lesion") for figure in ("bias", "mae")
    }
    for place in ("crop", "noise"):
        for band in ("coarse", "middle", "fine", "finest"):
            assert found[f"{place}_power_ratio_{band}"] == 1
    assert found["ssim"] == pytest.approx(1) and found["ms_ssim"] == pytest.approx(1)


def test_psnr_and_ssim_are_those_of_scikit_image(crop):
    original = crop[0]
    made = gaussian_filter(original, 0.7)
    whole = reconstruction_figures(original, made, np.ones(SHAPE), crop[2], WINDOW, SPACING_MM)
    assert whole["psnr_db"] == pytest.approx(peak_signal_noise_ratio(original, made, data_range=2), abs=1e-3)
    expected = structural_similarity(
        original, made, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=2
    )
    assert whole["ssim"] == pytest.approx(expected, abs=1e-5)


def test_an_error_in_hu_is_found_in_its_region_with_its_sign(crop):
    original, valid, lesion, wall = crop
    step = 2 / WINDOW[0]  # one HU
    made = original + step * np.where(lesion, -12.0, np.where(wall, 8.0, 5.0))
    found = figures(crop, made)
    assert found["hu_bias_lesion"] == pytest.approx(-12, abs=1e-3)
    assert found["hu_mae_lesion"] == pytest.approx(12, abs=1e-3)
    assert found["hu_bias_lung"] == pytest.approx(5, abs=0.2)  # the lung's border to the wall may be off by a voxel
    assert found["hu_mae_crop"] == pytest.approx(np.abs(750 * (made - original))[valid].mean(), abs=1e-3)
    assert found["psnr_lesion_db"] == pytest.approx(20 * np.log10(1500 / 12), abs=1e-3)


def test_regions_are_valid_and_lung_is_air_without_the_lesion(crop):
    original, valid, lesion, wall = crop
    regions = crop_regions(original, valid, lesion, WINDOW, SPACING_MM)
    lung = regions.masks["lung"]
    assert not (lung & (lesion | ~valid)).any()
    assert (lung == (valid & ~wall & ~lesion)).mean() > 0.95
    noise = regions.boxes["noise"]
    assert valid[noise].all() and not lesion[noise].any()
    assert regions.boxes["crop"] == np.s_[2:34, 0:36, 0:44]


def test_padding_has_no_influence(crop):
    original, valid = crop[:2]
    made = gaussian_filter(original, 0.8)
    other = np.where(valid, made, np.random.default_rng(1).uniform(-1, 1, SHAPE))
    assert figures(crop, made) == figures(crop, other)
    assert figures(crop, np.where(valid, made, np.nan)) == figures(crop, made)


def test_smoothing_shows_in_the_power_of_the_noise_but_an_offset_does_not(crop):
    smooth, shifted = figures(crop, gaussian_filter(crop[0], 0.8)), figures(crop, crop[0] + 0.01)
    assert smooth["noise_power_ratio_finest"] < 0.1 < smooth["noise_power_ratio_middle"] < 0.9
    assert shifted["noise_power_ratio_finest"] == pytest.approx(1)


def test_a_reconstruction_beyond_the_window_is_clamped(crop):
    beyond = np.where(crop[0] > 0.5, 7.0, crop[0])
    assert figures(crop, beyond) == figures(crop, beyond.clip(-1, 1))


def test_what_a_crop_is_too_small_for_is_left_out(crop):
    small = np.s_[13:23, 4:14, 3:13]
    original, valid, lesion = (array[small] for array in crop[:3])
    found = reconstruction_figures(original, original + 0.01, valid, lesion, WINDOW, SPACING_MM)
    assert "psnr_db" in found and "hu_mae_lesion" in found
    assert not [name for name in found if "ssim" in name or "power" in name]
    assert [crop_scales((edge, 99, 99)) for edge in (16, 22, 43, 44, 96)] == [1, 2, 2, 3, 3]


@torch.no_grad()
def test_a_reconstruction_is_the_decoded_mode_clamped_and_the_identitys_is_the_crop(crop):
    original = crop[0][:32, :32, :40]
    np.testing.assert_array_equal(reconstruct(IdentityAutoencoder(), original), original)
    torch.manual_seed(0)
    autoencoder = AutoencoderKL3D(channels=(4, 8), blocks_per_level=1, latent_channels=2).eval()
    autoencoder.decoder.conv_out.weight.data *= 20  # beyond the window
    posterior = autoencoder.encode(torch.from_numpy(original)[None, None]).latent_dist
    decoded = autoencoder.decode(posterior.mean).sample[0, 0].numpy()
    made = reconstruct(autoencoder, original)
    assert made.dtype == np.float32 and np.abs(decoded).max() > 1
    np.testing.assert_array_equal(made, decoded.clip(-1, 1))
    autoencoder.decoder.conv_out.bias.data[0] = np.nan
    with pytest.raises(ValueError, match="the reconstruction has NaN"):
        reconstruct(autoencoder, original)


def test_bad_arrays_are_refused(crop):
    original, valid, lesion, _ = crop
    for made, mask, message in (
        (original[1:], valid, "reconstruction_norm has shape"),
        (original, valid[1:], "valid_mask has shape"),
        (original, np.zeros(SHAPE), "valid_mask is 0 everywhere"),
        (np.full(SHAPE, np.nan), valid, "NaN or infinite"),
    ):
        with pytest.raises(ValueError, match=message):
            reconstruction_figures(original, made, mask, lesion, WINDOW, SPACING_MM)
