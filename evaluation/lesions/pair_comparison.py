"""Figures of synthetic lesions that have a real partner of the same name, grid and mask."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from evaluation.image_quality import MS_SSIM_SCALES, fitting_scales, ms_ssim, mse, psnr, ssim
from evaluation.lesions.features import TEXTURE, Features, FeatureSet, real_spread
from evaluation.lesions.lesion_sets import Lesion
from evaluation.networks.inception import lpips_distances
from evaluation.statistics.resampling import mean_interval
from imaging.window import to_norm

NORM_RANGE = 2.0  # width of ct_norm
SIGNED = {"HU": "HU bias [HU]", "Coverage": "Coverage difference", "Seam": "Seam difference [HU]"}
PairValues = dict[str, dict[str, float]]  # metric -> synthetic lesion's name -> value


@dataclass(frozen=True)
class PairedRow:
    """Mean of a per-pair figure of one method, its deviation over pairs, 95 % bootstrap interval, and quartiles."""

    method: str
    metric: str
    pairs: int
    mean: float
    std: float
    low: float
    high: float
    median: float
    quartiles: tuple[float, float]


def pair_values(
    pairs: list[tuple[Lesion, Lesion]],
    real: Features,
    synthetic: Features,
    pool: Features,
    lpips_network: nn.Module | None = None,
    device: str | torch.device = "cpu",
) -> tuple[PairValues, list[str]]:
    """Every paired figure of one method: on `ct_norm` unless the name says HU, in the foreground only except LPIPS.

    Args:
        pairs: (real, synthetic) from `match_pairs`.
        real, synthetic, pool: Features; `pool` gives the real spread that texture errors are divided by.
        lpips_network: From `load_lpips`; None leaves LPIPS out.
        device: Where LPIPS runs.
    Returns: The values, and a sentence for each one that could not be had.
    """
    values: PairValues = {}
    notes = []
    scales = min((fitting_scales(lesion.ct_hu.shape) for lesion, _ in pairs), default=1)
    scales = max(1, min(MS_SSIM_SCALES, scales))
    for lesion, made in tqdm(pairs, "pairs", leave=False):
        target, pred = (to_norm(one.ct_hu)[None, None] for one in (lesion, made))
        valid = (lesion.valid_mask & made.valid_mask)[None, None]
        mask = lesion.lesion_mask[None, None]
        metrics: dict[str, Callable[[], np.ndarray]] = {
            "MSE": partial(mse, pred, target, valid & mask),
            "PSNR [dB]": partial(psnr, pred, target, NORM_RANGE, valid & mask),
            "SSIM": partial(ssim, pred, target, NORM_RANGE, valid, mask),
            "MS-SSIM": partial(ms_ssim, pred, target, NORM_RANGE, valid, mask, scales),
        }
        for name, compute in metrics.items():
            try:
                value = float(compute()[0])
            except ValueError as error:
                notes.append(f"{made.name}: {name} left out, {error}")
                continue
            if np.isfinite(value):
                values.setdefault(name, {})[made.name] = value
            else:
                notes.append(f"{made.name}: equal to the real lesion, its PSNR is infinite and not in the mean")
    if lpips_network is not None and pairs:
        distances = lpips_distances(lpips_network, pairs, device)
        values["LPIPS"] = {made.name: float(d) for (_, made), d in zip(pairs, distances, strict=True)}
    for kind in (*TEXTURE, "Spectrum", *SIGNED):
        if kind in real and kind in synthetic:
            values |= _feature_differences(kind, pairs, real[kind], synthetic[kind], pool[kind])
    return values, notes


def _feature_differences(
    kind: str, pairs: list[tuple[Lesion, Lesion]], real: FeatureSet, synthetic: FeatureSet, pool: FeatureSet
) -> PairValues:
    """HU, coverage and seam: synthetic − real. Texture: mean over features of |synthetic − real| / real spread."""
    rows = {lesion.name: row for row, lesion in enumerate(real.lesions)}
    made_rows = {lesion.name: row for row, lesion in enumerate(synthetic.lesions)}
    measured = [(lesion, made) for lesion, made in pairs if lesion.name in rows and made.name in made_rows]
    scale = real_spread(pool)
    name = SIGNED.get(kind, f"{kind} error")
    if not measured or (kind not in SIGNED and not scale.any()):
        return {}
    values = {}
    for lesion, made in measured:
        difference = synthetic.values[made_rows[made.name], 0] - real.values[rows[lesion.name], 0]
        if kind not in SIGNED:
            values[made.name] = float(np.abs(difference[scale > 0] / scale[scale > 0]).mean())
        else:
            values[made.name] = float(difference[0])
    return {name: values}


def paired_rows(
    method: str, values: PairValues, patient_of: dict[str, str], repeats: int, seed: int
) -> list[PairedRow]:
    """Mean, deviation and interval of each paired figure.

    Args:
        method: Its name.
        values: From `pair_values`.
        patient_of: Synthetic lesion's name -> patient; patients are resampled.
        repeats: Bootstrap resamples.
        seed: Each figure starts anew from it.
    Returns: A row for each figure.
    """
    rows = []
    for metric, by_name in values.items():
        numbers = np.array(list(by_name.values()))
        patients = [patient_of[name] for name in by_name]
        low, high = mean_interval(numbers, patients, repeats, np.random.default_rng(seed))
        std = float(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0
        lower, median, upper = map(float, np.quantile(numbers, (0.25, 0.5, 0.75)))
        mean = float(numbers.mean())
        rows.append(PairedRow(method, metric, len(numbers), mean, std, low, high, median, (lower, upper)))
    return rows
