"""Paint a lesion into a chest phantom: no data, no network.

uv run scripts/demo.py
uv run scripts/demo.py --ct DICOM_FOLDER_OR_NIFTI    # into your own scan
uv run scripts/demo.py --train true                  # first train on phantom nodules; two minutes
With --train true, every step of a real training runs. But the models are far too small and the training too short for a
realistic lesion.
"""

from dataclasses import dataclass
from pathlib import Path

from diffusion.option_types import ShapeKind
from foundation.config import SHIPPED_PIPELINE, ExistingPath, ModelSource, OutputFolder, Seed, launch, read_arguments


@dataclass(frozen=True)
class DemoConfig:
    """The demo.

    Attributes:
        out: Folder for all results. Run the demo again to continue its trainings.
        ct: Scan, a DICOM folder or a NIfTI file; null makes a chest phantom.
        pipeline: Folder or Hugging Face Hub repository of the pipeline, or the name of a shipped one.
        train: Train a small pipeline on phantom nodules, and use it instead.
        diameter_mm: Diameter of the lesion.
        shape: "real", the outline of a real nodule, or "procedural".
        seed: Seed of the phantom, the place and the lesion.
        nodules: With train, number of phantom nodules.
        crop_size: With train, edge of their crops in voxels.
        spacing_mm: With train, spacing of the crops and of the pipeline's grid.
        vae_steps: With train, training steps of the autoencoder.
        ldm_steps: With train, training steps of the diffusion model.
    """

    out: OutputFolder = Path("outputs/demo")
    ct: ExistingPath | None = None
    pipeline: ModelSource = SHIPPED_PIPELINE
    train: bool = False
    diameter_mm: float = 18.0
    shape: ShapeKind = "real"
    seed: Seed = 1
    nodules: int = 60
    crop_size: int = 32
    spacing_mm: float = 1.5
    vae_steps: int = 300
    ldm_steps: int = 200


ARGUMENTS = read_arguments(DemoConfig, __name__)

from foundation.command import run_script


def main(config: DemoConfig) -> None:
    """A scan, and a lesion at a site in its lung."""
    options = {
        "ct": config.ct or phantom_scan(config),
        "pipeline": trained_on_phantoms(config) if config.train else config.pipeline,
        "out": config.out / "result",
        "site": "free",
        "diameter_mm": config.diameter_mm,
        "shape": config.shape,
        "seed": config.seed,
    }
    run_script("inpaint", options)  # which ends this process and says where the picture is


def phantom_scan(config: DemoConfig) -> Path:
    """A chest phantom with two nodules of its own, as a file."""
    from imaging.files.ct import write_ct
    from imaging.phantom.chest import chest_phantom, phantom_image

    path = config.out / "scan.nii.gz"
    write_ct(phantom_image(chest_phantom((96, 160, 160), (2.5, 2.0, 2.0), n_nodules=2, seed=config.seed)), path)
    return path


def trained_on_phantoms(config: DemoConfig) -> Path:
    """Phantom nodules -> autoencoder -> latents -> diffusion model; the folder of its pipeline."""
    from imaging.dataset.nodules import save_nodule_dataset
    from imaging.phantom.chest import phantom_nodules

    data, vae, latents, ldm = (config.out / name for name in ("nodules", "vae", "latents", "ldm"))
    if not data.exists():
        nodules = phantom_nodules(config.nodules, config.crop_size, config.spacing_mm)
        save_nodule_dataset(nodules, data, config.crop_size)
    train_vae = {
        "data": data,
        "out": vae,
        "model.channels": (16, 48),
        "model.blocks_per_level": 1,
        "steps": config.vae_steps,
        "learning_rate": 2e-3,
        "ema_decay": 0.98,
        "evaluate_every": config.vae_steps,
    }
    run_script("train_vae", train_vae)
    if not latents.exists():
        run_script("encode_latents", {"data": data, "vae": vae / "model", "out": latents})
    train_ldm = {
        "data": latents,
        "vae": vae / "model",
        "out": ldm,
        "model.channels": (32, 64),
        "model.blocks_per_level": 1,
        "model.map_channels": 16,
        "batch_size": 8,
        "steps": config.ldm_steps,
        "learning_rate": 1e-3,
        "ema_decay": 0.98,
        "evaluate_every": config.ldm_steps,
    }
    run_script("train_ldm", train_ldm)
    return ldm / "pipeline"


if __name__ == "__main__":
    launch(main, ARGUMENTS)
