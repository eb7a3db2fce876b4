"""Stage 1 with everything switched on, and what comes after it."""

import json

import lpips
import pytest
import torch
from diffusers import DDIMScheduler
from tiny_models import tiny_unet

from autoencoder import VQAutoencoder3D
from autoencoder.loading import load_autoencoder
from autoencoder.losses.weights import LossWeights
from diffusion import LesionInpaintPipeline
from imaging.dataset.scan_volumes import save_scans
from scripts.encode_latents import EncodeConfig
from scripts.encode_latents import main as encode_latents
from scripts.train_vae import ModelConfig, VaeConfig, main

SHORT = {"batch_size": 2, "steps": 3, "warmup_steps": 1, "evaluate_every": 3, "log_every": 1, "evaluate_crops": 2}
SMALL = ModelConfig(kind="vq", channels=(4, 8), blocks_per_level=1, latent_channels=2, codebook_size=16)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """AlexNet with random weights, in torchvision's names."""
    torch.manual_seed(0)
    import torchvision

    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), path)
    return path


@pytest.mark.slow
def test_a_vq_model_trained_with_every_loss_serves_the_whole_chain(phantom_dataset, backbone, tmp_path):
    ct_hu = torch.randint(-1000, 200, (20, 24, 28)).float().numpy()
    save_scans([("one", ct_hu)], tmp_path / "scans", 2.0)
    config = VaeConfig(
        data=phantom_dataset,
        out=tmp_path / "vae",
        model=SMALL,
        losses=LossWeights(wavelet=0.1, lpips=0.1, adversarial=0.5, adversarial_start=1, adversarial_head_start=1),
        scans=tmp_path / "scans",
        patch_size=8,
        discriminator_channels=(4, 4),
        lpips_backbone=str(backbone),
        gradient_checkpointing=True,
        **SHORT,
    )
    main(config)
    lines = [json.loads(line) for line in (tmp_path / "vae/metrics.jsonl").read_text().splitlines()]
    last = {name: value for line in lines for name, value in line.items()}
    terms = ("l1", "wavelet", "lpips", "adversarial", "commitment")
    assert {
        *terms,
        *(f"grad_norm/{term}" for term in terms),
        "perplexity",
        "discriminator",
        "adaptive_weight",
    } <= last.keys()
    assert {"held_out/psnr_db", "held_out/hu_mae_lesion"} <= last.keys()

    vae = load_autoencoder(tmp_path / "vae/model")
    assert isinstance(vae, VQAutoencoder3D) and vae.codebook.updates == 3
    assert len(vae.config["latents_mean"]) == len(vae.config["latents_std"]) == 2
    encode_latents(EncodeConfig(phantom_dataset, str(tmp_path / "vae/model"), tmp_path / "latents", device="cpu"))

    unet = tiny_unet(latent_channels=2, condition_channels=12, map_factor=4)
    LesionInpaintPipeline(vae, unet, DDIMScheduler(), crop_size=16).save_pretrained(tmp_path / "pipeline")
    pipeline = LesionInpaintPipeline.from_pretrained(tmp_path / "pipeline")
    assert isinstance(pipeline.vae, VQAutoencoder3D)
    ct, mask = torch.full((1, 1, 16, 16, 16), -800.0), torch.zeros(1, 1, 16, 16, 16)
    mask[..., 6:10, 6:10, 6:10] = 1
    made = pipeline(ct, mask, num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    outside = made.paint_mask == 0
    assert torch.equal(made.ct[outside], ct[outside]) and not torch.equal(made.ct, ct)


def test_training_goes_on_from_the_weights_of_another_run(chain, phantom_dataset, tmp_path):
    small = ModelConfig(channels=(4, 8), blocks_per_level=1, latent_channels=2)
    options = {**SHORT, "steps": 1, "evaluate_every": 2, "learning_rate": 1e-12, "ema_decay": 0.0}
    start = str(chain.vae / "model")
    main(VaeConfig(phantom_dataset, tmp_path / "more", model=small, initial=start, patch_size=8, **options))
    before, after = load_autoencoder(start).state_dict(), load_autoencoder(tmp_path / "more/model").state_dict()
    assert all(torch.allclose(before[name], after[name], atol=1e-8) for name in before)
    with pytest.raises(ValueError, match="its architecture differs"):
        main(VaeConfig(phantom_dataset, tmp_path / "other", initial=start, patch_size=8, **options))


def test_a_decoder_trained_alone_decodes_the_same_latents(chain, phantom_dataset, tmp_path):
    small = ModelConfig(channels=(4, 8), blocks_per_level=1, latent_channels=2)
    options = {**SHORT, "learning_rate": 0.01, "ema_decay": 0.0, "latent_noise": 0.5, "freeze_encoder": True}
    start = str(chain.vae / "model")
    main(VaeConfig(phantom_dataset, tmp_path / "more", model=small, initial=start, patch_size=8, **options))
    before, after = load_autoencoder(start), load_autoencoder(tmp_path / "more/model")
    for name, tensor in before.encoder.state_dict().items():
        assert torch.equal(tensor, after.encoder.state_dict()[name])
    for name in ("latents_mean", "latents_std"):
        assert before.config[name] == after.config[name]
    changed = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert any(changed)


def test_missing_lpips_weights_end_the_run_before_it_begins(phantom_dataset, tmp_path):
    config = VaeConfig(
        data=phantom_dataset,
        out=tmp_path / "vae",
        losses=LossWeights(lpips=0.1),
        patch_size=8,
        lpips_backbone=str(tmp_path / "alexnet.pth"),
    )
    with pytest.raises(ValueError, match=r"alexnet\.pth: no such weights file"):
        main(config)
    assert not (tmp_path / "vae").exists()


def test_random_lpips_is_of_the_lpips_package(backbone):
    from evaluation.networks.inception import load_lpips

    assert isinstance(load_lpips(str(backbone)), lpips.LPIPS)
