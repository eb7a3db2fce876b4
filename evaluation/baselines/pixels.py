"""The dataset of methods that work on voxels, "encoded" by an autoencoder that changes nothing."""

from pathlib import Path

from autoencoder.identity import IdentityAutoencoder
from autoencoder.latent_dataset import load_latents, read_latent
from autoencoder.loading import load_autoencoder
from evaluation.baselines.config import BaselinesConfig
from foundation.atomic import recover, write_atomically
from foundation.claimed_folder import claim_file
from foundation.command import run_script, script_settings
from imaging.window import WINDOW_LEVEL, WINDOW_WIDTH


def pixel_folder(config: BaselinesConfig) -> Path:
    """The identity autoencoder and what it "encodes"."""
    return config.out / "pixel"


def prepare_pixels(config: BaselinesConfig) -> None:
    """Make the identity autoencoder and its encoded dataset, with the window and the margin of the latents.

    Its latents are ct_norm as it is, [-1, 1]. So the losses of the texture-loss proposal have the same relative size as
    there.
    """
    folder, window = pixel_folder(config), (WINDOW_WIDTH, WINDOW_LEVEL)
    variants = dict.fromkeys(("variants", "variants_in_context"), config.pixel_variants)
    encoding = {
        "data": config.data,
        "vae": folder / "model",
        "out": folder / "latents",
        "seed": config.seed,
        **variants,
    }
    if config.vae is not None and config.latents is not None:
        own = load_autoencoder(config.vae).config
        window = (own["window_width"], own["window_level"])
        encoding["paint_margin_mm"] = float(read_latent(load_latents(config.latents, "train"), 0)["paint_margin_mm"])
    vae = {"window_width": window[0], "window_level": window[1], "latents_mean": [0.0], "latents_std": [1.0]}
    resolved = script_settings("encode_latents", encoding)
    settings = vae | {name: resolved[name] for name in ("data", "variants", "paint_margin_mm", "seed")}
    claim_file(folder / "settings.json", settings, f"{folder} and the methods that were trained on it")
    for part in ("model", "latents"):
        recover(folder / part)
    if not (folder / "model").exists():
        write_atomically(folder / "model", IdentityAutoencoder(**vae).save_pretrained)
    if not (folder / "latents").exists():
        run_script("encode_latents", encoding)
