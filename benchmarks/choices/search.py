"""What the shipped configs were chosen from: short trainings that differ in one choice each, judged by what is decoded.

    uv run benchmarks/choices/search.py --stage autoencoder --data data/joined --out runs/search_1
    uv run benchmarks/choices/search.py --stage ldm --data data/joined --latents data/latents \
        --vae runs/shipped/vae_2/model --out runs/search_2

Every choice starts from the same seed and takes equal steps; held-out patients of the training split judge it. The
same command goes on where it stopped, and prints the table anew.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate.state import AcceleratorState
from tqdm import tqdm

from autoencoder.latents import standardise, unstandardise
from autoencoder.loading import load_autoencoder
from evaluation.autoencoders.reconstruction import reconstruct, reconstruction_figures
from evaluation.lesions.features import measure_features
from evaluation.lesions.lesion_sets import load_lesions
from evaluation.lesions.set_comparison import distance_rows, set_metrics
from evaluation.lesions.synthetic_set_config import SyntheticSetConfig
from evaluation.lesions.synthetic_sets import load_and_make_set
from evaluation.reports.lesion_report import number
from foundation.atomic import write_atomically
from foundation.command import run_script
from foundation.config import ExistingFolder, launch, parse_config
from imaging.dataset.nodules import load_nodules, read_nodule
from imaging.window import to_norm
from training.checkpoint import read_progress

CONFIGS = Path(__file__).parents[2] / "configs/shipped"
LATENT_ERROR = 0.15  # standard deviations: what stage 2 leaves, which some decoders amplify to mottling
Choices = Mapping[str, Mapping[str, str]]

AUTOENCODERS: Choices = {
    "shipped, first part": {},
    "4 channels": {"model.latent_channels": "4"},
    "8 channels": {"model.latent_channels": "8"},
    "factor 2": {"model.channels": "[32]"},
    "width 48, 96": {"model.channels": "[48, 96]"},
    "KL 1e-4": {"losses.kl": "1e-4"},
    "KL 1e-2": {"losses.kl": "1e-2"},
    "latent noise 0.1": {"latent_noise": "0.1"},
    "latent noise 0.2": {"latent_noise": "0.2"},
    "learning rate 3e-4": {"learning_rate": "3e-4"},
    "learning rate 3e-3": {"learning_rate": "3e-3"},
    "EMA 0.99": {"ema_decay": "0.99"},
    "batch 8": {"batch_size": "8"},
}
LDMS: Choices = {
    "shipped": {},
    "width 48, 96, 192": {"model.channels": "[48, 96, 192]"},
    "2 blocks a level": {"model.blocks_per_level": "2"},
    "learning rate 3e-4": {"learning_rate": "3e-4"},
    "learning rate 2e-3": {"learning_rate": "2e-3"},
    "batch 4": {"batch_size": "4"},
    "batch 16": {"batch_size": "16"},
    "EMA 0.99": {"ema_decay": "0.99"},
    "epsilon": {"target": "epsilon"},
    "flow": {"target": "flow"},
}
DISTANCES = ("Gabor WD, standardised", "GLCM WD, standardised", "Spectrum WD, standardised", "Seam WD")


@dataclass(frozen=True)
class SearchConfig:
    """The search.

    Attributes:
        stage: "autoencoder" or "ldm".
        data: Prepared dataset.
        out: Folder for the runs and the table.
        latents: `data` encoded, for the ldm.
        vae: The autoencoder of the latents.
        steps: Of each training.
        lesions: Held-out lesions that judge, evenly spaced.
        only: Names of choices, separated by semicolons; null takes all.
    """

    stage: Literal["autoencoder", "ldm"]
    data: ExistingFolder
    out: Path
    latents: ExistingFolder | None = None
    vae: ExistingFolder | None = None
    steps: int = 400
    lesions: int = 32
    only: str | None = None


def main(config: SearchConfig) -> None:
    """Train, judge, print."""
    choices = AUTOENCODERS if config.stage == "autoencoder" else LDMS
    names = list(choices) if config.only is None else config.only.split(";")
    unknown = [name for name in names if name not in choices]
    if unknown:
        raise ValueError(f"only: {unknown[0]!r} is no choice; known: {'; '.join(choices)}")
    if config.stage == "ldm" and (config.latents is None or config.vae is None):
        raise ValueError("stage ldm: give --latents and --vae")
    judge = judged_autoencoder if config.stage == "autoencoder" else judged_ldm
    rows = {}
    for name in names:
        folder = config.out / "".join(c if c.isalnum() else "_" for c in name)
        figures = folder / "figures.json"
        if not figures.exists():
            print(name, flush=True)
            with own_precision():
                found = judge(config, folder, choices[name])
            write_atomically(figures, lambda path, found=found: path.write_text(json.dumps(found, indent=2)))
        rows[name] = json.loads(figures.read_text())
    columns = list(next(iter(rows.values())))
    lines = [f"| {' | '.join(['choice', *columns])} |", "|---|" + "---:|" * len(columns)]
    lines += [f"| {name} | {' | '.join(number(row[column]) for column in columns)} |" for name, row in rows.items()]
    table = "\n".join(lines) + "\n"
    write_atomically(config.out / f"{config.stage}.md", lambda path: path.write_text(table))
    print(table)


@contextmanager
def own_precision() -> Iterator[None]:
    """Let a training have another precision than the one before and the one after it in this process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def trained(script: str, config: SearchConfig, base: str, folder: Path, given: Mapping[str, Any], result: str) -> Path:
    """The folder of a choice's run, trained if `result` is not there: the shipped config with these differences."""
    out = folder / "run"
    fixed = {"config": CONFIGS / base, "out": out, "steps": config.steps}
    fixed |= {"evaluate_every": config.steps, "checkpoint_every": 200}
    if not (out / result).exists():
        run_script(script, fixed | dict(given))
    if not (out / result).exists():  # a training that was requested to stop leaves a checkpoint and no model
        raise SystemExit("stopped; the same command goes on")
    return out


def judged_autoencoder(config: SearchConfig, folder: Path, choice: Mapping[str, str]) -> dict[str, float | None]:
    """Train one, and reconstruct held-out crops, once from their latents and once from latents with an error."""
    given = {"data": config.data, "statistics_crops": 100, "mixed_precision": "bf16", **choice}
    run = trained("train_vae", config, "vae_1.yaml", folder, given, "model")
    vae = load_autoencoder(run / "model")
    window = (vae.config["window_width"], vae.config["window_level"])
    nodules = load_nodules(config.data, "validation")
    figures: dict[str, list[float]] = {}
    indices = np.linspace(0, len(nodules) - 1, min(config.lesions, len(nodules))).astype(int)
    for index in tqdm(indices, "crops"):
        row = read_nodule(nodules, int(index))
        original, mask = to_norm(row["ct_hu"].astype(np.float32), *window), row["lesion_mask"] > 0
        spacing_mm = tuple(float(mm) for mm in row["spacing_mm"])
        made = reconstruct(vae, original)
        found = reconstruction_figures(original, made, row["valid_mask"], mask, window, spacing_mm)
        found["mottle_hu"] = mottle_hu(vae, original, mask, window[0], int(index))
        for name, value in found.items():
            figures.setdefault(name, []).append(value)
    cells = vae.config["latent_channels"] / vae.factor**3
    return {
        "minutes": read_progress(run / "checkpoint").seconds / 60,
        "numbers a voxel": cells,
        "PSNR [dB]": float(np.mean(figures["psnr_db"])),
        "lesion error [HU]": float(np.mean(figures["hu_mae_lesion"])),
        "lesion bias [HU]": float(np.mean(figures["hu_bias_lesion"])),
        "power 0.2-0.35 per mm": median_of(figures, "noise_power_ratio_fine"),
        "power 0.35-0.5 per mm": median_of(figures, "noise_power_ratio_finest"),
        f"HU of a latent error of {LATENT_ERROR:g}": float(np.mean(figures["mottle_hu"])),
    }


def median_of(figures: Mapping[str, list[float]], name: str) -> float | None:
    """Over the crops that have it."""
    return float(np.median(figures[name])) if name in figures else None


@torch.no_grad()
def mottle_hu(vae: Any, original: np.ndarray, mask: np.ndarray, width_hu: float, seed: int) -> float:
    """Standard deviation inside the lesion of what a small error of the latent does to the image, HU."""
    crop = torch.from_numpy(original)[None, None]
    latent = standardise(vae.encode(crop).latent_dist.mode(), vae.config)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    clean, noisy = (
        vae.decode(unstandardise(each, vae.config)).sample for each in (latent, latent + LATENT_ERROR * noise)
    )
    return float((noisy - clean)[0, 0][torch.from_numpy(mask)].std()) * width_hu / 2


def judged_ldm(config: SearchConfig, folder: Path, choice: Mapping[str, str]) -> dict[str, float]:
    """Train one, inpaint held-out masks, and hold the lesions against real ones of other patients."""
    given = {"data": config.latents, "vae": config.vae, **choice}
    run = trained("train_ldm", config, "ldm_1.yaml", folder, given, "pipeline")
    last = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        last |= json.loads(line)
    made = folder / "lesions"
    if not made.exists():
        load_and_make_set(
            SyntheticSetConfig(
                data=config.data,
                split="validation",
                lesions=config.lesions,
                pipeline=str(run / "pipeline"),
                draw_appearance=False,  # which would help the weak ones most
                out=made,
            )
        )
    real = measure_features(load_lesions(config.data, "validation")[0], "real", 1)[0]
    synthetic = measure_features(load_lesions(made, "validation")[0], "synthetic", 1)[0]
    metrics = [metric for metric in set_metrics(real) if metric.name in DISTANCES]
    rows, _ = distance_rows("synthetic", real, synthetic, metrics, 200, 1, 0)
    progress = read_progress(run / "checkpoint")
    figures = {"minutes": progress.seconds / 60, "validation loss": last["validation_loss"]}
    figures["lesion bias [HU]"] = last["lesion_hu_bias"]
    return figures | {f"{row.metric}, ratio": row.ratio for row in rows if row.ratio is not None}


if __name__ == "__main__":
    launch(main, parse_config(SearchConfig))
