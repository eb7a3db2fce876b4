"""What stands where a crop ends: stage 1's error in lesions by diameter, for datasets prepared with each --fill.

    uv run benchmarks/choices/padding.py --vae 'edge=runs/vae_edge/model,air=runs/vae_air/model' \
        --data 'edge=data/joined_edge,air=data/joined_air'

Each autoencoder reconstructs the dataset of its own name. Only crops that reach outside their scan are looked at.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
from tqdm import tqdm

from autoencoder.loading import load_autoencoder
from evaluation.autoencoders.reconstruction import reconstruct
from evaluation.script_checks import named_sources
from foundation.config import MustExist, launch, parse_config
from imaging.dataset.nodules import load_nodules, read_nodule
from imaging.window import to_hu, to_norm


@dataclass(frozen=True)
class PaddingConfig:
    """What to compare.

    Attributes:
        vae: name=FOLDER,name=FOLDER.
        data: Prepared datasets under the same names.
        split: Of them.
        diameters_mm: Edges of the diameter's bins.
    """

    vae: Annotated[str, MustExist("folder", listed=True)]
    data: Annotated[str, MustExist("folder", listed=True)]
    split: str = "validation"
    diameters_mm: tuple[float, ...] = (3.0, 6.0, 10.0, 20.0, 60.0)


def main(config: PaddingConfig) -> None:
    """Measure and print."""
    datasets = named_sources("--data", config.data)
    bins = list(pairwise(config.diameters_mm))
    print("| fill | " + " | ".join(f"{low:g}-{high:g} mm" for low, high in bins) + " |")
    print("|---|" + "---|" * len(bins))
    for name, source in named_sources("--vae", config.vae).items():
        diameters, biases, errors = lesion_errors(source, Path(datasets[name]), config.split)
        cells = []
        for low, high in bins:
            chosen = (diameters >= low) & (diameters < high)
            spread = biases[chosen].std(ddof=1) / np.sqrt(max(chosen.sum(), 1))
            bias, error = biases[chosen].mean(), errors[chosen].mean()
            cells.append(f"{bias:+.1f} ± {1.96 * spread:.1f}, MAE {error:.0f} (n {chosen.sum()})")
        print(f"| {name} | " + " | ".join(cells) + " |")


def lesion_errors(source: str, data: Path, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Diameter in mm, mean error and mean absolute error in HU of each lesion's reconstruction."""
    vae = load_autoencoder(source)
    window = (vae.config["window_width"], vae.config["window_level"])
    nodules, rows = load_nodules(data, split), []
    for index in tqdm(range(len(nodules)), desc=str(data)):
        nodule = read_nodule(nodules, index)
        if nodule["valid_mask"].all():
            continue
        ct_norm = to_norm(nodule["ct_hu"].astype(np.float32), *window)
        error = to_hu(reconstruct(vae, ct_norm) - ct_norm, window[0], 0.0)[nodule["lesion_mask"] > 0]
        rows.append((nodule["diameter_mm"], error.mean(), np.abs(error).mean()))
    diameters, biases, errors = np.array(rows).T
    return diameters, biases, errors


if __name__ == "__main__":
    launch(main, parse_config(PaddingConfig))
