"""Compare synthetic lesions with real ones, and write a report.

    uv run scripts/evaluate.py --real data/nodules --synthetic data/synthetic --train data/nodules --out runs/report

A set is a prepared dataset, or a folder of `<name>_ct.nii.gz` and `<name>_mask.nii.gz` in HU. Several samples of one
mask are called `<mask>_seed<k>`. A folder may have a `nodules.csv` (nodule, patient_id, split). Give several methods as
`--synthetic ours=DIR,baseline=DIR`. Some figures compare a lesion with the real lesion of the same name. Without
`--synthetic`, the report shows how far real lesions are from each other.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from foundation.config import (
    ExistingFolder,
    ModelSource,
    MustExist,
    OutputFolder,
    Seed,
    WeightsSource,
    config_dict,
    launch,
    read_arguments,
)


@dataclass(frozen=True)
class EvaluateConfig:
    """What to compare.

    Attributes:
        real: Real lesions that the model has not seen.
        out: Folder for report.html, report.md, report.json and the pictures.
        synthetic: One set, or several as name=DIR,name=DIR.
        train: Real lesions that the model was trained on, to find copies and for real vs real by size.
        real_split: Split of `real`: train, validation, test or all.
        synthetic_split: Split of the synthetic sets.
        train_split: Split of `train`.
        inception: Weights for the FID: fid or torchvision (downloaded once), a local state dict, or none.
        lpips_backbone: AlexNet weights for LPIPS: torchvision (downloaded once), a local state dict, or none.
        detector: "both" trains gradient boosting on figures and a small 3D network to tell each set from the real one
            (about two minutes a set of a hundred masks), "figures" the first alone, "none" neither.
        autoencoder: Folder, repository or URL of an autoencoder, whose reconstructions of the real lesions become a
            control of the detector; null leaves it out.
        repeats: Number of patient-wise splits and of bootstrap resamples.
        permutations: Number of exchanges in each test.
        bin_width_hu: Width of a grey level of GLCM and GLRLM.
        seed: The same inputs and seed give the same report.
        workers: Processes for texture features.
        threads: CPU threads; null takes the default of `foundation.threads`.
        device: "auto", "cpu" or "cuda"; where Inception, LPIPS and the nodule network run.
    """

    real: ExistingFolder
    out: OutputFolder
    synthetic: Annotated[str | None, MustExist("folder", listed=True)] = None
    train: ExistingFolder | None = None
    real_split: str = "test"
    synthetic_split: str = "all"
    train_split: str = "train"
    inception: WeightsSource = "fid"
    lpips_backbone: WeightsSource = "torchvision"
    detector: Literal["both", "figures", "none"] = "both"
    autoencoder: ModelSource | None = None
    repeats: int = 200
    permutations: int = 999
    bin_width_hu: float = 25.0
    seed: Seed = 0
    workers: int = 1
    threads: int | None = None
    device: str = "auto"


ARGUMENTS = read_arguments(EvaluateConfig, __name__)

from itertools import chain

import numpy as np
import torch

from autoencoder.loading import load_autoencoder
from evaluation.lesions.controls import control_sets
from evaluation.lesions.detector import are_enough, detect, paired_by_mask, real_against_real
from evaluation.lesions.features import Features, measure_features, merge
from evaluation.lesions.lesion_sets import Lesion, load_lesions, match_pairs
from evaluation.lesions.memorisation import Memorisation, check_memorisation, feature_variety, seed_spread
from evaluation.lesions.method_tests import method_tests
from evaluation.lesions.openings import open_test_split
from evaluation.lesions.pair_comparison import PairValues, pair_values, paired_rows
from evaluation.lesions.radiomics import MISSING, radiomics_available
from evaluation.lesions.set_comparison import distance_rows, floor_rows, set_metrics
from evaluation.lesions.spreads import spread_rows
from evaluation.networks.inception import load_inception, load_lpips
from evaluation.networks.nodule_net import load_nodule_net
from evaluation.reports.lesion_pictures import draw_copies, draw_distributions, draw_lesions
from evaluation.reports.lesion_report import CopyCheck, Diversity, Results, SetSummary, write_report
from evaluation.script_checks import check_settings, named_sources, optional_network
from foundation.device import torch_device

TRAINING_SET = "training set"


def main(config: EvaluateConfig) -> None:
    check_config(config)
    device = torch_device(config.device)
    results = Results(settings=config_dict(config))
    nodule_net = load_nodule_net()
    inception, no_inception = optional_network("FID and KID", config.inception, load_inception)
    lpips_network, no_lpips = optional_network("LPIPS", config.lpips_backbone, load_lpips)
    results.left_out += [note for note in (no_inception, no_lpips) if note]
    if not radiomics_available():
        results.left_out.append(MISSING)
    results.test_openings = open_test_split(config.real, config.real_split, "evaluate", results.settings)
    real = load_set("real", config.real, config.real_split, results)
    train = load_set(TRAINING_SET, config.train, config.train_split, results) if config.train else []
    check_disjoint(real, train)
    methods = {
        name: with_patients_of(real + train, load_set(name, path, config.synthetic_split, results))
        for name, path in synthetic_sets(config.synthetic).items()
    }
    note_spacing(results)

    sets = {"real": real, **({TRAINING_SET: train} if train else {}), **methods}
    features: dict[str, Features] = {}
    for label, lesions in sets.items():
        features[label], problems = measure_features(
            lesions, label, config.workers, config.bin_width_hu, inception, nodule_net, device
        )
        results.left_out += problems
    pool = merge(features["real"], features[TRAINING_SET]) if train else features["real"]
    metrics = set_metrics(pool)

    for label in [label for label in sets if label != "real"]:
        rows, notes = distance_rows(
            label, features["real"], features[label], metrics, config.repeats, config.permutations, config.seed
        )
        results.distances += rows
        results.left_out += notes
    results.floors = floor_rows(pool, metrics, config.repeats, config.seed)

    results.spreads = spread_rows(features)
    if config.detector != "none":
        detect_sets(config, real, methods, results, device)

    values: dict[str, PairValues] = {}
    pairs = {}
    for label, lesions in methods.items():
        pairs[label], notes = match_pairs(real, lesions)
        results.left_out += [f"{label}, {note}" for note in notes]
        values[label], notes = pair_values(pairs[label], features["real"], features[label], pool, lpips_network, device)
        results.left_out += [f"{label}, {note}" for note in notes]
        patient_of = {lesion.name: lesion.patient_id for lesion in lesions}
        results.pairs += paired_rows(label, values[label], patient_of, config.repeats, config.seed)
        if not pairs[label]:
            results.left_out.append(f"{label}: no paired figures, no name is also in the real set")
    results.tests, notes = method_tests(
        features["real"],
        {label: features[label] for label in methods},
        values,
        metrics,
        config.permutations,
        config.seed,
    )
    results.left_out += notes

    copies = {label: check_memorisation(lesions, train, real) for label, lesions in methods.items()} if train else {}
    results.copies = [copy_check(label, copies[label], methods[label], train) for label in copies]
    if methods and not train:
        results.left_out.append("No check for copies of training lesions; give --train")
    results.diversity = [diversity(label, methods[label], features) for label in methods]

    config.out.mkdir(parents=True, exist_ok=True)
    draw_distributions(results, config.out, features, metrics, config.seed)
    draw_lesions(results, config.out, sets, pairs)
    draw_copies(results, config.out, methods, train, copies)
    write_report(results, config.out)
    print(f"wrote {config.out / 'report.html'}, report.md and report.json; {len(results.left_out)} remarks in it")


def detect_sets(
    config: EvaluateConfig, real: list[Lesion], methods: dict[str, list[Lesion]], results: Results, device: torch.device
) -> None:
    """Try to tell each set, and each control, from the real lesions in the same masks."""
    pairs = {label: paired_by_mask(real, lesions) for label, lesions in methods.items()}
    shared = {label: pair for label, pair in pairs.items() if are_enough(pair[0])}
    results.left_out += [
        f"{label}: no detector, too few of its masks are in the real set too" for label in pairs if label not in shared
    ]
    vae = None if config.autoencoder is None else load_autoencoder(config.autoencoder).to(device)
    controls = ((label, (real, lesions)) for label, lesions in control_sets(real, vae)) if shared else ()
    for label, (originals, made) in chain(shared.items(), controls):
        results.detections.append(
            detect(label, originals, made, config.seed, config.workers, network=config.detector == "both")
        )
    try:
        results.real_against_real = real_against_real(real, config.seed, config.workers)
    except ValueError as error:
        results.left_out.append(f"detector, real against real: {error}")


def check_config(config: EvaluateConfig) -> None:
    """Refuse, before anything is read, what would fail after long work."""
    check_settings(config.out, config.bin_width_hu, config.repeats, config.permutations, config.workers)
    paths = [config.real, *([config.train] if config.train else []), *synthetic_sets(config.synthetic).values()]
    for path in paths:
        if not path.is_dir():
            raise ValueError(f"{path}: no such folder; expected a prepared dataset or NIfTI pairs")


def synthetic_sets(synthetic: str | None) -> dict[str, Path]:
    """Name -> folder of each synthetic set."""
    sources = named_sources("--synthetic", synthetic or "", taken=("real", TRAINING_SET))
    return {name: Path(source) for name, source in sources.items()}


def load_set(label: str, path: Path, split: str, results: Results) -> list[Lesion]:
    """Read a set, and note it and what was left out of it in the results."""
    lesions, left_out = load_lesions(path, split, stored=True)
    results.left_out += [f"{label}, {sentence}" for sentence in left_out]
    spacings = sorted({tuple(round(s, 4) for s in lesion.spacing_mm) for lesion in lesions})
    results.sets.append(
        SetSummary(
            label=label,
            path=str(path),
            split=split,
            lesions=len(lesions),
            patients=len({lesion.patient_id for lesion in lesions}),
            spacing_mm=[list(spacing) for spacing in spacings],
        )
    )
    return lesions


def check_disjoint(real: list[Lesion], train: list[Lesion]) -> None:
    """Raise ValueError where a patient is both in the real set and in the training set."""
    shared = sorted({lesion.patient_id for lesion in real} & {lesion.patient_id for lesion in train})
    if shared:
        raise ValueError(
            f"{len(shared)} patients, such as {shared[0]}, are in --real and in --train; choose disjoint splits with "
            "--real-split and --train-split"
        )


def with_patients_of(known: list[Lesion], lesions: list[Lesion]) -> list[Lesion]:
    """Give synthetic lesions the patient of the real lesion whose mask they were made in, so both resample together."""
    patient_of = {lesion.mask_name: lesion.patient_id for lesion in known}
    return [replace(lesion, patient_id=patient_of.get(lesion.mask_name, lesion.patient_id)) for lesion in lesions]


def note_spacing(results: Results) -> None:
    """Add a remark where sets have different spacings."""
    spacings = {tuple(spacing) for one in results.sets for spacing in one.spacing_mm}
    if len(spacings) > 1:
        results.left_out.append(
            f"{len(spacings)} different spacings: Gabor, GLCM, GLRLM and seam are measured per voxel and mix them; "
            "prepare all sets on one grid for figures that can be compared"
        )


def copy_check(method: str, found: Memorisation, lesions: list[Lesion], train: list[Lesion]) -> CopyCheck:
    """What the check for copies found, as the report prints it."""
    duplicates = [
        (lesions[row].name, train[found.nearest[row]].name, float(found.synthetic[row])) for row in found.duplicates
    ]
    return CopyCheck(
        method=method,
        lesions=len(lesions),
        median=float(np.median(found.synthetic)),
        test_median=float(np.median(found.test)),
        threshold=found.threshold,
        p_closer=found.p_closer,
        duplicates=duplicates,
    )


def diversity(method: str, lesions: list[Lesion], features: dict[str, Features]) -> Diversity:
    """How much a method's lesions differ, over masks and over seeds."""
    spread = seed_spread(lesions)
    variety, seed_variety = feature_variety(features[method]["Nodule net"], features["real"]["Nodule net"])
    return Diversity(
        method=method,
        variety=variety,
        seed_masks=len(spread),
        seed_spread=float(np.mean(list(spread.values()))) if spread else None,
        seed_variety=seed_variety,
    )


if __name__ == "__main__":
    launch(main, ARGUMENTS)
