"""A lesion in a notebook: as a still picture, or in a viewer whose slices follow the mouse."""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.reports.slices import save_overview

if TYPE_CHECKING:
    import SimpleITK as sitk

STATIC = "LESION_DIFFUSION_STATIC"  # environment variable; if set, pictures alone, as a rendered page needs them


def lesion_picture(
    before: "sitk.Image", after: "sitk.Image", mask: "sitk.Image", window: tuple[float, float] = (1500.0, -400.0)
) -> Any:
    """Axial, coronal and sagittal plane through the lesion: before, after and their difference.

    Args:
        before, after: Scan without and with the lesion, HU, on one grid.
        mask: The lesion on that grid, not empty.
        window: Width and level of the grey scale, HU.
    Returns: `IPython.display.Image`, a PNG.
    """
    import SimpleITK as sitk
    from IPython.display import Image

    ct_hu, made_hu, lesion_mask = (sitk.GetArrayViewFromImage(image) for image in (before, after, mask))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lesion.png"
        spacing_mm, direction = before.GetSpacing()[::-1], before.GetDirection()
        save_overview(path, ct_hu, made_hu, lesion_mask, spacing_mm, window, direction=direction)
        return Image(data=path.read_bytes())


def slice_viewer(
    before: "sitk.Image", after: "sitk.Image", mask: "sitk.Image", window: tuple[float, float] = (1500.0, -400.0)
) -> Any:
    """The scan with its lesion outlined, in planes that are scrolled and turned with the mouse.

    Args:
        before, after, mask, window: As :func:`lesion_picture`.
    Returns: `ipyniivue.NiiVue`, opened at the lesion; or the picture, where ipyniivue is not installed (the extra
        `notebooks` brings it) or the environment variable `LESION_DIFFUSION_STATIC` is set.
    """
    if os.environ.get(STATIC) or find_spec("ipyniivue") is None:
        return lesion_picture(before, after, mask, window)
    import SimpleITK as sitk
    from ipyniivue import NiiVue

    width, level = window
    viewer = NiiVue(height=400)
    viewer.overlay_outline_width = 0.25
    viewer.load_volumes(
        [
            {"data": _nifti(after), "name": "ct.nii.gz", "cal_min": level - width / 2, "cal_max": level + width / 2},
            {"data": _nifti(mask), "name": "lesion.nii.gz", "colormap": "red", "opacity": 0.5},
        ]
    )
    turned = sitk.DICOMOrient(mask, "RAS")  # the viewer's axes: shares of the way to the right, front and head
    middle = np.argwhere(sitk.GetArrayViewFromImage(turned) > 0).mean(axis=0)[::-1]
    viewer.scene.crosshair_pos = [float(share) for share in (middle + 0.5) / turned.GetSize()]
    return viewer


def _nifti(image: "sitk.Image") -> bytes:
    """The bytes of a .nii.gz file."""
    from imaging.files.ct import write_ct

    with tempfile.TemporaryDirectory() as folder:
        write_ct(image, path := Path(folder) / "image.nii.gz")
        return path.read_bytes()
