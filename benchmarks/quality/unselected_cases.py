"""Lesions as they come: the first masks of a split by index, three planes, real, blanked and each seed side by side.

    uv run benchmarks/quality/unselected_cases.py --data data/joined --split test --lesions runs/table/ours \
        --out cases.jpg

Nobody chose them. The set comes from scripts/inpaint_nodules.py, or benchmarks/quality/lesion_table.py, with
--samples 3.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from evaluation.lesions.lesion_sets import Lesion, load_lesions
from evaluation.lesions.openings import open_test_split
from foundation.atomic import write_atomically
from foundation.config import ExistingFolder, config_dict, launch, parse_config
from imaging.lesions.mask import grown_mask
from imaging.window import to_norm

PLANES = ("axial", "coronal", "sagittal")
GAP, LABEL = 2, 14  # pixels


@dataclass(frozen=True)
class CasesConfig:
    """What to draw.

    Attributes:
        data: Prepared dataset.
        lesions: Set of lesions made in its masks.
        out: Picture to write, .jpg or .png.
        split: Of `data`.
        first: Index of the first mask.
        count: Masks.
        field_mm: Edge of what is shown around the lesion's centre.
        margin_mm: Painted around the lesion, blanked in the second column.
        zoom: Pixels for a voxel.
    """

    data: ExistingFolder
    lesions: ExistingFolder
    out: Path
    split: str = "test"
    first: int = 0
    count: int = 12
    field_mm: float = 40.0
    margin_mm: float = 3.0
    zoom: int = 2


def main(config: CasesConfig) -> None:
    """Load, cut, tile, write."""
    openings = open_test_split(config.data, config.split, "unselected_cases", config_dict(config))
    real = load_lesions(config.data, config.split)[0][config.first : config.first + config.count]
    made: dict[str, list[Lesion]] = {lesion.mask_name: [] for lesion in real}
    for lesion in load_lesions(config.lesions, config.split)[0]:
        if lesion.mask_name in made:
            made[lesion.mask_name].append(lesion)
    missing = [name for name, found in made.items() if not found]
    if missing:
        raise ValueError(
            f"{config.lesions}: no lesion in the mask {missing[0]}; make the set with all masks of the split"
        )
    seeds = max(len(found) for found in made.values())
    titles = ["real", "given", *(f"seed {number}" for number in range(seeds))]
    rows = [row_of(config, lesion, [blanked(config, lesion), *made[lesion.mask_name]]) for lesion in real]
    sheet = Image.fromarray(np.concatenate(rows))
    picture = Image.new("L", (sheet.width, sheet.height + LABEL), 255)
    picture.paste(sheet, (0, LABEL))
    draw = ImageDraw.Draw(picture)
    width = sheet.width // (len(titles) * len(PLANES))
    for number, title in enumerate(titles):
        draw.text((number * len(PLANES) * width + 4, 1), f"{title}: {', '.join(PLANES)}", fill=0)
    kind = "PNG" if config.out.suffix == ".png" else "JPEG"
    write_atomically(config.out, lambda path: picture.save(path, kind, quality=88))
    print(f"wrote {config.out}; {openings or 'not the test split'}")


def blanked(config: CasesConfig, lesion: Lesion) -> Lesion:
    """The lesion's crop as the network is given it."""
    painted = grown_mask(lesion.lesion_mask.astype(np.uint8), config.margin_mm, lesion.spacing_mm) > 0
    return Lesion(
        *(lesion.name, lesion.patient_id, np.where(painted, -1150.0, lesion.ct_hu)),
        *(lesion.lesion_mask, lesion.valid_mask, lesion.spacing_mm),
    )


def row_of(config: CasesConfig, real: Lesion, others: list[Lesion]) -> np.ndarray:
    """Three planes of each version through the lesion's centre, grey levels, (H, W) uint8."""
    centre = np.rint(np.argwhere(real.lesion_mask).mean(axis=0)).astype(int)
    half = [round(config.field_mm / 2 / mm) for mm in real.spacing_mm]
    tiles = []
    for lesion in (real, *others):
        volume = np.where(lesion.valid_mask, to_norm(lesion.ct_hu.astype(np.float32)), -1.0)
        padded = np.pad(volume, [(h, h) for h in half], constant_values=-1.0)
        box = padded[tuple(slice(c, c + 2 * h) for c, h in zip(centre, half, strict=True))]
        for axis in range(3):
            plane = np.take(box, half[axis], axis)
            plane = plane if axis == 0 else plane[::-1]  # head up
            grey = ((plane.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
            grey = np.asarray(
                Image.fromarray(grey).resize((config.zoom * grey.shape[1], config.zoom * grey.shape[0]), 2)
            )
            tiles.append(np.pad(grey, ((0, GAP), (0, GAP)), constant_values=255))
    return np.concatenate(tiles, axis=1)


if __name__ == "__main__":
    launch(main, parse_config(CasesConfig))
