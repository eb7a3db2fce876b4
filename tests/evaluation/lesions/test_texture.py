import numpy as np
import pytest
from skimage.filters import gabor

from evaluation.lesions.texture import BANDWIDTH, FREQUENCIES, GABOR_NAMES, ORIENTATIONS, gabor_features
from imaging.window import to_norm


def _by_scikit_image(ct_norm, mask):
    """The definition, filter by filter, on the whole volume's slices instead of the box's spectrum."""
    foreground = np.where(mask, ct_norm - ct_norm[mask].mean(), 0)
    planes = []
    for axis in range(3):
        volume, inside = np.moveaxis(foreground, axis, 0), np.moveaxis(mask, axis, 0)
        features = []
        for frequency in FREQUENCIES:
            for theta in ORIENTATIONS:
                options = {"theta": theta, "bandwidth": BANDWIDTH, "mode": "constant"}
                responses = [np.hypot(*gabor(one, frequency, **options)) for one in volume]
                features.append(np.stack(responses)[inside].mean())
        planes.append(features)
    return np.mean(planes, axis=0)


def test_features_equal_scikit_images_filters_slice_by_slice():
    rng = np.random.default_rng(0)
    ct_norm = rng.uniform(-1, 1, (5, 7, 6))
    mask = np.zeros(ct_norm.shape, bool)
    mask[1:4, 2:6, 1:5] = True
    mask[1, 2] = False
    features = gabor_features(ct_norm, mask)
    assert features.shape == (64,) == (len(GABOR_NAMES),)
    np.testing.assert_allclose(features, _by_scikit_image(ct_norm, mask), rtol=1e-9)


def test_only_the_foreground_counts(make_lesion):
    lesion = make_lesion(1)
    ct_norm = to_norm(lesion.ct_hu)
    other = np.where(lesion.lesion_mask, ct_norm, np.nan)
    np.testing.assert_array_equal(
        gabor_features(ct_norm, lesion.lesion_mask), gabor_features(other, lesion.lesion_mask)
    )


def test_a_constant_lesion_has_no_texture_and_an_offset_changes_none(make_lesion):
    lesion = make_lesion(2)
    ct_norm = to_norm(lesion.ct_hu).astype(np.float64)
    assert not gabor_features(np.full(ct_norm.shape, 0.3), lesion.lesion_mask).any()
    features = gabor_features(ct_norm, lesion.lesion_mask)
    np.testing.assert_allclose(gabor_features(ct_norm + 0.2, lesion.lesion_mask), features, rtol=1e-9)
    np.testing.assert_allclose(gabor_features(3 * ct_norm, lesion.lesion_mask), 3 * features, rtol=1e-9)


def test_a_wave_answers_most_to_the_filter_of_its_frequency():
    z = np.arange(33)
    wave = np.broadcast_to(np.cos(2 * np.pi * FREQUENCIES[5] * z), (9, 33, 33))  # runs along x
    mask = np.zeros(wave.shape, bool)
    mask[4, 4:29, 4:29] = True
    by_frequency = gabor_features(wave, mask).reshape(8, 8)
    assert by_frequency[:, 0].argmax() == 5
    assert by_frequency[5, 0] > 3 * by_frequency[5, 4]


def test_unusable_lesions_are_refused(make_lesion):
    lesion = make_lesion(3)
    ct_norm = to_norm(lesion.ct_hu)
    one = np.zeros_like(lesion.lesion_mask)
    one[5, 5, 5] = True
    with pytest.raises(ValueError, match="1 voxels, expected at least 8"):
        gabor_features(ct_norm, one)
    with pytest.raises(ValueError, match="NaN"):
        gabor_features(np.full_like(ct_norm, np.nan), lesion.lesion_mask)
    with pytest.raises(ValueError, match=r"expected equal \(D, H, W\)"):
        gabor_features(ct_norm[1:], lesion.lesion_mask)
