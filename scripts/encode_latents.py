"""Encode a prepared dataset with a trained autoencoder.

uv run scripts/encode_latents.py --data data/nodules --vae runs/vae/model --out data/latents
uv run scripts/encode_latents.py --data data/nodules --vae http://127.0.0.1:8000 --out data/latents
Training nodules are encoded in several variants (imaging/dataset/variants.py): flipped and turned, with unknown
surroundings, with another painted region.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.config import ExistingFolder, ModelSource, launch, read_arguments


@dataclass(frozen=True)
class EncodeConfig:
    """Encoding.

    Attributes:
        data: Prepared dataset.
        vae: Folder, repository or URL of the trained autoencoder. If a folder's config has no latents_mean and
            latents_std yet, they are measured on the training split and stored there.
        out: Encoded dataset to create.
        variants: Variants of each training nodule whose crop reaches outside its scan; the first is the nodule itself.
        variants_in_context: Variants of each training nodule whose crop lies inside its scan. They teach the
            surroundings; such nodules are rare in data sets of boxes around lesions.
        paint_margin_mm: Margin around the lesion that is blanked and painted.
        seed: Seed of the variants.
        device: "auto", "cpu" or "cuda".
    """

    data: ExistingFolder
    vae: ModelSource
    out: Path
    variants: int = 8
    variants_in_context: int = 8
    paint_margin_mm: float = 3.0
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.variants < 1 or self.variants_in_context < 1 or not 0 <= self.paint_margin_mm < 20:
            raise ValueError(
                f"variants {self.variants}, variants_in_context {self.variants_in_context}, paint_margin_mm "
                f"{self.paint_margin_mm}: expected at least 1 of each, and a margin from 0 to 20 mm"
            )


ARGUMENTS = read_arguments(EncodeConfig, __name__)

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from autoencoder.latent_dataset import latent_features, save_latent_dataset
from autoencoder.latents import measured_statistics, standardise
from autoencoder.loading import autoencoder_folder, load_autoencoder
from diffusion.conditioning import blank
from foundation.atomic import write_atomically
from foundation.device import torch_device
from foundation.draws import generator
from imaging.dataset.nodules import RATINGS, crop_size_of, load_nodules, read_nodule
from imaging.dataset.variants import SYMMETRIES, nodule_variant, usual_variant
from imaging.lesions.measured_attributes import measured_attributes
from imaging.semantic_map import inpainting_map
from imaging.window import to_norm

MOST_VARIANTS = 10_000
COPIED = ("nodule_id", "patient_id", "source", "split", "spacing_mm", "diameter_mm", *RATINGS)


@torch.no_grad()
def main(config: EncodeConfig) -> None:
    """Encode the splits that trainings see, standardised by the autoencoder's statistics, measured if missing."""
    if config.out.exists():
        raise ValueError(f"{config.out}: exists already; choose another --out or delete it")
    device = torch_device(config.device)
    splits = {split: load_nodules(config.data, split) for split in ("train", "validation")}
    vae = load_autoencoder(config.vae).to(device)
    crop_size = crop_size_of(splits["train"])
    if crop_size % vae.factor:
        raise ValueError(f"{config.data}: crops of {crop_size} voxels, expected a multiple of the factor {vae.factor}")

    if vae.config.get("latents_mean") is None:
        store_statistics(vae, config.vae, splits["train"])

    latent_shape = vae.latent_shape((1, 1, crop_size, crop_size, crop_size))[1:]
    rows = encoded_rows(splits, vae, config, device)
    save_latent_dataset(rows, config.out, latent_features(latent_shape, crop_size))
    print(f"encoded dataset: {config.out}")


def store_statistics(vae: Any, source: str, nodules: Dataset) -> None:
    """Measure the latents' mean and standard deviation on the nodules and write them into the folder's config.

    Raises: ValueError: If the autoencoder is in no local folder.
    """
    if not Path(source).is_dir():
        raise ValueError(f"{source}: has no latent statistics and is no folder to store them in; download it")
    crops = (
        _tensor(read_nodule(nodules, index)["ct_hu"], vae)
        for index in tqdm(range(len(nodules)), desc="latent statistics")
    )
    mean, std = measured_statistics(vae, crops)
    vae.register_to_config(latents_mean=mean, latents_std=std)
    config = autoencoder_folder(source) / vae.config_name
    write_atomically(config, lambda temporary: temporary.write_text(vae.to_json_string()))
    print("latents_mean", np.round(mean, 3), "latents_std", np.round(std, 3))


def encoded_rows(splits: dict[str, Dataset], vae: Any, config: EncodeConfig, device) -> Iterator[dict]:
    """Rows of the encoded dataset: training nodules in their variants, validation nodules as they are."""
    for split, nodules in splits.items():
        for index in tqdm(range(len(nodules)), desc=f"encoding {split}"):
            nodule = read_nodule(nodules, index)
            for number, variant in variants_of(nodules, index, nodule, config):
                yield {
                    **{name: nodule[name] for name in COPIED},
                    **variant,
                    **measured_attributes(variant["ct_hu"], variant["lesion_mask"]),
                    **encoded(vae, variant["ct_hu"], variant["paint_mask"], device),
                    "semantic_map": inpainting_map(
                        *(variant[name] for name in ("ct_hu", "lesion_mask", "paint_mask")),
                        nodule["spacing_mm"],
                        variant["valid_mask"],
                        None if np.isnan(nodule["malignancy"]) else nodule["malignancy"],
                    ),
                    "variant": number,
                    "paint_margin_mm": config.paint_margin_mm,
                }


def variants_of(
    nodules: Dataset, index: int, nodule: dict[str, Any], config: EncodeConfig
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(number, arrays) of a nodule's variants; each depends on the seed, the nodule's row and its number alone."""
    yield 0, usual_variant(nodule, config.paint_margin_mm)
    if nodule["split"] != "train":
        return
    count = config.variants_in_context if nodule["valid_mask"].all() else config.variants
    turns = generator(config.seed, "order", index).permutation(len(SYMMETRIES))
    for number in range(1, count):
        random = generator(config.seed, "augmentation", index * MOST_VARIANTS + number)
        foreign = read_nodule(nodules, int(random.integers(len(nodules))))["lesion_mask"]
        symmetry = SYMMETRIES[turns[number % len(turns)]]
        yield number, nodule_variant(nodule, symmetry, random, config.paint_margin_mm, foreign)


def encoded(vae: Any, ct_hu: np.ndarray, paint_mask: np.ndarray, device: torch.device) -> dict[str, np.ndarray]:
    """Posterior of a crop and of the blanked crop, standardised, each (C, d, h, w)."""
    ct_norm = _tensor(ct_hu, vae)
    blanked = blank(ct_norm, torch.from_numpy(paint_mask)[None, None])
    posterior = vae.encode(torch.cat([ct_norm, blanked]).to(device)).latent_dist
    std = posterior.std[0].cpu() / torch.tensor(vae.config["latents_std"])[:, None, None, None]
    mean = standardise(posterior.mean, vae.config).cpu().numpy()
    return {"latent_mean": mean[0], "latent_std": std.numpy(), "blanked_latent": mean[1]}


def _tensor(ct_hu: np.ndarray, vae: Any) -> torch.Tensor:
    """ct_norm, (1, 1, S, S, S)."""
    window = (vae.config["window_width"], vae.config["window_level"])
    return torch.from_numpy(to_norm(ct_hu.astype(np.float32), *window))[None, None]


if __name__ == "__main__":
    launch(main, ARGUMENTS)
