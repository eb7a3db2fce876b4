"""Which map serves SPADE better: stage-2 models of other labels on held-out lesions, lesions at the pleura apart.

    uv run benchmarks/choices/semantic_map.py --real data/nodules \
        --synthetic labels2=runs/labels2/made,labels8=runs/labels8/made

Each set comes from scripts/inpaint_nodules.py (several samples a mask are averaged). The first two are compared mask by
mask; the test is Wilcoxon's on signed ranks, of patients' means.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.stats import wilcoxon
from tqdm import tqdm

from evaluation.lesions.features import measure_features
from evaluation.lesions.lesion_sets import Lesion, load_lesions, match_pairs
from evaluation.lesions.pair_comparison import PairValues, pair_values
from evaluation.script_checks import named_sources
from foundation.config import ExistingFolder, MustExist, launch, parse_config
from imaging.semantic_map import FIRST_NODULE, LABELS, LUNG, inpainting_map


@dataclass(frozen=True)
class SemanticMapConfig:
    """What to compare.

    Attributes:
        real: Prepared dataset.
        synthetic: name=FOLDER,name=FOLDER, made in the masks of `real`.
        split: Of `real`.
        pleura_mm: A lesion is at the pleura if tissue that is no lung lies nearer to its mask.
        workers: Processes for texture features.
    """

    real: ExistingFolder
    synthetic: Annotated[str, MustExist("folder", listed=True)]
    split: str = "validation"
    pleura_mm: float = 3.0
    workers: int = 1


def main(config: SemanticMapConfig) -> None:
    """Measure and print."""
    sources = named_sources("--synthetic", config.synthetic)
    if len(sources) < 2:
        raise ValueError(f"--synthetic {config.synthetic}: expected at least two sets to compare")
    real, _ = load_lesions(config.real, config.split)
    real_features, _ = measure_features(real, "real", config.workers)
    by_method = {}
    for name, folder in sources.items():
        made, _ = load_lesions(Path(folder), "all")
        features, _ = measure_features(made, name, config.workers)
        pairs, _ = match_pairs(real, made)
        values, _ = pair_values(pairs, real_features, features, real_features)
        by_method[name] = of_masks(values, {lesion.name: lesion.mask_name for lesion in made})

    site = {lesion.name: "pleura" if at_pleura(lesion, config.pleura_mm) else "lung" for lesion in tqdm(real, "sites")}
    patients = {lesion.name: lesion.patient_id for lesion in real}
    for place in ("all", "pleura", "lung"):
        chosen = [name for name in site if place in ("all", site[name])]
        print_table(place, {m: by_method[m] for m in sources}, chosen, patients)


def at_pleura(lesion: Lesion, within_mm: float) -> bool:
    """Whether tissue that is neither lung nor nodule lies within a distance of the lesion's mask."""
    labels = inpainting_map(lesion.ct_hu, lesion.lesion_mask, lesion.lesion_mask, lesion.spacing_mm, lesion.valid_mask)
    tissue = (labels != LUNG) & (labels < FIRST_NODULE) & (labels != LABELS.index("background"))
    distance_mm = distance_transform_edt(lesion.lesion_mask == 0, sampling=lesion.spacing_mm)
    return bool((tissue & (lesion.valid_mask > 0) & (distance_mm <= within_mm)).any())


def of_masks(values: PairValues, mask_of: dict[str, str]) -> PairValues:
    """Means over the samples of each mask."""
    means: PairValues = {}
    for metric, by_name in values.items():
        grouped = defaultdict(list)
        for name, value in by_name.items():
            grouped[mask_of[name]].append(value)
        means[metric] = {mask: float(np.mean(numbers)) for mask, numbers in grouped.items()}
    return means


def print_table(place: str, methods: dict[str, PairValues], chosen: list[str], patients: dict[str, str]) -> None:
    """Mean of the absolute figures in each method, and the test of the first two."""
    first, second, *_ = methods
    print(f"\n### {place}: {len(chosen)} lesions\n")
    print(f"| figure | {' | '.join(methods)} | p, {first} and {second} |\n|---|{'---|' * (len(methods) + 1)}")
    for metric in methods[first]:
        if not all(metric in values for values in methods.values()):
            continue
        shared = [mask for mask in chosen if all(mask in values[metric] for values in methods.values())]
        cells = [f"{np.mean([abs(values[metric][mask]) for mask in shared]):.4g}" for values in methods.values()]
        differences = defaultdict(list)
        for mask in shared:
            differences[patients[mask]].append(abs(methods[first][metric][mask]) - abs(methods[second][metric][mask]))
        p = wilcoxon([np.mean(numbers) for numbers in differences.values()]).pvalue
        print(f"| {metric} | {' | '.join(cells)} | {p:.3f} |")


if __name__ == "__main__":
    launch(main, parse_config(SemanticMapConfig))
