"""Encode a prepared dataset with a trained autoencoder: from a folder, a Hub repository, or a service.

python scripts/encode_latents.py --data data/nodules --vae runs/vae/model --out data/latents
python scripts/encode_latents.py --data data/nodules --vae http://127.0.0.1:8000 --out data/latents
Training rows are encoded under all eight flips (a flip of the latent is not the latent of the flip).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
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
        flips: Encode the training split under all eight flips, otherwise as it is.
        device: "auto", "cpu" or "cuda".
    """

    data: ExistingFolder
    vae: ModelSource
    out: Path
    flips: bool = True
    device: str = "auto"


ARGUMENTS = read_arguments(EncodeConfig, __name__)

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from autoencoder.latent_dataset import latent_features, save_latent_dataset
from autoencoder.latents import measured_statistics, standardise
from autoencoder.loading import autoencoder_folder, load_autoencoder
from diffusion.conditioning import blank_lesion
from foundation.atomic import write_atomically
from foundation.device import torch_device
from imaging.dataset.nodules import RATINGS, crop_size_of, load_nodules, read_nodule
from imaging.window import to_norm

AXES = "zyx"
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

    flips = ["".join(axes) for count in range(4) for axes in combinations(AXES, count)] if config.flips else [""]
    latent_shape = vae.latent_shape((1, 1, crop_size, crop_size, crop_size))[1:]
    rows = encoded_rows(splits, vae, flips, device)
    save_latent_dataset(rows, config.out, latent_features(latent_shape, crop_size))
    print(f"encoded dataset: {config.out}")


def store_statistics(vae: Any, source: str, nodules: Dataset) -> None:
    """Measure the latents' mean and standard deviation on the nodules and write them into the folder's config.

    Raises: ValueError: If the autoencoder is in no local folder.
    """
    if not Path(source).is_dir():
        raise ValueError(f"{source}: has no latent statistics and is no folder to store them in; download it")
    crops = (
        _tensors(read_nodule(nodules, index), "", vae)[0]
        for index in tqdm(range(len(nodules)), desc="latent statistics")
    )
    mean, std = measured_statistics(vae, crops)
    vae.register_to_config(latents_mean=mean, latents_std=std)
    config = autoencoder_folder(source) / vae.config_name
    write_atomically(config, lambda temporary: temporary.write_text(vae.to_json_string()))
    print("latents_mean", np.round(mean, 3), "latents_std", np.round(std, 3))


def encoded_rows(splits: dict[str, Dataset], vae: Any, flips: list[str], device) -> Iterator[dict]:
    """Rows of the encoded dataset: every training nodule under every flip, validation nodules as they are."""
    for split, nodules in splits.items():
        for index in tqdm(range(len(nodules)), desc=f"encoding {split}"):
            nodule = read_nodule(nodules, index)
            for flip in flips if split == "train" else [""]:
                ct_norm, lesion_mask = _tensors(nodule, flip, vae)
                both = torch.cat([ct_norm, blank_lesion(ct_norm, lesion_mask)]).to(device)
                posterior = vae.encode(both).latent_dist
                std = posterior.std[0].cpu() / torch.tensor(vae.config["latents_std"])[:, None, None, None]
                latents = standardise(posterior.mean, vae.config).cpu().numpy()
                yield {
                    **{name: nodule[name] for name in COPIED},
                    **{name: _flip(nodule[name], flip) for name in ("ct_hu", "lesion_mask", "valid_mask")},
                    "flips": flip,
                    "latent_mean": latents[0],
                    "latent_std": std.numpy(),
                    "blanked_latent": latents[1],
                }


def _flip(volume: np.ndarray, flip: str) -> np.ndarray:
    return np.flip(volume, [AXES.index(axis) for axis in flip]).copy()


def _tensors(nodule: dict, flip: str, vae: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """ct_norm and lesion_mask, (1, 1, S, S, S)."""
    window = (vae.config["window_width"], vae.config["window_level"])
    ct_norm = to_norm(_flip(nodule["ct_hu"], flip).astype(np.float32), *window)
    return torch.from_numpy(ct_norm)[None, None], torch.from_numpy(_flip(nodule["lesion_mask"], flip))[None, None]


if __name__ == "__main__":
    launch(main, ARGUMENTS)
