"""Inpaint one lesion into a CT scan.

python scripts/inpaint.py --ct scan_folder --center 70,250,150 --diameter-mm 12 --pipeline runs/ldm/pipeline --out out
python scripts/inpaint.py --ct scan.nii.gz --mask mask.nii.gz --attributes.malignancy malignant ...
Writes what it was given: ct.nii.gz, lesion_mask.nii.gz and paint_mask.nii.gz for a file; for a DICOM folder a derived
series (folder ct) and its DICOM segmentation (lesions_seg.dcm), without the patient unless --keep-patient true; or both
with --output-format both. Also overview.png and record.json, which names the input's path.
"""

import gc
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

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
        output_format: "nifti"; "dicom", a derived series and a segmentation, of a DICOM folder; "both"; or "auto", the
            kind of the input.
        keep_patient: Copy patient, study, dates and private attributes into the DICOM output.
    """

    ct: ExistingPath
    mask: ExistingFile | None = None
    center: tuple[float, float, float] | None = None
    diameter_mm: float | None = None
    lobulation: float = 2.0
    spiculation: float = 1.5
    series_uid: str | None = None
    output_format: Literal["auto", "nifti", "dicom", "both"] = "auto"
    keep_patient: bool = False

    def __post_init__(self) -> None:
        given = [value is not None for value in (self.mask, self.center, self.diameter_mm)]
        if given not in ([True, False, False], [False, True, True]):
            raise ValueError("give either --mask, or --center z,y,x together with --diameter-mm")
        if self.output_format in ("dicom", "both") and self.ct.is_file():
            raise ValueError(
                f"--output-format {self.output_format} with --ct {self.ct}: a derived series needs the DICOM folder "
                "that it derives from; pass that, or choose nifti"
            )


ARGUMENTS = read_arguments(InpaintConfig, __name__)

import numpy as np
import SimpleITK as sitk
import torch

from evaluation.lesions.noise import lesion_noise
from evaluation.reports.slices import save_overview
from foundation.atomic import write_atomically
from imaging.files.ct import find_dicom_slices, read_ct, read_dicom_slices, read_mask, write_ct
from imaging.files.dicom_seg import write_dicom_seg
from imaging.files.dicom_series import on_stored_steps, read_headers, write_dicom_series
from imaging.lesions.shapes import lesion_mask_image


def main(config: InpaintConfig) -> None:
    """Read, inpaint, write."""
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_scan, config)  # beside the imports, which take seconds
        pipeline, folder = load_pipeline(config)
        ct, slices = reading.result()
    mask = read_mask(config.mask, ct) if config.mask else drawn_mask(config, ct)
    made = pipeline(ct, mask, generator=torch.Generator().manual_seed(config.seed), **config.call_options())
    headers = read_headers(slices, ct) if slices else []
    result = on_stored_steps(made.ct, headers) if slices else made.ct  # so that every format holds the same HU

    weights = weights_of(config, pipeline, folder)
    before, after, lesion, painted = map(sitk.GetArrayViewFromImage, (ct, result, mask, made.paint_mask))
    record = record_of(config, weights, before, after, lesion, painted, ct.GetSpacing()[::-1])
    written = []
    if slices and config.output_format != "nifti":
        sha256 = weights["pipeline_sha256"]
        text = f"Synthetic lung nodule painted by latent diffusion, seed {config.seed}; not for diagnosis"
        derived = write_dicom_series(result, headers, config.out / "ct", text, config.keep_patient, sha256)
        write_dicom_seg(derived, [mask], config.out / "lesions_seg.dcm", made.paint_mask, sha256)
        written += ["ct/", "lesions_seg.dcm"]
    if not slices or config.output_format in ("nifti", "both"):
        for name, image in (("ct", result), ("paint_mask", made.paint_mask), ("lesion_mask", mask)):
            write_ct(image, config.out / f"{name}.nii.gz")
            written.append(f"{name}.nii.gz")
    window = (pipeline.vae.config["window_width"], pipeline.vae.config["window_level"])
    save_overview(config.out / "overview.png", before, after, lesion, ct.GetSpacing()[::-1], window)
    text = json.dumps(record, indent=2) + "\n"
    write_atomically(config.out / "record.json", lambda temporary: temporary.write_text(text))
    print(
        f"lesion of {record['lesion_voxels']} voxels in a painted region of {record['painted_voxels']}, "
        f"{record['changed_outside_paint']} voxels changed outside it"
    )
    print(f"results: {config.out} ({', '.join(written)}, overview.png, record.json)")


def read_scan(config: InpaintConfig) -> tuple[sitk.Image, list[Path]]:
    """The scan, and the files of its slices where it is a DICOM series."""
    if not config.ct.is_dir():
        return read_ct(config.ct), []
    slices = find_dicom_slices(config.ct, config.series_uid)
    return read_dicom_slices(slices), slices


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
    spacing_mm: Sequence[float],
) -> dict[str, Any]:
    """Everything that is needed to make the same lesion again, and what was changed."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": {name: value for name, value in config_dict(config).items() if name != "vae"},
        **weights,
        "versions": {name: version(name) for name in ("lesion-diffusion", "torch", "diffusers")},
        "lesion_voxels": int((lesion > 0).sum()),
        "painted_voxels": int((painted > 0).sum()),
        "changed_outside_paint": sum(
            int(((b != a) & (p == 0)).sum()) for b, a, p in zip(before, after, painted, strict=True)
        ),
        "mean_hu_before": float(before[lesion > 0].mean()),
        "mean_hu_after": float(after[lesion > 0].mean()),
        "noise": lesion_noise(after, lesion, spacing_mm, painted)._asdict(),
    }


if __name__ == "__main__":
    launch(main, ARGUMENTS)
    gc.freeze()  # or Python looks through the libraries' objects once more before it ends, for more than a second
