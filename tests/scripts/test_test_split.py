"""The test split is opened by evaluation alone: every training runs on a dataset whose test rows cannot be read."""

import shutil

import pytest

from imaging.dataset.nodules import load_nodules
from scripts import encode_latents, train_classifier, train_ldm, train_vae

SHORT = {"batch_size": 2, "steps": 1, "warmup_steps": 0, "evaluate_every": 1, "checkpoint_every": 1, "log_every": 1}


@pytest.mark.slow
def test_every_training_runs_without_the_test_split(phantom_dataset, tmp_path):
    data = tmp_path / "nodules"
    shutil.copytree(phantom_dataset, data)
    for file in (data / "test").iterdir():
        file.write_bytes(b"unreadable")
    with pytest.raises(Exception):  # noqa: B017 - whatever Datasets says of it
        load_nodules(data, "test")
    model = train_vae.ModelConfig(channels=(4, 8), blocks_per_level=1, latent_channels=2)
    train_vae.main(train_vae.VaeConfig(data=data, out=tmp_path / "vae", model=model, patch_size=8, **SHORT))
    encode_latents.main(encode_latents.EncodeConfig(data, str(tmp_path / "vae/model"), tmp_path / "latents"))
    unet = train_ldm.UNetConfig(channels=(8, 16), blocks_per_level=1, map_channels=4)
    options = {"vae": tmp_path / "vae/model", "model": unet, "evaluate_crops": 2, "evaluate_steps": 1}
    train_ldm.main(train_ldm.LdmConfig(data=tmp_path / "latents", out=tmp_path / "ldm", **options, **SHORT))
    pipeline = tmp_path / "ldm/pipeline"
    small = train_classifier.ClassifierModelConfig(channels=(8, 16))
    guide = {"pipeline": pipeline, "model": small, "out": tmp_path / "guide"}
    train_classifier.main(train_classifier.ClassifierConfig(data=tmp_path / "latents", **guide, **SHORT))
    assert (tmp_path / "guide/pipeline/guide").is_dir()


def test_a_dataset_without_validation_patients_is_refused_with_its_remedy(phantom_dataset, tmp_path):
    data = tmp_path / "nodules"
    shutil.copytree(phantom_dataset, data)
    (data / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ValueError, match="no split 'validation'; it has 'train', 'test'; patients for it"):
        train_vae.main(train_vae.VaeConfig(data=data, out=tmp_path / "vae", patch_size=8, **SHORT))
    assert not (tmp_path / "vae").exists()
