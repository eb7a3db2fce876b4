"""Pictures show what they are given: colours are read back from the PNG, panel by panel."""

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.image import imread

from evaluation.reports.slices import save_overview, save_slices


def panels(path, rows, columns):
    """Colour in the middle of each panel, (rows, columns, 3)."""
    picture = imread(path)[..., :3]
    height, width = picture.shape[:2]
    return np.array(
        [
            [picture[int((r + 0.5) * height / rows), int((c + 0.5) * width / columns)] for c in range(columns)]
            for r in range(rows)
        ]
    )


def test_slices_show_the_central_plane_of_each_volume_in_its_column(tmp_path):
    volume = np.full((5, 8, 8), 1.0)
    volume[2] = -1.0  # the plane that is drawn
    shown = [[volume, -volume, np.full((5, 8, 8), 0.4)], [0 * volume, -volume, np.full((5, 8, 8), -0.4)]]
    save_slices(tmp_path / "new/slices.png", shown, ["CT", "reconstruction", "difference"])
    colours = panels(tmp_path / "new/slices.png", 2, 3)
    np.testing.assert_allclose(colours[0, 0], 0, atol=0.02)
    np.testing.assert_allclose(colours[0, 1], 1, atol=0.02)
    np.testing.assert_allclose(colours[1, 0], 0.5, atol=0.02)
    red, blue = colours[0, 2], colours[1, 2]
    assert red[0] > red[2] + 0.2 and blue[2] > blue[0] + 0.2


def test_slices_refuse_a_row_that_does_not_fit_the_titles(tmp_path):
    with pytest.raises(ValueError, match=r"rows of \[1\] volumes for 2 titles"):
        save_slices(tmp_path / "slices.png", [[np.zeros((2, 2, 2))]], ["a", "b"])


def red_share(path):
    """Share of pixels in the colour of a large positive difference, in the third of the picture that shows it."""
    picture = imread(path)[..., :3]
    shown = picture[:, int(0.68 * picture.shape[1]) : int(0.93 * picture.shape[1])]
    return float(((shown[..., 0] > 0.3) & (shown[..., 1:].max(axis=-1) < 0.15)).mean())


def test_overview_shows_the_difference_where_the_lesion_is_and_outlines_the_mask(tmp_path):
    before = np.full((20, 24, 28), -900.0)
    mask = np.zeros(before.shape, np.uint8)
    mask[6:14, 8:16, 10:18] = 1
    after = before + 800.0 * mask
    for name, changed in (("same", before), ("lesion", after)):
        save_overview(tmp_path / f"{name}.png", before, changed, mask, (1.0, 1.0, 1.0))
    assert red_share(tmp_path / "lesion.png") - red_share(tmp_path / "same.png") > 0.02
    picture = imread(tmp_path / "same.png")[..., :3]
    orange = (np.abs(picture - np.array([1.0, 0.498, 0.055])) < 0.1).all(axis=-1)
    assert orange[:, : picture.shape[1] // 3].sum() > 30 and not orange[:, picture.shape[1] // 3 :].any()


def test_overview_shows_the_patients_planes_however_the_scan_is_stored(tmp_path):
    ct_hu = np.random.default_rng(0).uniform(-1000, 200, (16, 24, 32)).astype(np.float32)
    mask = np.zeros(ct_hu.shape, np.uint8)
    mask[6:10, 8:16, 10:18] = 1
    image, lesion = (sitk.GetImageFromArray(array) for array in (ct_hu, mask))
    for name, orientation in (("as_read", "LPS"), ("sagittal", "SAR"), ("coronal", "RIA")):
        stored, where = (sitk.DICOMOrient(each, orientation) for each in (image, lesion))
        arrays = [sitk.GetArrayFromImage(each) for each in (stored, stored, where)]
        spacing_mm, direction = stored.GetSpacing()[::-1], stored.GetDirection()
        save_overview(tmp_path / f"{name}.png", *arrays, spacing_mm, field_mm=12, direction=direction)
        np.testing.assert_array_equal(imread(tmp_path / f"{name}.png"), imread(tmp_path / "as_read.png"))
