"""How dense real lesions are that readers call benign and malignant, by size.

    uv run benchmarks/quality/malignancy_hu.py --data data/nodules

A malignant request must not make a lesion denser or fainter than malignant lesions of its size are. This is what to
compare with. Training patients, HU inside masks at half maximum.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from tqdm import tqdm

from foundation.config import ExistingFolder, launch, parse_config
from imaging.dataset.nodules import load_nodules, read_nodule

EDGES_MM = (3.0, 6.0, 8.0, 11.0, 15.0, 40.0)
CLASSES = {"benign (1 to 2)": (1.0, 2.0), "between": (2.01, 3.99), "malignant (4 to 5)": (4.0, 5.0)}
CALCIFIED_HU = 150.0
FEWEST = 3


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        data: Prepared dataset.
        split: Its training split, if nothing else is said.
    """

    data: ExistingFolder
    split: str = "train"


def main(config: Config) -> None:
    """Print the table."""
    nodules = load_nodules(config.data, config.split)
    rows = []
    for index in tqdm(range(len(nodules)), leave=False):
        nodule = read_nodule(nodules, index)
        inside = nodule["lesion_mask"] > 0
        hu = nodule["ct_hu"][inside].astype(float)
        diameter_mm = (6 * inside.sum() * float(np.prod(nodule["spacing_mm"])) / np.pi) ** (1 / 3)
        rows.append((diameter_mm, nodule["malignancy"], np.median(hu), np.percentile(hu, 90)))
    diameter_mm, malignancy, median_hu, p90_hu = np.array(rows, float).T
    print("| diameter [mm] | malignancy | lesions | median HU | 90th percentile | above 150 HU |")
    print("|---|---|---|---|---|---|")
    for low, high in pairwise(EDGES_MM):
        for name, (least, most) in CLASSES.items():
            chosen = (diameter_mm >= low) & (diameter_mm < high) & (malignancy >= least) & (malignancy <= most)
            if chosen.sum() < FEWEST:
                continue
            medians = (f"{np.median(values[chosen]):.0f}" for values in (median_hu, p90_hu))
            calcified = np.mean(p90_hu[chosen] > CALCIFIED_HU)
            print(f"| {low:g} to {high:g} | {name} | {chosen.sum()} | {' | '.join(medians)} | {calcified:.2f} |")


if __name__ == "__main__":
    launch(main, parse_config(Config))
