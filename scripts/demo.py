"""The main job from beginning to end on a chest phantom: no data, no network, under three minutes on two cores.

uv run scripts/demo.py
Trains a small autoencoder and a small diffusion model on phantom nodules, then inpaints a lesion into a phantom scan.
The models are far too small and too briefly trained to look real; everything else is the real thing.
"""

from dataclasses import dataclass
from pathlib import Path

from foundation.config import launch, read_arguments


@dataclass(frozen=True)
class DemoConfig:
    """The demo.

    Attributes:
        out: Folder for everything it makes; the trainings in it are continued when it is run again.
        nodules: Phantom nodules to train on.
        crop_size: Edge of the crops in voxels.
        spacing_mm: Of the crops and of the model's grid.
        vae_steps: Training steps of the autoencoder.
        ldm_steps: Training steps of the diffusion model.
        diameter_mm: Of the lesion.
        seed: Of the scan and the lesion.
    """

    out: Path = Path("outputs/demo")
    nodules: int = 60
    crop_size: int = 32
    spacing_mm: float = 1.5
    vae_steps: int = 300
    ldm_steps: int = 200
    diameter_mm: float = 18.0
    seed: int = 1


ARGUMENTS = read_arguments(DemoConfig, __name__)

import encode_latents
import inpaint
import train_ldm
import train_vae

from imaging.dataset.nodules import save_nodule_dataset
from imaging.files.ct import write_ct
from imaging.geometry import index_of_point
from imaging.lesions.sites import find_lesion_sites
from imaging.phantom.chest import chest_phantom, phantom_image, phantom_nodules


def main(config: DemoConfig) -> None:
    """Phantom nodules -> autoencoder -> latents -> diffusion model -> a lesion in a phantom scan."""
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
    phantom = chest_phantom((96, 160, 160), (2.5, 2.0, 2.0), n_nodules=2, seed=config.seed)
    scan = phantom_image(phantom)
    write_ct(scan, out / "scan.nii.gz")
    site = find_lesion_sites(scan, config.diameter_mm, 1, seed=config.seed)[0]
    inpaint.main(
        inpaint.InpaintConfig(
            ct=out / "scan.nii.gz",
            pipeline=str(out / "ldm/pipeline"),
            out=out / "result",
            center=index_of_point(scan, site),
            diameter_mm=config.diameter_mm,
            seed=config.seed,
        )
    )
    print(f"look at {out / 'result/overview.png'}; the scan with the lesion is {out / 'result/ct.nii.gz'}")


if __name__ == "__main__":
    launch(main, ARGUMENTS)
