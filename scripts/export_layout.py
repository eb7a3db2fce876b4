"""Write a finished set of synthetic scans in the folders that another tool trains from, with real scans beside it.

uv run scripts/export_layout.py --synthetic data/synthetic --layout nnunet --out data/nnunet \\
    --scans scan_folder --existing-masks mask_folder
The set is what synthesize.py made with whole scans. Real scans are those below --scans whose nodules --existing-masks
names. All cases of a patient, real and synthetic, are in one fold. cases.csv lists them.

Images of the set are linked, so that they take no room (hard links). Real scans are written anew.
"""

from dataclasses import dataclass

from foundation.config import ExistingFile, ExistingFolder, ExistingPath, OutputFolder, Seed, launch, read_arguments
from imaging.option_types import LayoutName, Validate


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to write, and how to divide it.

    Attributes:
        synthetic: Folder that synthesize.py made.
        layout: "nnunet" (version 2), "nndetection", "monai" (lists as of the Medical Segmentation Decathlon) or
            "coco3d" (boxes).
        out: Folder to write.
        scans: Folder of scans that the set was made from; those that `existing_masks` names become cases, too.
        existing_masks: As for synthesize.py.
        patients: CSV table with the columns scan and patient, for scans of one patient that nothing else tells: a scan
            is named by its path below the folder of scans. Without it, DICOM scans go by their PatientID, and every
            other scan is a patient.
        folds: Number of folds; null takes 5, or the number of patients where it is less.
        validate: "all" cases of a fold, or its "real" ones alone.
        number, name: Of the dataset, for nnunet and nndetection.
        seed: Of the folds.
        workers: Processes that read and write.
    """

    synthetic: ExistingFolder
    layout: LayoutName
    out: OutputFolder
    scans: ExistingFolder | None = None
    existing_masks: ExistingPath | None = None
    patients: ExistingFile | None = None
    folds: int | None = None
    validate: Validate = "all"
    number: int = 501
    name: str = "SyntheticLesions"
    seed: Seed = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if (self.scans is None) != (self.existing_masks is None):
            raise ValueError("--scans and --existing-masks belong together: pass both for real cases, or neither")
        if self.workers < 1:
            raise ValueError(f"workers {self.workers}, expected at least 1")


ARGUMENTS = read_arguments(ExportConfig, __name__)

from imaging.dataset.existing_nodules import scans_with_existing
from imaging.dataset.patients import read_patients
from imaging.layouts.cases import real_cases, synthetic_cases
from imaging.layouts.export import export_layout
from imaging.layouts.layout import Title


def main(config: ExportConfig) -> None:
    """Find the cases and write them."""
    title = Title(config.number, config.name)
    patients = read_patients(config.patients) if config.patients else {}
    cases = synthetic_cases(config.synthetic, patients)
    if config.scans and config.existing_masks:
        _, existing = scans_with_existing(config.scans, config.existing_masks)
        if not existing:
            raise ValueError(
                f"--existing-masks {config.existing_masks}: names the nodules of no scan in {config.scans}"
            )
        lacking = [case.scan for case in cases if not (config.scans / case.scan).exists()]
        if lacking:  # or a real scan could be trained on beside the validation with its copies
            raise ValueError(
                f"--scans {config.scans}: holds no {lacking[0]}, which the set was made from; pass the folder that "
                "synthesize.py had, so that each scan and its copies are known to be of one patient"
            )
        cases += real_cases(config.scans, existing, patients)
    unknown = set(patients) - {case.scan for case in cases}
    if unknown:
        raise ValueError(f"{config.patients}: scan {min(unknown)} is none of these; check its path below --scans")
    export_layout(
        config.layout,
        cases,
        config.out,
        title,
        config.folds,
        config.validate,
        config.seed,
        config.workers,
    )


if __name__ == "__main__":
    launch(main, ARGUMENTS)
