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

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from diffusion.option_types import ShapeKind
from diffusion.sampling.loading import SamplingConfig, load_pipeline, weights_of
from diffusion.sampling.request import is_finite
from foundation.config import ExistingFile, ExistingPath, config_dict, launch, read_arguments
from imaging.lesions.site_names import check_site, needs_lobes

if TYPE_CHECKING:
    from diffusion import LesionInpaintPipeline


@dataclass(frozen=True, kw_only=True)
class InpaintConfig(SamplingConfig):
    """Inpainting into a scan; give `mask`, or `lesions`, or `diameter_mm` and `center` (or `site`).

    Attributes:
        ct: DICOM folder, .nii, .nii.gz, .mha or .mhd.
        mask: File with k where the k-th lesion is painted, on the scan's grid.
        lesions: CSV file, a row for each lesion: diameter_mm, x, y, z (voxel index of the centre), seed and attributes;
            see `imaging.lesions.table`.
        site: Where a lesion is put that has no place, by seed: auto (as far from the wall as real nodules), free,
            pleural, vessel, fissure, or lobe=RUL (RML, RLL, LUL, LLL); see `imaging.lesions.sites`. "given" puts none.
        lobes: File with the lobes, for the sites fissure and lobe=: a segmentation of TotalSegmentator or lungmask.
        center: Voxel index z,y,x of the lesion's centre.
        center_lps: Instead, the centre in mm x,y,z, to the patient's left, back and head, as in DICOM.
        center_ras: Instead, the centre in mm x,y,z, to the patient's right, front and head, as in NIfTI.
        diameter_mm: Diameter of the sphere that has the lesion's volume.
        shape: Of a lesion without a mask: "real", the outline of a nodule of LIDC-IDRI that was rated as is requested,
            "procedural", or "learned", made for its place by the pipeline of `paired`.
        lobulation: Of the drawn mask, 1 (none) to 5; null takes the attribute of this name.
        spiculation: Likewise.
        sphericity: Likewise, 1 (linear) to 5 (round); of real shapes alone.
        series_uid: Which series, where a DICOM folder holds several.
        output_format: "nifti"; "dicom", a derived series and a segmentation, of a DICOM folder; "both"; or "auto", the
            kind of the input.
        least_dice: Of a solid lesion's own outline with its label. A lesion with less, or one that leaves much of its
            label empty, is painted again with another seed, twice at most, and then left out. null is 0.8 for a
            pipeline with detailed maps, whose masks end where the lesion does, and else 0, which takes any lesion.
        keep_patient: Copy patient, study, dates and private attributes into the DICOM output.
    """

    ct: ExistingPath
    mask: ExistingFile | None = None
    lesions: ExistingFile | None = None
    site: str = "given"
    lobes: ExistingFile | None = None
    center: tuple[float, float, float] | None = None
    center_lps: tuple[float, float, float] | None = None
    center_ras: tuple[float, float, float] | None = None
    diameter_mm: float | None = None
    shape: ShapeKind = "real"
    lobulation: float | None = None
    spiculation: float | None = None
    sphericity: float | None = None
    series_uid: str | None = None
    output_format: Literal["auto", "nifti", "dicom", "both"] = "auto"
    least_dice: float | None = None
    keep_patient: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least_dice is not None and not 0 <= self.least_dice <= 1:
            raise ValueError(f"least_dice {self.least_dice}, expected a share from 0 to 1")
        if self.diameter_mm is not None and not (is_finite(self.diameter_mm) and self.diameter_mm > 0):
            raise ValueError(f"--diameter-mm {self.diameter_mm:g}, expected a number of mm above 0; pass 12, say")
        for name, what in (("center", "a voxel index z,y,x"), ("center_lps", "mm x,y,z"), ("center_ras", "mm x,y,z")):
            value = getattr(self, name)
            if value is not None and not all(map(is_finite, value)):
                option = name.replace("_", "-")
                raise ValueError(f"--{option} {','.join(map(str, value))}, expected {what}; check it")
        sources = [value is not None for value in (self.mask, self.lesions, self.diameter_mm)]
        places = sum(value is not None for value in (self.center, self.center_lps, self.center_ras))
        chosen = self.site != "given"
        located = places == 1 or (chosen and sources[2])
        if sum(sources) != 1 or (self.diameter_mm is not None) != located or places > 1:
            raise ValueError(
                "give either --mask, or --center z,y,x together with --diameter-mm (or --center-lps x,y,z, or "
                "--center-ras x,y,z), or --diameter-mm with --site auto, or --lesions"
            )
        if chosen and (self.mask is not None or places):
            raise ValueError(f"--site {self.site} chooses the place; leave out --mask and --center")
        if chosen and needs_lobes(check_site(self.site)) and self.lobes is None:
            raise ValueError(f"--site {self.site} needs --lobes, a segmentation by TotalSegmentator or lungmask")
        if self.output_format in ("dicom", "both") and self.ct.is_file():
            raise ValueError(
                f"--output-format {self.output_format} with --ct {self.ct}: a derived series needs the DICOM folder "
                "that it derives from; pass that, or choose nifti"
            )


ARGUMENTS = read_arguments(InpaintConfig, __name__)

import numpy as np
import SimpleITK as sitk
import torch

from diffusion.attributes import check_attribute, check_compatible, requestable
from diffusion.sampling.drawn_masks import cut_to_lung, for_networks
from diffusion.sampling.scan_crop import check_lesion_fits
from diffusion.shapes import CHOSEN_BY, drawn_mask_image, met_by_shape, missing_shapes, shapes_for
from evaluation.lesions.acceptance import agreement_in_scan, least_dice_of
from evaluation.lesions.label_agreement import label_fault
from evaluation.lesions.noise_ratio import lesion_noise
from evaluation.reports.slices import save_overview
from foundation.atomic import write_atomically
from imaging.files.ct import find_dicom_slices, read_ct, read_dicom_slices, read_labels, write_ct
from imaging.files.dicom_seg import write_dicom_seg
from imaging.files.dicom_series import on_stored_steps, read_headers, write_dicom_series
from imaging.geometry import bounding_box, index_in_scan, index_of_point, point_of_index
from imaging.lesions.lobes import read_lobes
from imaging.lesions.sites import FreeLung, free_lung, free_lung_sites
from imaging.lesions.table import LesionRow, read_lesion_table

APART_MM = 10.0  # lung between two lesions whose places are chosen
RETRIES, SEED_STEP = 2, 1_000_003  # further seeds for a lesion that is refused; far from those of other lesions


class Planned(NamedTuple):
    """A lesion to paint; the row of a mask's label has no place.

    Attributes:
        box: Slices (x, y, z) around its mask in the scan.
        part: The mask in the box; whole masks of a hundred lesions would take more memory than their scan.
        attributes, seed, center_zyx, diameter_mm: As requested.
        shape: Record of a shape that was drawn.
    """

    box: tuple[slice, slice, slice]
    part: sitk.Image
    attributes: Mapping[str, float | str]
    seed: int
    center_zyx: Sequence[float] | None
    diameter_mm: float | None
    shape: Mapping[str, Any] | None = None

    def mask_on(self, ct: sitk.Image) -> sitk.Image:
        """The mask on the scan's grid, uint8."""
        mask = sitk.Image(ct.GetSize(), sitk.sitkUInt8)
        mask.CopyInformation(ct)
        mask[self.box] = self.part
        return mask


def main(config: InpaintConfig) -> None:
    """Read, inpaint, write."""
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_scan, config)  # beside the imports, which take seconds
        pipeline, folder = load_pipeline(config)
        ct, slices, lung = reading.result()
    plan = list(planned(config, pipeline, ct, lung))
    labelled(plan, ct)  # refused before anything is painted
    image, painted_image, refused, kept = ct, None, [], []
    for number, lesion in enumerate(plan, 1):
        made, lesion, reason = painted_lesion(config, pipeline, image, lesion)
        if made is None:
            print(f"lesion {number} of {len(plan)} is left out, {reason}")
            refused.append({"number": number, "reason": reason})
            continue
        kept.append(lesion)
        image = made.ct
        painted_image = made.paint_mask if painted_image is None else sitk.Or(painted_image, made.paint_mask)
    if not kept:
        raise ValueError(
            f"no lesion was accepted: {reason}; choose another seed, place or character, or a lower least_dice"
        )
    plan = kept
    mask = labelled(plan, ct)
    headers = read_headers(slices, ct) if slices else []
    result = on_stored_steps(image, headers) if slices else image  # so that every format holds the same HU

    weights = weights_of(config, pipeline, folder)
    before, after, lesion_labels, painted = map(sitk.GetArrayViewFromImage, (ct, result, mask, painted_image))
    record = record_of(config, weights, before, after, lesion_labels, painted, ct.GetSpacing()[::-1])
    record["refused"] = refused
    for lesion, entry in zip(plan, record["lesions"], strict=True):
        entry |= {"seed": lesion.seed, "center": lesion.center_zyx, "diameter_mm": lesion.diameter_mm}
        entry["attributes"] = {**config.attributes, **lesion.attributes}
        entry["shape"] = lesion.shape
    written = []
    if slices and config.output_format != "nifti":
        sha256 = weights["pipeline_sha256"]
        text = f"Synthetic lung nodule painted by latent diffusion, seed {config.seed}; not for diagnosis"
        derived = write_dicom_series(result, headers, config.out / "ct", text, config.keep_patient, sha256)
        masks = [lesion.mask_on(ct) for lesion in plan]
        write_dicom_seg(derived, masks, config.out / "lesions_seg.dcm", painted_image, sha256)
        written += ["ct/", "lesions_seg.dcm"]
    if not slices or config.output_format in ("nifti", "both"):
        for name, image in (("ct", result), ("paint_mask", painted_image), ("lesion_mask", mask)):
            write_ct(image, config.out / f"{name}.nii.gz")
            written.append(f"{name}.nii.gz")
    window = (pipeline.vae.config["window_width"], pipeline.vae.config["window_level"])
    for number in range(1, len(plan) + 1):
        path = config.out / ("overview.png" if number == 1 else f"overview_{number}.png")
        shown = (before, after, lesion_labels == number)
        save_overview(path, *shown, ct.GetSpacing()[::-1], window, direction=ct.GetDirection())
    text = json.dumps(record, indent=2) + "\n"
    write_atomically(config.out / "record.json", lambda temporary: temporary.write_text(text))
    print(
        f"{len(plan)} lesion(s) of {record['lesion_voxels']} voxels in a painted region of {record['painted_voxels']}, "
        f"{record['changed_outside_paint']} voxels changed outside it"
    )
    print(f"results: {config.out} ({', '.join(written)}, overview.png, record.json)")


def painted_lesion(
    config: InpaintConfig, pipeline: "LesionInpaintPipeline", image: sitk.Image, lesion: Planned
) -> tuple[Any, Planned, str]:
    """Paint a lesion until it is where its label says: the output, the lesion with the seed that gave it, and "".

    Without such a lesion, None, the lesion as it was, and why the last was refused.
    """
    options, least_dice = config.call_options(), least_dice_of(pipeline, config.least_dice)
    attributes = {**config.attributes, **lesion.attributes}
    options["attributes"] = (for_networks(pipeline, attributes, config.shape) if lesion.shape else attributes) or None
    mask, grid = lesion.mask_on(image), (pipeline.config["crop_size"], pipeline.config["spacing_mm"])
    for attempt in range(1 + RETRIES):
        tried = lesion._replace(seed=lesion.seed + attempt * SEED_STEP)
        made = pipeline(image, mask, generator=torch.Generator().manual_seed(tried.seed), **options)
        fault = label_fault(agreement_in_scan(made.ct, mask, *grid), least_dice) if least_dice else None
        if fault is None:
            return made, tried, ""
    return None, lesion, f"{fault[0]} after {1 + RETRIES} seeds ({fault[1]})"


def read_scan(config: InpaintConfig) -> tuple[sitk.Image, list[Path], FreeLung | None]:
    """The scan, the files of its slices where it is a DICOM series, and the lung where a shape is drawn into it.

    Where all places are given, a scan in which no lung is found is painted all the same.
    """
    slices = find_dicom_slices(config.ct, config.series_uid) if config.ct.is_dir() else []
    ct = read_dicom_slices(slices) if slices else read_ct(config.ct)
    if config.mask is not None:
        return ct, slices, None
    try:
        return ct, slices, free_lung(ct, lobes=read_lobes(config.lobes, ct) if config.lobes else None)
    except ValueError as error:
        if config.site != "given":
            raise ValueError(f"{config.ct}: {error}") from error
        print(f"note: {config.ct}: {error}; lesions are painted where they are placed")
        return ct, slices, None


def planned(
    config: InpaintConfig, pipeline: "LesionInpaintPipeline", ct: sitk.Image, lung: FreeLung | None
) -> Iterator[Planned]:
    """The lesions in order; each is one that the pipeline can paint, or a ValueError names its row or label."""
    if config.mask is not None:
        masks = read_labels(config.mask, ct)
        for label, mask in enumerate(masks):
            with named(f"{config.mask}, label {label + 1}" if len(masks) > 1 else ""):
                check_fit(config, pipeline, mask)
            box = bounding_box(mask)
            yield Planned(box, mask[box], {}, config.seed + label, None, None)
        return
    rows = read_lesion_table(config.lesions) if config.lesions else []
    if config.diameter_mm is not None:
        physical = config.center_ras if config.center_lps is None else config.center_lps
        row = LesionRow(config.diameter_mm, config.center, center_mm=physical)
        rows = [replace(row, frame="RAS") if config.center_ras is not None else row]
    note = missing_shapes(pipeline, config.shape)
    if note:
        print(f"note: {note}")
    for row in rows:  # what needs no voxel first
        with named(row.where):
            if not row.placed and config.site == "given":
                raise ValueError("no x, y, z; give them, or pass --site auto")
            check_compatible({**config.attributes, **row.attributes})
            check_requests(pipeline, row.attributes, met_by_shape(shapes_for(pipeline, config.shape)))
    for number, row in enumerate(rows):
        with named(row.where):
            if row.center_mm is not None:
                rows[number] = replace(row, center_zyx=index_in_scan(ct, row.center_mm, row.frame))
    free = lung
    for row in rows:
        if free is not None and row.center_zyx is not None:
            free = free.without(point_of_index(ct, row.center_zyx), row.diameter_mm / 2 + APART_MM)
    for number, row in enumerate(rows):
        seed = config.seed + number if row.seed is None else row.seed
        with named(row.where):
            center: Sequence[float] | None = row.center_zyx
            if center is None:
                assert free is not None
                (site,) = free_lung_sites(free, row.diameter_mm, 1, np.random.default_rng(seed), site=config.site)
                free = free.without(site, row.diameter_mm / 2 + APART_MM)
                center = index_of_point(ct, site)
            mask, shape = drawn_lesion(config, pipeline, row, ct, center, seed, lung)
            check_fit(config, pipeline, mask)
        box = bounding_box(mask)
        yield Planned(box, mask[box], row.attributes, seed, center, row.diameter_mm, shape)


def drawn_lesion(
    config: InpaintConfig,
    pipeline: "LesionInpaintPipeline",
    row: LesionRow,
    ct: sitk.Image,
    center: Sequence[float],
    seed: int,
    lung: FreeLung | None,
) -> tuple[sitk.Image, dict[str, Any]]:
    """A shape, cut where the lung ends: a nodule at the pleura does not grow through the ribs; and its record."""
    options = {name: getattr(config, name, None) for name in CHOSEN_BY}
    given = {**config.attributes, **{name: value for name, value in options.items() if value is not None}}
    given |= row.attributes
    requests = {name: check_attribute(name, given[name], CHOSEN_BY) for name in CHOSEN_BY if name in given}
    mask, record = drawn_mask_image(ct, center, row.diameter_mm, requests, seed, shapes_for(pipeline, config.shape))
    if lung is None:
        return mask, record
    mask, share = cut_to_lung(mask, lung, center)
    if share < 1:
        where = f"{row.where}: " if row.where else ""
        print(f"note: {where}{100 * (1 - share):.0f} % of the shape lies outside the lung and is cut off")
    return mask, record


@contextmanager
def named(where: str) -> Iterator[None]:
    """Say before a fault whose it is, where there are several."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from error


def check_fit(config: InpaintConfig, pipeline: "LesionInpaintPipeline", mask: sitk.Image) -> None:
    """Raise ValueError where a lesion does not fit the model's grid; no voxel of the CT is read."""
    model = pipeline.config
    margin_mm = model["paint_margin_mm"] if config.paint_margin_mm is None else config.paint_margin_mm
    box = bounding_box(mask)
    around = tuple(slice(max(along.start - 2, 0), along.stop + 2) for along in box)
    check_lesion_fits(mask[around], model["crop_size"], model["spacing_mm"], margin_mm)


def check_requests(
    pipeline: "LesionInpaintPipeline", attributes: Mapping[str, float | str], of_shape: Sequence[str]
) -> None:
    """Raise ValueError for an attribute that the pipeline cannot be requested, or a value that it cannot have.

    Args:
        pipeline, attributes: Of the lesion.
        of_shape: What its shape meets, beside U-Net and guide.
    """
    of_unet = tuple(dict.fromkeys([*requestable(pipeline.unet.config.get("attributes") or ()), *of_shape]))
    of_guide = list(pipeline.guide.attributes) if pipeline.guide is not None else []
    for name, value in attributes.items():
        if name in of_unet or name not in of_guide:
            check_attribute(name, value, list(dict.fromkeys([*of_unet, *of_guide])))
        else:  # it may have classes of its own
            pipeline.guide.plan({name: value}, torch.ones(1, 1, 8, 8, 8), pipeline.vae, 1.0, None)


def labelled(plan: Sequence[Planned], ct: sitk.Image) -> sitk.Image:
    """k where the k-th mask is; where two overlap, the later. ValueError where nothing is left of one."""
    labels = np.zeros(ct.GetSize()[::-1], np.uint8 if len(plan) < 256 else np.uint16)
    for number, lesion in enumerate(plan, 1):
        labels[lesion.box[::-1]][sitk.GetArrayViewFromImage(lesion.part) > 0] = number
    hidden = sorted(set(range(1, len(plan) + 1)) - set(np.unique(labels).tolist()))
    if hidden:
        raise ValueError(f"lesion {hidden[0]} of {len(plan)}: later ones cover all of it; move them apart")
    image = sitk.GetImageFromArray(labels)
    image.CopyInformation(ct)
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
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # all is written; Python would take the libraries apart object by object, for more than a second
