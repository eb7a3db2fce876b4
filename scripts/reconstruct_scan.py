"""Encode and decode a whole scan, tile by tile, to see what stage 1 keeps of it.

uv run scripts/reconstruct_scan.py --ct DICOM_FOLDER_OR_NIFTI --vae runs/vae/model --out outputs/reconstruction
Writes the reconstruction on the scan's own grid (ct.nii.gz), the latent (latent.safetensors) and a picture
(overview.png), and prints the error in the body.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.networks.presets import TILE_CELLS
from foundation.config import ExistingPath, ModelSource, OutputFolder, launch, read_arguments


@dataclass(frozen=True)
class ReconstructConfig:
    """What to reconstruct.

    Attributes:
        ct: DICOM folder, NIfTI or MetaImage file.
        vae: Folder or repository of the autoencoder.
        out: Folder for the results.
        tile_cells: Edge of a tile without its margin, latent cells; smaller tiles need less memory and more time.
        series_uid: The DICOM series to read, if a folder has several.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads; null takes the default of `foundation.threads`.
    """

    ct: ExistingPath
    vae: ModelSource
    out: OutputFolder
    tile_cells: int = TILE_CELLS
    series_uid: str | None = None
    device: str = "auto"
    threads: int | None = None


ARGUMENTS = read_arguments(ReconstructConfig, __name__)

import numpy as np
import SimpleITK as sitk
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from autoencoder.loading import load_autoencoder
from autoencoder.tiling import decode_volume, encode_volume
from evaluation.reports.slices import save_slices
from foundation.atomic import write_atomically
from foundation.device import torch_device
from imaging.dataset.nodules import AIR_HU
from imaging.dataset.scan_volumes import body_box
from imaging.files.ct import read_ct, write_ct
from imaging.window import to_hu, to_norm


def main(config: ReconstructConfig) -> None:
    """Read, encode, decode, write."""
    vae = load_autoencoder(config.vae).to(torch_device(config.device))
    window = (vae.config["window_width"], vae.config["window_level"])
    ct = read_ct(config.ct, config.series_uid)
    ct_hu = np.maximum(sitk.GetArrayFromImage(ct), AIR_HU).astype(np.float32)  # as in training: no scanner's padding
    ct_norm = to_norm(ct_hu, *window)
    latent = encode_volume(vae, padded(torch.from_numpy(ct_norm), vae.factor), config.tile_cells)
    made = decode_volume(vae, latent, config.tile_cells)[0, 0, *[slice(0, size) for size in ct_norm.shape]]
    made_norm = made.clamp(-1, 1).numpy()

    image = sitk.GetImageFromArray(np.rint(to_hu(made_norm, *window)).astype(np.int16))
    image.CopyInformation(ct)
    write_ct(image, config.out / "ct.nii.gz")
    write_atomically(config.out / "latent.safetensors", lambda temporary: save_file({"latent": latent}, temporary))
    save_overview(config.out / "overview.png", ct_norm, made_norm, ct.GetSpacing()[::-1])
    body = tuple(slice(first, last) for first, last in body_box(sitk.GetArrayViewFromImage(ct)))
    error_hu = (made_norm[body] - ct_norm[body]) * (window[0] / 2)
    bias, mae = error_hu.mean(), np.abs(error_hu).mean()
    print(f"in the body, within the window: bias {bias:.2f} HU, mean absolute error {mae:.1f} HU")
    print(f"results: {config.out} (ct.nii.gz, latent.safetensors, overview.png)")


def save_overview(path: Path, ct_norm: np.ndarray, made_norm: np.ndarray, spacing_mm: Sequence[float]) -> None:
    """Central axial, coronal and sagittal planes of the scan, its reconstruction and their difference."""
    volumes = (ct_norm, made_norm, made_norm - ct_norm)
    upright = [volume[::-1] for volume in volumes]  # the head up in coronal and sagittal planes
    rows = [volumes, [v.transpose(1, 0, 2) for v in upright], [v.transpose(2, 0, 1) for v in upright]]
    z, y, x = spacing_mm
    save_slices(path, rows, ["CT", "reconstruction", "difference"], [y / x, z / x, z / y])


def padded(ct_norm: torch.Tensor, factor: int) -> torch.Tensor:
    """(D, H, W) -> (1, 1, D, H, W), repeated at the ends of the axes up to a multiple of the factor."""
    ends = [-size % factor for size in ct_norm.shape]
    return F.pad(ct_norm[None, None], (0, ends[2], 0, ends[1], 0, ends[0]), mode="replicate")


if __name__ == "__main__":
    launch(main, ARGUMENTS)
