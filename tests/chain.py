"""Fixtures: the whole chain of trainings, two or three steps each, on phantom nodules; made once for all tests."""

from dataclasses import dataclass
from pathlib import Path

import pytest

CROP_SIZE, SPACING_MM = 16, 2.0
SHORT = {"batch_size": 2, "steps": 3, "warmup_steps": 1, "evaluate_every": 3, "checkpoint_every": 2, "log_every": 1}


@dataclass(frozen=True)
class Chain:
    """Folders that the scripts wrote, one after the other."""

    nodules: Path
    vae: Path
    latents: Path
    ldm: Path
    classifier: Path


@pytest.fixture(scope="session")
def phantom_dataset(tmp_path_factory) -> Path:
    """Six training, six test and six validation nodules, benign and malignant in turn."""
    from imaging.dataset.nodules import save_nodule_dataset
    from imaging.phantom.chest import phantom_nodules

    path = tmp_path_factory.mktemp("phantom") / "nodules"
    rows = phantom_nodules(18, CROP_SIZE, SPACING_MM)
    rated = ({**row, "malignancy": (1.5, 4.5)[number % 2]} for number, row in enumerate(rows))
    save_nodule_dataset(rated, path, CROP_SIZE)
    return path


@pytest.fixture(scope="session")
def chain(phantom_dataset, tmp_path_factory) -> Chain:
    """train_vae -> encode_latents -> train_ldm -> train_classifier."""
    from scripts import encode_latents, train_classifier, train_ldm, train_vae

    root = tmp_path_factory.mktemp("chain")
    made = Chain(phantom_dataset, root / "vae", root / "latents", root / "ldm", root / "classifier")
    train_vae.main(
        train_vae.VaeConfig(
            data=made.nodules,
            out=made.vae,
            model=train_vae.ModelConfig(channels=(4, 8), blocks_per_level=1, latent_channels=2),
            patch_size=8,
            evaluate_crops=2,
            **SHORT,
        )
    )
    # without detailed maps no lesion is refused: those of an untrained network are nowhere near their labels
    encode = encode_latents.EncodeConfig(
        made.nodules, str(made.vae / "model"), made.latents, detailed_map=False, device="cpu"
    )
    encode_latents.main(encode)
    train_ldm.main(
        train_ldm.LdmConfig(
            data=made.latents,
            vae=made.vae / "model",
            out=made.ldm,
            model=train_ldm.UNetConfig(channels=(8, 16), blocks_per_level=1, map_channels=4),
            evaluate_crops=2,
            evaluate_steps=2,
            **SHORT,
        )
    )
    train_classifier.main(
        train_classifier.ClassifierConfig(
            data=made.latents,
            pipeline=made.ldm / "pipeline",
            out=made.classifier,
            model=train_classifier.ClassifierModelConfig(channels=(8, 16), cells=4),
            shuffles=2,
            allow=("malignancy",),  # three steps teach nothing
            resamples=20,
            **SHORT,
        )
    )
    return made
