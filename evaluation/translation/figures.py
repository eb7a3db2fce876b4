"""What is measured of a translated crop against the truth, and how methods compare."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import wilcoxon

from evaluation.autoencoders.power_spectrum import band_edges_per_mm, homogeneous_box, power_ratio
from evaluation.image_quality import psnr, ssim
from imaging.window import WINDOW_LEVEL, WINDOW_WIDTH

LOW, HIGH = WINDOW_LEVEL - WINDOW_WIDTH / 2, WINDOW_LEVEL + WINDOW_WIDTH / 2
RIM = 8  # voxels at the borders of a crop that are not judged: there a filter sees mirrored voxels
FIGURES = ("psnr", "ssim", "bias_hu", "lesion_hu", "noise_middle", "noise_fine")
TITLES = ("PSNR, dB", "SSIM", "HU bias", "lesion, HU", "noise power, middle", "noise power, fine")


def figures(
    made_hu: np.ndarray, true_hu: np.ndarray, lesion_mask: np.ndarray, valid_mask: np.ndarray, spacing_mm: float
) -> dict[str, float]:
    """Figures of one crop, within the window and without its rim.

    Args:
        made_hu, true_hu: (D, H, W), HU.
        lesion_mask, valid_mask: (D, H, W), bool.
        spacing_mm: Of every axis.
    Returns: `psnr` over the window's width; `ssim`; `bias_hu`, the mean error; `lesion_hu`, the mean error in the
        lesion; `noise_middle` and `noise_fine`, the power over the true power from 0.2 to 0.4 and from 0.4 to 0.7 of
        the Nyquist frequency in the most homogeneous cube of 16 voxels; NaN where there is no lesion or no cube.
    """
    inner = 3 * (slice(RIM, -RIM),)
    made, true = (np.clip(volume[inner], LOW, HIGH).astype(np.float64) for volume in (made_hu, true_hu))
    lesion, valid = (mask[inner] for mask in (lesion_mask, valid_mask))
    one, other, counted = made[None, None], true[None, None], valid[None, None]
    found = {
        "psnr": float(psnr(one, other, WINDOW_WIDTH, counted)[0]),
        "ssim": float(ssim(one, other, WINDOW_WIDTH, counted)[0]),
        "bias_hu": float((made - true)[valid].mean()),
        "lesion_hu": float((made - true)[lesion].mean()) if lesion.any() else np.nan,
        "noise_middle": np.nan,
        "noise_fine": np.nan,
    }
    made, true = (np.clip(volume, LOW, HIGH).astype(np.float64) for volume in (made_hu, true_hu))
    spacing = 3 * (spacing_mm,)
    box = homogeneous_box(true / WINDOW_WIDTH, valid_mask & ~lesion_mask, spacing)  # may reach into the rim
    if box is not None and np.ptp(true[box]) > 0:
        ratios = power_ratio(made[box], true[box], spacing, band_edges_per_mm(spacing))
        found["noise_middle"], found["noise_fine"] = float(ratios[1]), float(ratios[2])
    return found


def summary(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over crops; of the lesions' HU the mean absolute error, of noise the median."""
    columns = {name: np.array([row[name] for row in rows]) for name in FIGURES}
    found = {name: float(np.nanmean(columns[name])) for name in ("psnr", "ssim", "bias_hu")}
    found["lesion_hu"] = float(np.nanmean(np.abs(columns["lesion_hu"])))
    return found | {name: float(np.nanmedian(columns[name])) for name in ("noise_middle", "noise_fine")}


def paired_p(ours: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]], name: str = "psnr") -> float:
    """Two-sided p of the Wilcoxon signed-rank test over crops, as SynDiff's tables have; NaN for equal figures."""
    difference = np.array([a[name] - b[name] for a, b in zip(ours, others, strict=True)])
    return float(wilcoxon(difference).pvalue) if difference.any() else float("nan")


def markdown(results: Mapping[str, Sequence[Mapping[str, float]]], ours: str) -> str:
    """A row for each method.

    Args:
        results: Figures of each crop, by method.
        ours: The method that the others are tested against.
    """
    lines = [f"| method | {' | '.join(TITLES)} | p of PSNR |", "|---" + "|---:" * (len(TITLES) + 1) + "|"]
    for name, rows in results.items():
        s = summary(rows)
        cells = [f"{s['psnr']:.2f}", f"{s['ssim']:.3f}", f"{s['bias_hu']:+.2f}", f"{s['lesion_hu']:.1f}"]
        cells += [f"{s['noise_middle']:.2f}", f"{s['noise_fine']:.2f}"]
        p = "" if name == ours else f"{paired_p(results[ours], rows):.3f}"
        lines.append(f"| {name} | {' | '.join(cells)} | {p} |")
    return "\n".join(lines) + "\n"
