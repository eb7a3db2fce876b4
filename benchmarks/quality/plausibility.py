"""What the plausibility of scripts/synthesize.py finds: real lesions, and the same with one thing made wrong.

    uv run benchmarks/quality/plausibility.py --data data/nodules

The lesions are those of the validation patients, by whose distances plausibility is ranked; so five in a hundred of the
unchanged ones are refused at 0.05, and the question is how many of the changed ones are. Everything outside the mask
stays. "Farther" is the share whose distance the change made larger.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from evaluation.lesions.lesion_sets import Lesion, load_lesions
from evaluation.lesions.real_lesions import SHIPPED, load_real_lesions
from foundation.config import ExistingFile, ExistingFolder, launch, parse_config

Change = Callable[[Lesion, np.random.Generator], np.ndarray]
LUNG_HU, LUNG_NOISE_HU = -860.0, 40.0
CHANGES: dict[str, Change] = {
    "none": lambda lesion, rng: lesion.ct_hu,
    "blurred, σ 1 mm": lambda lesion, rng: gaussian_filter(lesion.ct_hu, 1.0),
    "blurred, σ 2 mm": lambda lesion, rng: gaussian_filter(lesion.ct_hu, 2.0),
    "noise of 50 HU": lambda lesion, rng: lesion.ct_hu + rng.normal(0, 50, lesion.ct_hu.shape),
    "noise of 200 HU": lambda lesion, rng: lesion.ct_hu + rng.normal(0, 200, lesion.ct_hu.shape),
    "one value, its mean": lambda lesion, rng: np.full_like(lesion.ct_hu, lesion.ct_hu[lesion.lesion_mask].mean()),
    "lung in place of it": lambda lesion, rng: rng.normal(LUNG_HU, LUNG_NOISE_HU, lesion.ct_hu.shape),
    "air": lambda lesion, rng: np.full_like(lesion.ct_hu, -1000),
    "calcium throughout": lambda lesion, rng: np.full_like(lesion.ct_hu, 400),
}


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        data: Prepared dataset; its validation split is used.
        reference: Of measure_real_lesions.py, from the same dataset; null takes the shipped one.
        threshold: Plausibility below which a lesion is refused.
    """

    data: ExistingFolder
    reference: ExistingFile | None = None
    threshold: float = 0.05


def main(config: Config) -> None:
    real = load_real_lesions(config.reference or SHIPPED)
    lesions, _ = load_lesions(config.data, "validation")
    unchanged = real.distances(lesions)
    print(
        f"{len(lesions)} lesions\n\n| change in the mask | refused at {config.threshold:g} | farther |\n|---|---|---|"
    )
    for name, change in CHANGES.items():
        rng = np.random.default_rng(0)
        changed = [
            replace(lesion, ct_hu=np.where(lesion.lesion_mask, change(lesion, rng), lesion.ct_hu).astype(np.float32))
            for lesion in lesions
        ]
        distances = real.distances(changed)
        refused = (real.plausibility(distances) < config.threshold).mean()
        print(f"| {name} | {refused:.0%} | {(distances > unchanged).mean():.0%} |", flush=True)


if __name__ == "__main__":
    launch(main, parse_config(Config))
