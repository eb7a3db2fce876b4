"""A whole scan through the autoencoder."""

import numpy as np
import SimpleITK as sitk
import torch
from safetensors.torch import load_file

from autoencoder import AutoencoderKL3D, IdentityAutoencoder
from imaging.files.ct import read_ct
from scripts.reconstruct_scan import ReconstructConfig, main


def write_scan(path):
    random = np.random.default_rng(0)
    image = sitk.GetImageFromArray(random.integers(-1024, 300, (11, 14, 18)).astype(np.int16))
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-10, 20, 30))
    sitk.WriteImage(image, path)
    return read_ct(path)


def test_a_scan_of_any_size_comes_back_on_its_own_grid(tmp_path, capsys):
    scan = write_scan(tmp_path / "scan.nii.gz")
    torch.manual_seed(0)
    model = AutoencoderKL3D(channels=(4, 6), blocks_per_level=1)
    model.save_pretrained(tmp_path / "vae")
    main(ReconstructConfig(tmp_path / "scan.nii.gz", str(tmp_path / "vae"), tmp_path / "out", tile_cells=2))
    made = read_ct(tmp_path / "out/ct.nii.gz")
    assert made.GetSize() == scan.GetSize() and np.allclose(made.GetOrigin(), scan.GetOrigin())
    assert load_file(tmp_path / "out/latent.safetensors")["latent"].shape == (1, 4, 3, 4, 5)
    assert (tmp_path / "out/overview.png").read_bytes().startswith(b"\x89PNG")
    assert "mean absolute error" in capsys.readouterr().out


def test_the_identity_gives_the_scan_back(tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz")
    IdentityAutoencoder().save_pretrained(tmp_path / "vae")
    main(ReconstructConfig(tmp_path / "scan.nii.gz", str(tmp_path / "vae"), tmp_path / "out", tile_cells=5))
    made = read_ct(tmp_path / "out/ct.nii.gz")
    assert np.array_equal(sitk.GetArrayFromImage(made), sitk.GetArrayFromImage(scan))
