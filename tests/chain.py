"""Fixtures: the whole chain of trainings, two or three steps each, on phantom nodules; made once for all tests."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

CROP_SIZE, SPACING_MM = 16, 2.0
SHORT = {"batch_size": 2, "steps": 3, "warmup_steps": 1, "evaluate_every": 3, "checkpoint_every": 3, "log_every": 1}


@dataclass(frozen=True)
class Chain:
    """Folders that the scripts wrote, one after the other."""

    nodules: Path
    vae: Path
    latents: Path
    ldm: Path
    classifier: Path


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder for all processes of this run of the tests; the first that asks for it makes it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / "made").touch()
    return folder


@pytest.fixture(scope="session")
def phantom_dataset(tmp_path_factory) -> Path:
    """Six training, six test and six validation nodules, benign and malignant in turn."""
    from imaging.dataset.nodules import save_nodule_dataset
    from imaging.phantom.chest import phantom_nodules

    def make(folder: Path) -> None:
        rows = phantom_nodules(18, CROP_SIZE, SPACING_MM)
        rated = ({**row, "malignancy": (1.5, 4.5)[number % 2]} for number, row in enumerate(rows))
        save_nodule_dataset(rated, folder / "nodules", CROP_SIZE)

    return made_once(tmp_path_factory, "phantom", make) / "nodules"


@pytest.fixture(scope="session")
def chain(phantom_dataset, tmp_path_factory) -> Chain:
    """train_vae -> encode_latents -> train_ldm -> train_classifier, on nodules whose test split cannot be read."""

    def make(folder: Path) -> None:
        data = shutil.copytree(phantom_dataset, folder / "nodules")
        for file in (data / "test").iterdir():
            file.write_bytes(b"unreadable")
        train(data, chain_in(folder))

    def chain_in(folder: Path) -> Chain:
        return Chain(phantom_dataset, *(folder / name for name in ("vae", "latents", "ldm", "classifier")))

    return chain_in(made_once(tmp_path_factory, "chain", make))


def train(data: Path, out: Chain) -> None:
    """Each script on what the one before it wrote."""
    from scripts import encode_latents, train_classifier, train_ldm, train_vae

    train_vae.main(
        train_vae.VaeConfig(
            data=data,
            out=out.vae,
            model=train_vae.ModelConfig(channels=(4, 8), blocks_per_level=1, latent_channels=2),
            patch_size=8,
            evaluate_crops=2,
            **SHORT,
        )
    )
    # without detailed maps no lesion is refused: those of an untrained network are nowhere near their labels
    encode = encode_latents.EncodeConfig(data, str(out.vae / "model"), out.latents, detailed_map=False, device="cpu")
    encode_latents.main(encode)
    train_ldm.main(
        train_ldm.LdmConfig(
            data=out.latents,
            vae=out.vae / "model",
            out=out.ldm,
            model=train_ldm.UNetConfig(channels=(8, 16), blocks_per_level=1, map_channels=4),
            evaluate_crops=2,
            evaluate_steps=2,
            **SHORT,
        )
    )
    train_classifier.main(
        train_classifier.ClassifierConfig(
            data=out.latents,
            pipeline=out.ldm / "pipeline",
            out=out.classifier,
            model=train_classifier.ClassifierModelConfig(channels=(8, 16), cells=4),
            shuffles=2,
            allow=("malignancy",),  # three steps teach nothing
            resamples=20,
            **SHORT,
        )
    )
