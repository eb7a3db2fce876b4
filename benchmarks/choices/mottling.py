"""How uneven large solid lesions are inside: real ones, encoded and decoded, and painted in their own masks.

    uv run benchmarks/choices/mottling.py --data data/joined --out runs/mottling \\
        --pipelines shipped=lung-nodule-small,first=runs/shipped/ldm_1/pipeline

Every solid lesion of the split that has a core (`core_deviation`) is painted in its own mask as if its own appearance
had been drawn: its texture and HU are the attributes, and the mean is met, so that all are compared at one density.
Results: mottling.md.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from tqdm import tqdm

from autoencoder.pretrained import resolve_folder
from diffusion import LesionInpaintPipeline
from diffusion.population import APPEARANCE, LesionPopulation
from evaluation.autoencoders.reconstruction import reconstruct
from evaluation.lesions.hu_and_seam import core_deviation
from evaluation.script_checks import named_sources
from foundation.atomic import write_atomically
from foundation.config import ExistingFolder, MustExist, launch, parse_config
from foundation.document import Table, to_markdown
from imaging.dataset.nodules import load_nodules, read_nodule
from imaging.lesions.measured_attributes import measured_attributes
from imaging.window import to_hu, to_norm


@dataclass(frozen=True, kw_only=True)
class MottlingConfig:
    """What to paint.

    Attributes:
        data: Prepared dataset.
        out: Folder for the table.
        pipelines: name=DIR,name=DIR.
        split: Of the lesions.
        time_shifts: Each is a column.
        steps: Denoising steps.
    """

    data: ExistingFolder
    out: Path
    pipelines: Annotated[str, MustExist("folder", or_remote=True, listed=True)]
    split: str = "validation"
    time_shifts: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3)
    steps: int = 16


def main(config: MottlingConfig) -> None:
    """Paint, measure, write."""
    pipelines = named_sources("--pipelines", config.pipelines)
    lesions = [(row, value) for row in rows_of(config) if (value := deviation_of(row["ct_hu"], row)) is not None]
    shifts = [f"painted, shift {shift:g}" for shift in config.time_shifts]
    header = ["pipeline", "error of the reconstruction [HU]", "reconstructed", *shifts]
    rows = []
    for name, source in pipelines.items():
        pipe = LesionInpaintPipeline.from_pretrained(resolve_folder(source))
        pipe.set_progress_bar_config(disable=True)
        window = (pipe.vae.config["window_width"], pipe.vae.config["window_level"])
        decoded = [(row, to_hu(reconstruct(pipe.vae, to_norm(row["ct_hu"], *window)), *window)) for row, _ in lesions]
        error = np.mean([np.abs(made - row["ct_hu"])[row["lesion_mask"] > 0].mean() for row, made in decoded])
        cells = [f"{error:.1f}", mean_deviation(decoded)]
        for shift in config.time_shifts:
            made = [
                (row, painted(pipe, row, shift, config.steps)) for row, _ in tqdm(lesions, f"{name}, shift {shift:g}")
            ]
            cells.append(mean_deviation(made))
        rows.append([name, *cells])
    real = [value for _, value in lesions]
    text = f"{len(lesions)} lesions; real ones: {np.mean(real):.1f} HU, median {np.median(real):.1f}\n\n"
    text += to_markdown([Table(header, rows)])
    write_atomically(config.out / "mottling.md", lambda path: path.write_text(text))
    print(text)


def rows_of(config: MottlingConfig) -> list[dict[str, Any]]:
    """The split's nodules."""
    nodules = load_nodules(config.data, config.split)
    return [read_nodule(nodules, index) for index in range(len(nodules))]


def deviation_of(ct_hu: np.ndarray, row: dict[str, Any]) -> float | None:
    """Core deviation of a volume in this nodule's mask."""
    return core_deviation(ct_hu, row["lesion_mask"], row["spacing_mm"])


def mean_deviation(made: list[tuple[dict[str, Any], np.ndarray]]) -> str:
    """Mean core deviation, HU, and of how many lesions: those that came out solid."""
    values = [value for row, ct_hu in made if (value := deviation_of(ct_hu, row)) is not None]
    return f"{np.mean(values):.1f} (of {len(values)})" if values else "none"


def painted(pipe: LesionInpaintPipeline, row: dict[str, Any], time_shift: float, steps: int) -> np.ndarray:
    """The lesion of one mask as if its real one had been drawn, without the scan's noise, HU."""
    known = measured_attributes(row["ct_hu"], row["lesion_mask"]) | {"texture": row["texture"]}
    names = [name for name in pipe.unet.config["attributes"] if name in APPEARANCE]
    own = torch.tensor([[float(known[name]) for name in names]])
    pipe.register_modules(population=LesionPopulation.of(names, torch.ones(1), own))
    ct_hu, lesion_mask, valid_mask = (row[name][None, None] for name in ("ct_hu", "lesion_mask", "valid_mask"))
    return pipe(
        ct_hu.astype(np.float32),
        lesion_mask,
        valid_mask=valid_mask,
        time_shift=time_shift,
        match_noise=False,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(0),
    ).ct[0, 0]


if __name__ == "__main__":
    launch(main, parse_config(MottlingConfig))
