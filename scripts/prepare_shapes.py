"""Make the shapes of a pipeline from outlines of real nodules.

uv run scripts/prepare_shapes.py --data lidc_shapes --nodules data/nodules --out runs/shapes
uv run scripts/ship_pipeline.py --pipeline runs/classifier/pipeline --shapes runs/shapes --out models/my-lesions
A folder of outlines has `shapes.npz` and `shapes.csv` (`imaging.dataset.shape_files`); no CT is needed. The validation
and the test patients of the dataset that the pipeline was trained on stay out. Of patients that are not in the dataset,
the same share is set aside by the same rule. The shapes of all of these judge what is drawn
(`benchmarks/quality/shapes.py`).
"""

from dataclasses import dataclass

from foundation.config import ExistingFolder, OutputFolder, Seed, launch, read_arguments


@dataclass(frozen=True, kw_only=True)
class PrepareShapesConfig:
    """What to read and what to leave out.

    Attributes:
        data: Folder with shapes.npz and shapes.csv.
        nodules: Prepared dataset of the pipeline, whose validation and test patients are left out.
        out: Folder to write; an existing one is replaced.
        validation_share: Share of the other patients that is set aside.
        seed: Seed of that choice.
        source: What the model's card says of the outlines.
    """

    data: ExistingFolder
    nodules: ExistingFolder
    out: OutputFolder
    validation_share: float = 0.15
    seed: Seed = 0
    source: str = "LIDC-IDRI, 50 % consensus of the readers"


ARGUMENTS = read_arguments(PrepareShapesConfig, __name__)

from collections import Counter

from diffusion.shapes import LesionShapes
from foundation.atomic import write_atomically
from imaging.dataset.nodules import load_nodules
from imaging.dataset.rows import SPLITS
from imaging.dataset.shape_files import read_nodule_shapes, shapes_by_split


def main(config: PrepareShapesConfig) -> None:
    """Read, leave out, keep."""
    known = {
        patient: split
        for split in SPLITS
        if (config.nodules / split).is_dir()
        for patient in load_nodules(config.nodules, split)["patient_id"]
    }
    shapes = read_nodule_shapes(config.data)
    by_split = shapes_by_split(shapes, known, config.validation_share, config.seed)
    patients = Counter({split: len({shape.patient_id for shape in some}) for split, some in by_split.items()})
    record = {
        "source": config.source,
        "patients": patients["train"],
        "left_out": {split: patients[split] for split in SPLITS if split != "train"},
    }
    component = LesionShapes.of_nodules(by_split["train"], record)
    write_atomically(config.out, lambda folder: component.save_pretrained(folder))
    print(
        f"shapes: {len(by_split['train'])} of {patients['train']} patients in {config.out}; left out: "
        + ", ".join(f"{patients[split]} {split} patients" for split in record["left_out"])
    )


if __name__ == "__main__":
    launch(main, ARGUMENTS)
