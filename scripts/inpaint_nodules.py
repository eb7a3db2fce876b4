"""Inpaint a new lesion into every mask of a prepared dataset, as a prepared dataset of its own.

python scripts/inpaint_nodules.py --data data/nodules --split test --pipeline runs/ldm/pipeline --out data/synthetic
What scripts/evaluate.py compares with the real lesions, and what augments a training set.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from diffusion import LesionInpaintPipeline
from foundation.config import launch
from imaging.dataset.nodules import (
    RATINGS,
    check_output,
    crop_size_of,
    load_nodules,
    nodule_features,
    read_nodule,
    save_nodule_dataset,
)
from training.draws import generator


@dataclass(frozen=True)
class InpaintNodulesConfig:
    """What to inpaint.

    Attributes:
        data: Prepared dataset that gives scans and masks.
        pipeline: Folder or Hugging Face Hub repository of the pipeline.
        out: Prepared dataset to create; its rows keep their split.
        split: "train" or "test".
        samples: Lesions for each mask; with more than one, sample k of a nodule is called <nodule>_seed<k>.
        attributes: Wanted character, for example `--attributes.malignancy malignant`.
        classifier_scale: Strength of the guide.
        steps: Denoising steps.
        batch_size: Lesions at a time.
        seed: Lesion k of a nodule depends on the seed, its row and k alone.
        revision: Branch, tag or commit of a Hub repository.
        device: "auto", "cpu" or "cuda".
    """

    data: Path
    pipeline: str
    out: Path
    split: str = "test"
    samples: int = 1
    attributes: dict[str, str] = field(default_factory=dict)
    classifier_scale: float = 1.0
    steps: int = 50
    batch_size: int = 8
    seed: int = 0
    revision: str | None = None
    device: str = "auto"


def main(config: InpaintNodulesConfig) -> None:
    """Load, inpaint batch by batch, write."""
    if config.samples < 1 or config.batch_size < 1:
        raise ValueError(f"samples {config.samples}, batch_size {config.batch_size}: expected at least 1 of each")
    check_output(config.out)
    nodules = load_nodules(config.data, config.split)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    pipeline = LesionInpaintPipeline.from_pretrained(config.pipeline, revision=config.revision).to(device)
    pipeline.set_progress_bar_config(disable=True)

    def rows() -> Iterator[dict]:
        wanted = [(index, sample) for index in range(len(nodules)) for sample in range(config.samples)]
        for first in tqdm(range(0, len(wanted), config.batch_size), desc="batches"):
            batch = wanted[first : first + config.batch_size]
            yield from inpainted(pipeline, [read_nodule(nodules, index) for index, _ in batch], batch, config)

    save_nodule_dataset(rows(), config.out, crop_size_of(nodules))
    print(f"synthetic lesions: {config.out}")


def inpainted(
    pipeline: LesionInpaintPipeline, rows: list[dict], numbers: list[tuple[int, int]], config: InpaintNodulesConfig
) -> Iterator[dict]:
    """The rows with their lesions replaced; `numbers` are (row of the dataset, sample)."""
    ct_hu, lesion_mask = (np.stack([row[name] for row in rows])[:, None] for name in ("ct_hu", "lesion_mask"))
    seeds = [int(generator(config.seed, "noise", config.samples * i + k).integers(2**62)) for i, k in numbers]
    result = pipeline(
        ct_hu,
        lesion_mask,
        attributes=config.attributes or None,
        classifier_scale=config.classifier_scale,
        num_inference_steps=config.steps,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        spacing_mm=np.stack([row["spacing_mm"] for row in rows]),
    ).ct
    columns = set(nodule_features(1))
    for row, volume, (_, sample) in zip(rows, result, numbers, strict=True):
        name = row["nodule_id"] if config.samples == 1 else f"{row['nodule_id']}_seed{sample}"
        kept = {key: value for key, value in row.items() if key in columns}
        kept |= {rating: None if np.isnan(row[rating]) else row[rating] for rating in RATINGS}
        yield kept | {"nodule_id": name, "ct_hu": volume[0], "source": f"{row['source']}, inpainted"}


if __name__ == "__main__":
    launch(main, InpaintNodulesConfig)
