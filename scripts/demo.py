"""Paint a lesion into a chest phantom: no data, no network.

uv run scripts/demo.py
uv run scripts/demo.py --ct DICOM_FOLDER_OR_NIFTI    # into your own scan
uv run scripts/demo.py --train true                  # first train on phantom nodules; two minutes
With --train true, every step of a real training runs. But the models are far too small and the training too short for a
realistic lesion.
"""

from dataclasses import dataclass
from pathlib import Path

from foundation.config import SHIPPED_PIPELINE, ExistingPath, ModelSource, launch, read_arguments


@dataclass(frozen=True)
class DemoConfig:
    """The demo.

    Attributes:
        out: Folder for all results. Run the demo again to continue its trainings.
        ct: Scan, a DICOM folder or a NIfTI file; null makes a chest phantom.
        pipeline: Folder or Hugging Face Hub repository of the pipeline, or the name of a shipped one.
        train: Train a small pipeline on phantom nodules, and use it instead.
        diameter_mm: Diameter of the lesion.
        seed: Seed of the phantom, the place and the lesion.
        nodules: With train, number of phantom nodules.
        crop_size: With train, edge of their crops in voxels.
        spacing_mm: With train, spacing of the crops and of the pipeline's grid.
        vae_steps: With train, training steps of the autoencoder.
        ldm_steps: With train, training steps of the diffusion model.
    """

    out: Path = Path("outputs/demo")
    ct: ExistingPath | None = None
    pipeline: ModelSource = SHIPPED_PIPELINE
    train: bool = False
    diameter_mm: float = 18.0
    seed: int = 1
    nodules: int = 60
    crop_size: int = 32
    spacing_mm: float = 1.5
    vae_steps: int = 300
    ldm_steps: int = 200


ARGUMENTS = read_arguments(DemoConfig, __name__)

import inpaint

from imaging.files.ct import read_ct, write_ct
from imaging.geometry import index_of_point
from imaging.lesions.sites import find_lesion_sites
from imaging.phantom.chest import chest_phantom, phantom_image


def main(config: DemoConfig) -> None:
    """A scan, a site in its lung, and the lesion."""
    pipeline = trained_on_phantoms(config) if config.train else config.pipeline
    path = config.ct or phantom_scan(config)
    scan = read_ct(path)
    site = find_lesion_sites(scan, config.diameter_mm, 1, seed=config.seed)[0]
    out = config.out / "result"
    inpaint.main(
        inpaint.InpaintConfig(
            ct=path,
            pipeline=pipeline,
            out=out,
            center=index_of_point(scan, site),
            diameter_mm=config.diameter_mm,
            seed=config.seed,
        )
    )
    print(f"look at {out / 'overview.png'}")


def phantom_scan(config: DemoConfig) -> Path:
    """A chest phantom with two nodules of its own, as a file."""
    path = config.out / "scan.nii.gz"
    write_ct(phantom_image(chest_phantom((96, 160, 160), (2.5, 2.0, 2.0), n_nodules=2, seed=config.seed)), path)
    return path


def trained_on_phantoms(config: DemoConfig) -> str:
    """Phantom nodules -> autoencoder -> latents -> diffusion model; the folder of its pipeline."""
    import encode_latents
    import train_ldm
    import train_vae

    from imaging.dataset.nodules import save_nodule_dataset
    from imaging.phantom.chest import phantom_nodules

    out, data, latents = config.out, config.out / "nodules", config.out / "latents"
    if not data.exists():
        save_nodule_dataset(
            phantom_nodules(config.nodules, config.crop_size, config.spacing_mm), data, config.crop_size
        )
    train_vae.main(
        train_vae.VaeConfig(
            data=data,
            out=out / "vae",
            model=train_vae.ModelConfig(channels=(16, 48), blocks_per_level=1),
            steps=config.vae_steps,
            learning_rate=2e-3,
            ema_decay=0.98,
            evaluate_every=config.vae_steps,
        )
    )
    if not latents.exists():
        encode_latents.main(encode_latents.EncodeConfig(data=data, vae=str(out / "vae/model"), out=latents))
    train_ldm.main(
        train_ldm.LdmConfig(
            data=latents,
            vae=str(out / "vae/model"),
            out=out / "ldm",
            model=train_ldm.UNetConfig(channels=(32, 64), blocks_per_level=1, map_channels=16),
            batch_size=8,
            steps=config.ldm_steps,
            learning_rate=1e-3,
            ema_decay=0.98,
            evaluate_every=config.ldm_steps,
        )
    )
    return str(out / "ldm/pipeline")


if __name__ == "__main__":
    launch(main, ARGUMENTS)
