"""Prepare LIDC-IDRI as downloaded for training: DICOM series and XML files in any folder layout.

uv run scripts/prepare_lidc.py --scans LIDC-IDRI --out data/lidc --workers 8

Writes OUT/dataset (which training reads), README.md, left_out.csv, scans.csv, splits.csv and qc.html. Run the same
command again after an interruption, or after you added scans: it does only what is missing.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from foundation.config import ExistingFile, ExistingFolder, OutputFolder, Seed, launch, read_arguments, take_old_name
from imaging.dataset.label_policy import LabelPolicy, exclusion_reason, label_table, malignancy_label
from imaging.option_types import Axes, Intensity, MaskPolicy
from imaging.window import WINDOW_LEVEL, WINDOW_WIDTH


@dataclass(frozen=True)
class PrepareLidcConfig:
    """What to read, and what to make of it.

    Attributes:
        out: Folder for the dataset, its reports and the results of single scans.
        scans: Folder with the DICOM series of LIDC-IDRI, at any depth.
        annotation_root: Folder with the XML files, if they are not among the DICOM files.
        scan_table: CSV of scans that are not DICOM (columns ct, annotation, patient_id). The table pairs them with XML.
        lab_table: CSV of nodules in .mat or .npy files, see `imaging.dataset.lab_files.read_lab_table`.
        lab_intensity: What the voxels of those files are: HU, or a window mapped to [-1, 1], [0, 1] or [0, 255].
        lab_axes: Order of the axes of .npy files; .mat is row, column, slice.
        merge: Prepared datasets to add, of the same crop size; their patients keep their split.
        crop_size: Edge of the cubic crops around each nodule's centroid, voxels.
        spacing_mm: Isotropic spacing of the crops; null keeps each scan's own grid.
        max_slice_mm: Scans with thicker slices are left out.
        max_hu: Higher values are lowered to it before resampling (LSDM: 800).
        mask: Mask of a nodule: voxels marked by a consensus of its readers, by any of them ("union"), or by the first
            ("single"). "half_maximum" redraws the border of the consensus where the CT is halfway between lung and
            lesion.
        consensus_level: Share of the nodule's readers who must have marked a voxel, above 0 to 1.
        min_readers: Nodules marked by fewer readers are left out.
        labels: Nodules to keep, by mean malignancy: exclude_between keeps up to 2 and from 4, malignant_from_3 up to 2
            and from 3, keep_all all.
        semantic_maps: Add the semantic map of each crop.
        scan_maps: Also write the semantic map of each whole scan as NIfTI, to OUT/scan_maps.
        test_share: Share of the patients in the test split.
        validation_share: Share of the other patients in the validation split, which trainings watch.
        seed: Seed of the split and of the nodules shown in qc.html.
        splits: CSV (patient_id, split) to follow; null follows OUT/splits.csv, if there is one.
        window_width, window_level: Window of already windowed lab files and of the pictures, HU.
        source: Name stored with each LIDC row.
        workers: Processes.
        push_to_hub: Repository "OWNER/NAME" on the Hugging Face Hub to upload the dataset and its card to.
        private: Make that repository private, and refuse a public one.
        dicom_root: Old name of `scans`; version 0.2 will not know it.
    """

    out: OutputFolder
    scans: ExistingFolder | None = None
    annotation_root: ExistingFolder | None = None
    scan_table: ExistingFile | None = None
    lab_table: ExistingFile | None = None
    lab_intensity: Intensity = "hu"
    lab_axes: Axes = "zyx"
    merge: tuple[ExistingFolder, ...] = ()
    crop_size: int = 64
    spacing_mm: float | None = 1.0
    max_slice_mm: float = 2.5
    max_hu: int = 3071
    mask: MaskPolicy = "half_maximum"
    consensus_level: float = 0.5
    min_readers: int = 1
    labels: LabelPolicy = "exclude_between"
    semantic_maps: bool = True
    scan_maps: bool = False
    test_share: float = 0.1
    validation_share: float = 0.15
    seed: Seed = 0
    splits: ExistingFile | None = None
    window_width: float = WINDOW_WIDTH
    window_level: float = WINDOW_LEVEL
    source: str = "LIDC-IDRI"
    workers: int = 1
    push_to_hub: str | None = None
    private: bool = True
    dicom_root: ExistingFolder | None = None

    def __post_init__(self) -> None:
        take_old_name(self, "dicom_root", "scans")
        if not (self.scans or self.scan_table or self.lab_table or self.merge):
            raise ValueError("nothing to read; pass --scans, --scan-table, --lab-table or --merge")
        if self.spacing_mm is not None and not self.spacing_mm > 0:
            raise ValueError(f"spacing_mm {self.spacing_mm}, expected a positive number, or null for the scan's own")
        for name, low in (("max_slice_mm", 0.1), ("min_readers", 1), ("workers", 1), ("max_hu", -1023)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} {getattr(self, name)}, expected at least {low}")
        if not 0 < self.consensus_level <= 1:
            raise ValueError(f"consensus_level {self.consensus_level}, expected above 0 and at most 1")
        for name in ("test_share", "validation_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}, expected a share from 0 to 1")


ARGUMENTS = read_arguments(PrepareLidcConfig, __name__)

from datasets import Array3D
from tqdm import tqdm

from foundation.atomic import write_atomically
from foundation.upload import prepare_repository
from imaging.dataset.card import DatasetSummary, dataset_card
from imaging.dataset.lab_files import read_lab_nodule
from imaging.dataset.nodules import crop_size_of, load_nodules, nodule_features, save_nodule_dataset
from imaging.dataset.publishing import push_dataset
from imaging.dataset.qc_report import qc_page
from imaging.dataset.sources import Candidate, available_splits, lab_candidates, lidc_candidates, merged_candidates
from imaging.dataset.splits import merge_splits, read_splits, set_validation_aside, split_patients, write_splits
from imaging.lesions.composition import solid_part
from imaging.lidc.run import prepare_scans
from imaging.lidc.scan_nodules import ScanResult, ScanSettings
from imaging.lidc.scans import LeftOut, Scan, find_scans, read_scan_table
from imaging.semantic_map import lung_mask, semantic_map

EXTRA = {
    "label": "string",
    "scan_id": "string",
    "manufacturer": "string",
    "slice_mm": "float32",
    "readers": "int32",
    "reader_ratings": "string",
    "whole_in_crop": "bool",
    "outline_fallback": "string",
}


def main(config: PrepareLidcConfig) -> None:
    check_config(config)
    if config.push_to_hub is not None:
        prepare_repository(config.push_to_hub, "dataset", config.private)
    work = config.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    scans, left_out = find_all_scans(config)
    results = prepare_scans(scans, scan_settings(config), work, config.workers)
    left_out += [entry for result in results.values() for entry in result.left_out]

    candidates = list(lidc_candidates(results, config.source))
    if config.lab_table is not None:
        candidates += lab_candidates(config.lab_table, lab_reader(config), left_out)
    for folder in config.merge:
        candidates += merged_candidates(folder)
    table = label_table([c.malignancy for c in candidates], [c.columns.get("readers") for c in candidates])
    print(table)
    kept = keep_labelled(candidates, config.labels, left_out)
    write_left_out(config.out / "left_out.csv", left_out)
    write_scan_facts(config.out / "scans.csv", results.values())
    if not kept:
        raise ValueError(f"no nodule is left; {config.out / 'left_out.csv'} says why each scan and nodule was left out")
    splits = choose_splits(kept, config)
    write_splits(config.out / "splits.csv", splits)

    summary = DatasetSummary()
    rows = tqdm(finished_rows(kept, splits, config, summary), total=len(kept), desc="dataset")
    dataset = save_nodule_dataset(rows, config.out / "dataset", config.crop_size, extra_columns(config), overwrite=True)
    card = dataset_card(config.source, summary, shown_settings(config), table, Counter(e.kind for e in left_out))
    write_text(config.out / "README.md", card)
    window = (config.window_width, config.window_level)
    write_text(
        config.out / "qc.html",
        qc_page(config.source, list(dataset.values()), summary, left_out, window, seed=config.seed),
    )
    print({split: len(nodules) for split, nodules in dataset.items()}, "nodules;", len(left_out), "entries left out")
    print(f"wrote {config.out}; look at {config.out / 'qc.html'}")
    if config.push_to_hub is not None:
        print(f"pushed: {push_dataset(config.out / 'dataset', config.push_to_hub, config.private)}")


def check_config(config: PrepareLidcConfig) -> None:
    """Refuse what cannot work before any file is read."""
    nodule_features(config.crop_size)
    if config.out.exists() and any(config.out.iterdir()) and not (config.out / "work").is_dir():
        raise ValueError(f"{config.out}: is not empty and was not written by this command; choose another folder")
    if config.splits is not None and not config.splits.is_file():
        raise ValueError(f"{config.splits}: no such file, expected a CSV with patient_id and split")
    for folder in config.merge:
        for split in available_splits(folder):
            size = crop_size_of(load_nodules(folder, split))
            if size != config.crop_size:
                raise ValueError(f"{folder}: crops of {size} voxels, expected {config.crop_size} as in this dataset")


def find_all_scans(config: PrepareLidcConfig) -> tuple[list[Scan], list[LeftOut]]:
    """Scans of the DICOM folder and of the table, and what was left out."""
    scans: list[Scan] = []
    left_out: list[LeftOut] = []
    if config.scans is not None:
        with ProcessPoolExecutor(config.workers) as pool:
            scans, left_out = find_scans(config.scans, config.annotation_root, partial(map_with_bar, pool))
    if config.scan_table is not None:
        scans = scans + read_scan_table(config.scan_table)
    return scans, left_out


def map_with_bar(
    pool: ProcessPoolExecutor, function: Callable[[Any], Any], items: Sequence[Any], title: str
) -> Iterable[Any]:
    """`pool.map` with a progress bar."""
    return tqdm(pool.map(function, items), total=len(items), desc=title)


def scan_settings(config: PrepareLidcConfig) -> ScanSettings:
    """The options that decide a scan's rows."""
    return ScanSettings(
        crop_size=config.crop_size,
        spacing_mm=config.spacing_mm,
        max_slice_mm=config.max_slice_mm,
        max_hu=config.max_hu,
        mask_policy=config.mask,
        consensus_level=config.consensus_level,
        min_readers=config.min_readers,
        with_semantic_map=config.semantic_maps,
        scan_maps=config.out / "scan_maps" if config.scan_maps else None,
    )


def lab_reader(config: PrepareLidcConfig) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The reader of a nodule of the lab's files, with this config's options."""
    return partial(
        read_lab_nodule,
        crop_size=config.crop_size,
        spacing_mm=config.spacing_mm,
        intensity=config.lab_intensity,
        axes=config.lab_axes,
        width=config.window_width,
        level=config.window_level,
    )


def shown_settings(config: PrepareLidcConfig) -> dict[str, Any]:
    """The options that say how the dataset was made, without those that name places of this machine."""
    hidden = ("out", "scans", "dicom_root", "annotation_root", "scan_table", "lab_table", "merge", "splits")
    hidden += ("workers", "push_to_hub", "private")
    return {field.name: getattr(config, field.name) for field in fields(config) if field.name not in hidden}


def keep_labelled(candidates: Sequence[Candidate], policy: LabelPolicy, left_out: list[LeftOut]) -> list[Candidate]:
    """Candidates that the policy keeps; the others go to `left_out`."""
    kept = []
    for candidate in candidates:
        columns = candidate.columns
        reason = exclusion_reason(candidate.malignancy, policy)
        if reason:
            scan_id = columns.get("scan_id") or ""
            left_out.append(LeftOut("nodule", columns["patient_id"], scan_id, columns["nodule_id"], reason))
        else:
            kept.append(candidate)
    return kept


def choose_splits(kept: Sequence[Candidate], config: PrepareLidcConfig) -> dict[str, str]:
    """Patient -> split; patients of an earlier run, of merged datasets and of the lab's table keep theirs."""
    stored = read_splits(config.splits or config.out / "splits.csv")
    given = [(c.columns["patient_id"], c.columns["split"]) for c in kept if c.columns.get("split")]
    fixed = merge_splits(stored.items(), given)
    strata: dict[str, str] = {}
    for candidate in kept:
        patient, label = (
            candidate.columns["patient_id"],
            malignancy_label(candidate.columns["malignancy"], config.labels),
        )
        strata[patient] = max(strata.get(patient, ""), label)  # malignant > benign > none
    splits = split_patients(strata, config.test_share, config.seed, fixed)
    free = splits if "validation" not in fixed.values() else {p: s for p, s in splits.items() if p not in fixed}
    return stored | splits | set_validation_aside(free, config.validation_share, config.seed)


def finished_rows(
    kept: Sequence[Candidate], splits: dict[str, str], config: PrepareLidcConfig, summary: DatasetSummary
) -> Iterator[dict[str, Any]]:
    """The rows to save, with split, label and semantic map; each is counted in the summary."""
    known = nodule_features(1, extra_columns(config))
    for candidate in kept:
        row = candidate.columns | candidate.load()
        row["split"] = splits[row["patient_id"]]
        row["label"] = malignancy_label(candidate.malignancy, config.labels)
        if row.get("solid_mask") is None:
            row["solid_mask"] = solid_part(row["ct_hu"], row["lesion_mask"], row.get("texture"), row["spacing_mm"])
        if config.semantic_maps and row.get("semantic_map") is None:
            lung = lung_mask(row["ct_hu"], row["spacing_mm"], whole_scan=False, valid_mask=row["valid_mask"])
            row["semantic_map"] = semantic_map(row["ct_hu"], lung, row["lesion_mask"], row["solid_mask"])
        row = {name: value for name, value in row.items() if name in known}
        summary.add(row)
        yield row


def extra_columns(config: PrepareLidcConfig) -> dict[str, Any]:
    """Columns beside those of every prepared dataset."""
    masks = ("solid_mask", "semantic_map") if config.semantic_maps else ("solid_mask",)
    return EXTRA | {name: Array3D((config.crop_size,) * 3, "uint8") for name in masks}


def write_left_out(path: Path, left_out: Iterable[LeftOut]) -> None:
    """Write left_out.csv."""
    write_csv(path, [field.name for field in fields(LeftOut)], map(astuple, left_out))


def write_scan_facts(path: Path, results: Iterable[ScanResult]) -> None:
    """Write scans.csv."""
    facts = [result.facts for result in results if result.facts]
    names = list(dict.fromkeys(name for fact in facts for name in fact))
    write_csv(path, names, ([fact.get(name, "") for name in names] for fact in facts))


def write_csv(path: Path, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table that appears complete or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a file that appears complete or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, newline=""))


if __name__ == "__main__":
    launch(main, ARGUMENTS)
