"""Measure what synthetic lesions are worth: train small networks with and without them, test on real patients.

uv run scripts/evaluate_downstream.py --data data/nodules --synthetic data/synthetic --out outputs/downstream
The synthetic lesions are sets of scripts/inpaint_nodules.py in training masks. Three tasks: segmentation, malignancy,
detection. Every training is on disk as soon as it is done: the same command continues. It may run in several processes
at once, which share the trainings. The report is made anew each time.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from foundation.config import ExistingFolder, OutputFolder, Seed, config_dict, launch, read_arguments
from imaging.dataset.label_policy import LabelPolicy

TaskName = Literal["segmentation", "classification", "detection"]
ArmName = Literal["real", "classical", "copy_paste", "synthetic", "synthetic_classical", "synthetic_only"]


@dataclass(frozen=True, kw_only=True)
class DownstreamConfig:
    """What to train, on what, and how long.

    Attributes:
        data: Prepared dataset of real lesions.
        synthetic: Prepared datasets of synthetic lesions in masks of its training split; all are used.
        out: Folder of the outcomes and the report.
        split: Split of the real dataset that tests: "validation", or "test", which counts as an opening.
        tasks: Which of the tasks.
        arms: What the networks are trained on; see `evaluation.downstream.arms`.
        fractions: Shares of the real training patients.
        seeds: Networks per cell.
        steps: Of each training, alike for all arms.
        batch_size: Cubes of 32 mm.
        learning_rate: Peak of the one-cycle schedule.
        mixed_precision: Type that autocast computes the losses in; "no" is float32.
        label_policy: Which mean malignancy is benign and malignant; see `imaging.dataset.label_policy`.
        resamples: Bootstrap resamples of the intervals.
        stop_after: End after so many new trainings, with a report of what is there; null does all.
        seed: Of the bootstrap; networks count their own from 0.
        threads: CPU threads; null takes the default of `foundation.threads`.
    """

    data: ExistingFolder
    synthetic: tuple[ExistingFolder, ...]
    out: OutputFolder
    split: Literal["validation", "test"] = "validation"
    tasks: tuple[TaskName, ...] = ("segmentation", "classification", "detection")
    arms: tuple[ArmName, ...] = (
        "real",
        "classical",
        "copy_paste",
        "synthetic",
        "synthetic_classical",
        "synthetic_only",
    )
    fractions: tuple[float, ...] = (0.1, 0.3, 1.0)
    seeds: int = 5
    steps: int = 400
    batch_size: int = 8
    learning_rate: float = 1e-2
    mixed_precision: Literal["no", "bf16"] = "no"
    label_policy: LabelPolicy = "exclude_between"
    resamples: int = 500
    stop_after: int | None = None
    seed: Seed = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        if not self.synthetic or not self.tasks or not self.arms:
            raise ValueError("synthetic, tasks, arms: expected at least one of each")
        if not self.fractions or not all(0 < share <= 1 for share in self.fractions):
            raise ValueError(f"fractions {list(self.fractions)}: expected shares above 0, up to 1")
        if min(self.seeds, self.steps, self.batch_size, self.resamples) < 1 or self.learning_rate <= 0:
            raise ValueError("seeds, steps, batch_size, resamples, learning_rate: expected numbers above 0")


ARGUMENTS = read_arguments(DownstreamConfig, __name__)

import numpy as np
from filelock import Timeout
from tqdm import tqdm

from evaluation.downstream.comparison import arm_figures
from evaluation.downstream.crops import Crop, load_crops
from evaluation.downstream.experiment import Budget, cells_of, keep, kept, run_cell
from evaluation.downstream.tasks import EDGE, TASKS, networks
from evaluation.lesions.openings import open_test_split
from evaluation.reports.downstream_report import save_downstream_report
from foundation.claimed_folder import claim_folder, folder_lock
from foundation.threads import use_threads

FREE = (  # what a training does not depend on, or is named by
    "out",
    "resamples",
    "stop_after",
    "seed",
    "threads",
    "tasks",
    "arms",
    "fractions",
    "seeds",
)


def main(config: DownstreamConfig) -> None:
    """Train what is missing, and report."""
    networks()
    use_threads(config.threads)
    folder = config.out / "cells"
    claim_folder(folder, {key: value for key, value in config_dict(config).items() if key not in FREE})
    openings = open_test_split(config.data, config.split, "evaluate_downstream", config_dict(config))
    real = load_crops(config.data, "train", config.label_policy)
    tested = load_crops(config.data, config.split, config.label_policy)
    synthetic = [crop for path in config.synthetic for crop in load_crops(path, "train", config.label_policy)]
    check_apart(tested, [*real, *synthetic])
    check_alike([*tested, *real, *synthetic])

    cells = cells_of(config.tasks, config.arms, config.fractions, config.seeds)
    left = [cell for cell in cells if not (folder / cell.file).is_file()][: config.stop_after]
    budget = Budget(config.steps, config.batch_size, config.learning_rate, config.mixed_precision)
    for cell in tqdm(left, desc=config.out.name):
        with suppress(Timeout), folder_lock(folder, cell.file, timeout_s=0):  # another process may be at it
            if not (folder / cell.file).is_file():
                keep(folder, cell, *run_cell(cell, real, synthetic, tested, budget))

    outcomes = kept(folder, cells)
    patients = {task: [crop.patient_id for crop in tested if TASKS[task].usable(crop)] for task in config.tasks}
    figures = arm_figures(outcomes, patients, config.resamples, np.random.default_rng(config.seed))
    missing = [f"{cell.file}: not trained yet" for cell in cells if cell not in outcomes]
    opening = (
        f"{len(real)} real and {len(synthetic)} synthetic training lesions, {len(tested)} real lesions of "
        f"{len({crop.patient_id for crop in tested})} other patients ({config.split}). {openings or ''}"
    ).strip()
    save_downstream_report(config.out, figures, opening, missing, config_dict(config))
    print(f"report: {config.out / 'report.html'}, {len(outcomes)} of {len(cells)} trainings")


def check_apart(tested: list[Crop], trained: list[Crop]) -> None:
    """Raise ValueError if a patient is in both."""
    both = {crop.patient_id for crop in tested} & {crop.patient_id for crop in trained}
    if both:
        raise ValueError(f"patient {min(both)} is in the training and in the tested lesions; expected other patients")


def check_alike(crops: list[Crop]) -> None:
    """Raise ValueError unless all crops have one spacing and hold the cubes that networks see."""
    spacings = {tuple(round(mm, 3) for mm in crop.spacing_mm) for crop in crops}
    if len(spacings) > 1:
        raise ValueError(f"spacings {sorted(spacings)} mm, expected one; prepare all sets with the same --spacing-mm")
    smallest = min(min(crop.ct_hu.shape) for crop in crops)
    if smallest < EDGE:
        raise ValueError(
            f"crops of {smallest} voxels, expected at least {EDGE}; prepare them with a larger --crop-size"
        )


if __name__ == "__main__":
    launch(main, ARGUMENTS)
