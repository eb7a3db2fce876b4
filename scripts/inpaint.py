"""Inpaint lesions into a CT scan.

python scripts/inpaint.py --ct scan_folder --center 70,250,150 --diameter-mm 12 --pipeline runs/ldm/pipeline --out out
python scripts/inpaint.py --ct scan.nii.gz --mask mask.nii.gz --attributes.malignancy malignant ...
python scripts/inpaint.py --ct scan.nii.gz --lesions table.csv --site auto ...
Several lesions, rows of a table or labels 1, 2, ... of a mask, are painted one after the other: each sees those before.
Writes what it was given: ct.nii.gz, lesion_mask.nii.gz (k where the k-th lesion is) and paint_mask.nii.gz for a file;
for a DICOM folder a derived series (folder ct) and its DICOM segmentation (lesions_seg.dcm), a segment for each lesion,
without the patient unless --keep-patient true; or both with --output-format both. Also overview.png (overview_2.png of
the second lesion) and record.json, which names the input's path.
"""

import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from diffusion.sampling import SamplingConfig, load_pipeline, weights_of
from foundation.config import ExistingFile, ExistingPath, config_dict, launch, read_arguments


@dataclass(frozen=True, kw_only=True)
class InpaintConfig(SamplingConfig):
    """Inpainting into a scan; give `mask`, or `lesions`, or `diameter_mm` and `center` (or `site`).

    Attributes:
        ct: DICOM folder, .nii, .nii.gz, .mha or .mhd.
        mask: File with k where the k-th lesion is painted, on the scan's grid.
        lesions: CSV file, a row for each lesion: diameter_mm, x, y, z (voxel index of the centre), seed and attributes;
            see `imaging.lesions.table`.
        site: "auto" chooses a place in free lung, by seed, for each lesion that has none.
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
    lesions: ExistingFile | None = None
    site: Literal["given", "auto"] = "given"
    center: tuple[float, float, float] | None = None
    diameter_mm: float | None = None
    lobulation: float = 2.0
    spiculation: float = 1.5
    series_uid: str | None = None
    output_format: Literal["auto", "nifti", "dicom", "both"] = "auto"
    keep_patient: bool = False

    def __post_init__(self) -> None:
        sources = [value is not None for value in (self.mask, self.lesions, self.diameter_mm)]
        placed = self.center is not None
        if sum(sources) != 1 or (self.diameter_mm is not None) != (placed or (self.site == "auto" and sources[2])):
            raise ValueError(
                "give either --mask, or --center z,y,x together with --diameter-mm, or --diameter-mm with --site auto, "
                "or --lesions"
            )
        if self.site == "auto" and (self.mask is not None or placed):
            raise ValueError("--site auto chooses the place; leave out --mask and --center")
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
from imaging.files.ct import find_dicom_slices, read_ct, read_dicom_slices, read_labels, write_ct
from imaging.files.dicom_seg import write_dicom_seg
from imaging.files.dicom_series import on_stored_steps, read_headers, write_dicom_series
from imaging.geometry import index_of_point
from imaging.lesions.shapes import lesion_mask_image
from imaging.lesions.sites import free_lung, free_lung_sites
from imaging.lesions.table import LesionRow, read_lesion_table

APART_MM = 10.0  # lung between two lesions whose places are chosen


class Planned(NamedTuple):
    """A lesion to paint; the row of a mask's label has no place."""

    mask: sitk.Image
    attributes: Mapping[str, float | str]
    seed: int
    center_zyx: Sequence[float] | None
    diameter_mm: float | None


def main(config: InpaintConfig) -> None:
    """Read, inpaint, write."""
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_scan, config)  # beside the imports, which take seconds
        pipeline, folder = load_pipeline(config)
        ct, slices = reading.result()
    plan = list(planned(config, ct))
    image, painted_image, options = ct, None, dict(config.call_options())
    for lesion in plan:
        noise = torch.Generator().manual_seed(lesion.seed)
        options["attributes"] = {**config.attributes, **lesion.attributes} or None
        made = pipeline(image, lesion.mask, generator=noise, **options)
        image = made.ct
        painted_image = made.paint_mask if painted_image is None else sitk.Or(painted_image, made.paint_mask)
    masks = [lesion.mask for lesion in plan]
    mask = labelled(masks)
    headers = read_headers(slices, ct) if slices else []
    result = on_stored_steps(image, headers) if slices else image  # so that every format holds the same HU

    weights = weights_of(config, pipeline, folder)
    before, after, lesion_labels, painted = map(sitk.GetArrayViewFromImage, (ct, result, mask, painted_image))
    record = record_of(config, weights, before, after, lesion_labels, painted, ct.GetSpacing()[::-1])
    for lesion, entry in zip(plan, record["lesions"], strict=True):
        entry |= {"seed": lesion.seed, "center": lesion.center_zyx, "diameter_mm": lesion.diameter_mm}
        entry["attributes"] = {**config.attributes, **lesion.attributes}
    written = []
    if slices and config.output_format != "nifti":
        sha256 = weights["pipeline_sha256"]
        text = f"Synthetic lung nodule painted by latent diffusion, seed {config.seed}; not for diagnosis"
        derived = write_dicom_series(result, headers, config.out / "ct", text, config.keep_patient, sha256)
        write_dicom_seg(derived, masks, config.out / "lesions_seg.dcm", painted_image, sha256)
        written += ["ct/", "lesions_seg.dcm"]
    if not slices or config.output_format in ("nifti", "both"):
        for name, image in (("ct", result), ("paint_mask", painted_image), ("lesion_mask", mask)):
            write_ct(image, config.out / f"{name}.nii.gz")
            written.append(f"{name}.nii.gz")
    window = (pipeline.vae.config["window_width"], pipeline.vae.config["window_level"])
    for number in range(1, len(plan) + 1):
        path = config.out / ("overview.png" if number == 1 else f"overview_{number}.png")
        save_overview(path, before, after, lesion_labels == number, ct.GetSpacing()[::-1], window)
    text = json.dumps(record, indent=2) + "\n"
    write_atomically(config.out / "record.json", lambda temporary: temporary.write_text(text))
    print(
        f"{len(plan)} lesion(s) of {record['lesion_voxels']} voxels in a painted region of {record['painted_voxels']}, "
        f"{record['changed_outside_paint']} voxels changed outside it"
    )
    print(f"results: {config.out} ({', '.join(written)}, overview.png, record.json)")


def read_scan(config: InpaintConfig) -> tuple[sitk.Image, list[Path]]:
    """The scan, and the files of its slices where it is a DICOM series."""
    if not config.ct.is_dir():
        return read_ct(config.ct), []
    slices = find_dicom_slices(config.ct, config.series_uid)
    return read_dicom_slices(slices), slices


def planned(config: InpaintConfig, ct: sitk.Image) -> Iterator[Planned]:
    """The lesions in order; all are placed before the first is painted."""
    if config.mask is not None:
        for label, mask in enumerate(read_labels(config.mask, ct)):
            yield Planned(mask, {}, config.seed + label, None, None)
        return
    rows = [LesionRow(config.diameter_mm, config.center)] if config.diameter_mm else []
    rows += read_lesion_table(config.lesions) if config.lesions else []
    homeless = [number for number, row in enumerate(rows, 1) if row.center_zyx is None]
    if homeless and config.site != "auto":
        raise ValueError(f"{config.lesions}: lesion {homeless[0]} has no x, y, z; give them, or pass --site auto")
    lung = free_lung(ct) if homeless else None
    if lung is not None:
        for row in rows:
            if row.center_zyx is not None:
                point = ct.TransformContinuousIndexToPhysicalPoint(row.center_zyx[::-1])
                lung = lung.without(point, row.diameter_mm / 2 + APART_MM)
    for number, row in enumerate(rows):
        seed = config.seed + number if row.seed is None else row.seed
        center: Sequence[float] | None = row.center_zyx
        if center is None:
            assert lung is not None
            (site,) = free_lung_sites(lung, row.diameter_mm, 1, np.random.default_rng(seed))
            lung = lung.without(site, row.diameter_mm / 2 + APART_MM)
            center = index_of_point(ct, site)
        shape = {name: float(row.attributes.get(name, getattr(config, name))) for name in ("lobulation", "spiculation")}
        mask = lesion_mask_image(ct, center, row.diameter_mm, seed=seed, **shape)
        inside = np.median(sitk.GetArrayViewFromImage(ct)[sitk.GetArrayViewFromImage(mask) > 0])
        if inside > -500:
            print(f"note: the median at the mask is {inside:.0f} HU; lung is about -850, is the centre in lung?")
        yield Planned(mask, row.attributes, seed, center, row.diameter_mm)


def labelled(masks: Sequence[sitk.Image]) -> sitk.Image:
    """k where the k-th mask is; where two overlap, the later."""
    labels = np.zeros(masks[0].GetSize()[::-1], np.uint8 if len(masks) < 256 else np.uint16)
    for number, mask in enumerate(masks, 1):
        labels[sitk.GetArrayViewFromImage(mask) > 0] = number
    image = sitk.GetImageFromArray(labels)
    image.CopyInformation(masks[0])
    return image


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
        "lesions": [
            {
                "label": number,
                "voxels": int((lesion == number).sum()),
                "mean_hu_before": float(before[lesion == number].mean()),
                "mean_hu_after": float(after[lesion == number].mean()),
                "noise": lesion_noise(after, lesion == number, spacing_mm, painted)._asdict(),
            }
            for number in range(1, int(lesion.max()) + 1)
        ],
    }


if __name__ == "__main__":
    launch(main, ARGUMENTS)
    gc.freeze()  # or Python looks through the libraries' objects once more before it ends, for more than a second
