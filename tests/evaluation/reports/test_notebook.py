"""What notebooks show: a viewer where ipyniivue is installed, else a picture."""

import sys

import numpy as np
import pytest
import SimpleITK as sitk

from evaluation.reports.notebook import STATIC, slice_viewer

pytest.importorskip("IPython", reason="the extra `notebooks` brings it")
LESION = (2, 5, 12)  # z, y, x


@pytest.fixture
def scan() -> sitk.Image:
    """Axes towards left, back and head, as SimpleITK has them where nothing is turned."""
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(-800, 30, (8, 10, 16)).astype(np.int16))
    image.SetSpacing((1.0, 1.5, 2.0))
    return image


@pytest.fixture
def mask(scan) -> sitk.Image:
    lesion = np.zeros(scan.GetSize()[::-1], np.uint8)
    lesion[LESION] = 1
    image = sitk.GetImageFromArray(lesion)
    image.CopyInformation(scan)
    return image


def test_the_viewer_opens_at_the_lesion_in_the_window_that_is_requested_for(scan, mask, monkeypatch):
    ipyniivue = pytest.importorskip("ipyniivue")
    monkeypatch.delenv(STATIC, raising=False)
    viewer = slice_viewer(scan, scan, mask, window=(400.0, 40.0))
    assert isinstance(viewer, ipyniivue.NiiVue)
    ct, lesion = viewer.volumes
    assert (ct.cal_min, ct.cal_max) == (-160, 240) and lesion.colormap == "red"
    # shares of the way to the right, the front and the head
    assert viewer.scene.crosshair_pos == pytest.approx([1 - 12.5 / 16, 1 - 5.5 / 10, 2.5 / 8])


def test_without_ipyniivue_or_where_requested_for_a_picture_is_shown(scan, mask, monkeypatch):
    monkeypatch.delenv(STATIC, raising=False)
    with monkeypatch.context() as patch:
        patch.setattr("evaluation.reports.notebook.find_spec", lambda name: None)
        patch.setitem(sys.modules, "ipyniivue", None)  # an import would fail
        assert slice_viewer(scan, scan, mask).data.startswith(b"\x89PNG")
    monkeypatch.setenv(STATIC, "1")
    assert slice_viewer(scan, scan, mask).data.startswith(b"\x89PNG")
