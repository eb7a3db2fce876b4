"""The test split is opened by evaluation alone: every training runs on a dataset whose test rows cannot be read."""

import shutil
from pathlib import Path

import pytest
import yaml

from imaging.dataset.nodules import load_nodules
from scripts import train_vae


def test_every_training_ran_without_the_test_split(chain):
    trained_on = Path(yaml.safe_load((chain.vae / "config.yaml").read_text())["data"])
    with pytest.raises(Exception):  # noqa: B017 - whatever Datasets says of it
        load_nodules(trained_on, "test")
    assert (chain.classifier / "pipeline/guide").is_dir()


def test_a_dataset_without_validation_patients_is_refused_with_its_remedy(phantom_dataset, tmp_path):
    data = tmp_path / "nodules"
    shutil.copytree(phantom_dataset, data)
    (data / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ValueError, match="no split 'validation'; it has 'train', 'test'; patients for it"):
        train_vae.main(train_vae.VaeConfig(data=data, out=tmp_path / "vae", patch_size=8))
    assert not (tmp_path / "vae").exists()
