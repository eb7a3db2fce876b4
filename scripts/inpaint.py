"""Inpaint one lesion into a CT scan.

python scripts/inpaint.py --ct scan_folder --center 70,250,150 --diameter-mm 12 --pipeline runs/ldm/pipeline --out out
python scripts/inpaint.py --ct scan.nii.gz --mask mask.nii.gz --attributes.malignancy malignant ...
Writes ct.nii.gz, lesion_mask.nii.gz, overview.png and record.json.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from diffusion.sampling import SamplingConfig, load_pipeline, weights_of
from foundation.config import ExistingFile, ExistingPath, config_dict, launch, read_arguments


@dataclass(frozen=True, kw_only=True)
class InpaintConfig(SamplingConfig):
    """Inpainting into a scan; give either `mask`, or `center` and `diameter_mm`.

    Attributes:
        ct: DICOM folder, .nii, .nii.gz, .mha or .mhd.
        mask: File with 1 where the lesion is painted, on the scan's grid.
        center: Voxel index z,y,x of the lesion's centre.
        diameter_mm: Diameter of the sphere that has the lesion's volume.
        lobulation: Of the drawn mask, 1 (none) to 5.
        spiculation: Of the drawn mask, 1 (none) to 5.
        series_uid: Which series, where a DICOM folder holds several.
    """

    ct: ExistingPath
    mask: ExistingFile | None = None
    center: tuple[float, float, float] | None = None
    diameter_mm: float | None = None
    lobulation: float = 2.0
    spiculation: float = 1.5
    series_uid: str | None = None

    def __post_init__(self) -> None:
        given = [value is not None for value in (self.mask, self.center, self.diameter_mm)]
        if given not in ([True, False, False], [False, True, True]):
            raise ValueError("give either --mask, or --center z,y,x together with --diameter-mm")


ARGUMENTS = read_arguments(InpaintConfig, __name__)

import numpy as np
import SimpleITK as sitk
import torch

from evaluation.reports.slices import save_overview
from foundation.atomic import write_atomically
from imaging.files.ct import read_ct, read_mask, write_ct
from imaging.lesions.shapes import lesion_mask_image


def main(config: InpaintConfig) -> None:
    """Read, inpaint, write."""
    pipeline, folder = load_pipeline(config)
    ct = read_ct(config.ct, config.series_uid)
    mask = read_mask(config.mask, ct) if config.mask else drawn_mask(config, ct)
    made = pipeline(ct, mask, generator=torch.Generator().manual_seed(config.seed), **config.call_options())

    before, after, lesion, painted = (sitk.GetArrayFromImage(image) for image in (ct, made.ct, mask, made.paint_mask))
    write_ct(made.ct, config.out / "ct.nii.gz")
    write_ct(made.paint_mask, config.out / "paint_mask.nii.gz")
    write_ct(mask, config.out / "lesion_mask.nii.gz")
    window = (pipeline.vae.config["window_width"], pipeline.vae.config["window_level"])
    save_overview(config.out / "overview.png", before, after, lesion, ct.GetSpacing()[::-1], window)
    record = record_of(config, weights_of(config, pipeline, folder), before, after, lesion, painted)
    text = json.dumps(record, indent=2) + "\n"
    write_atomically(config.out / "record.json", lambda temporary: temporary.write_text(text))
    print(
        f"lesion of {record['lesion_voxels']} voxels in a painted region of {record['painted_voxels']}, "
        f"{record['changed_outside_paint']} voxels changed outside it"
    )
    print(f"results: {config.out} (ct.nii.gz, lesion_mask.nii.gz, paint_mask.nii.gz, overview.png, record.json)")


def drawn_mask(config: InpaintConfig, ct: sitk.Image) -> sitk.Image:
    """A nodule-like mask around the asked-for voxel; says so when the place is not in lung."""
    assert config.center is not None and config.diameter_mm is not None  # checked by the config
    shape = {"lobulation": config.lobulation, "spiculation": config.spiculation}
    mask = lesion_mask_image(ct, config.center, config.diameter_mm, seed=config.seed, **shape)
    inside = sitk.GetArrayViewFromImage(ct)[sitk.GetArrayViewFromImage(mask) > 0]
    if np.median(inside) > -500:
        print(f"note: the median at the mask is {np.median(inside):.0f} HU; lung is about -850, is the centre in lung?")
    return mask


def record_of(
    config: InpaintConfig,
    weights: Mapping[str, Any],
    before: np.ndarray,
    after: np.ndarray,
    lesion: np.ndarray,
    painted: np.ndarray,
) -> dict[str, Any]:
    """Everything that is needed to make the same lesion again, and what was changed."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": {name: value for name, value in config_dict(config).items() if name != "vae"},
        **weights,
        "versions": {name: version(name) for name in ("lesion-diffusion", "torch", "diffusers")},
        "lesion_voxels": int((lesion > 0).sum()),
        "painted_voxels": int((painted > 0).sum()),
        "changed_outside_paint": int(((before != after) & (painted == 0)).sum()),
        "mean_hu_before": float(before[lesion > 0].mean()),
        "mean_hu_after": float(after[lesion > 0].mean()),
    }


if __name__ == "__main__":
    launch(main, ARGUMENTS)
