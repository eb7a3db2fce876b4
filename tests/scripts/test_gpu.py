"""What only a CUDA device shows: trainings in bf16 that are continued there, and sampling from what they saved."""

from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState

from diffusion import LesionInpaintPipeline
from diffusion.option_types import TextureConfig
from imaging.dataset.nodules import load_nodules, read_nodule
from scripts import encode_latents, train_ldm, train_vae

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

STEPS = 6
SHORT = {"batch_size": 2, "steps": STEPS, "warmup_steps": 1, "evaluate_every": STEPS, "checkpoint_every": 2}


def continued(main, config):
    """Run one step, then the rest: the second start loads weights, averages and optimiser onto the device."""
    main(replace(config, max_minutes=0.0))
    assert not (config.out / "model").exists() and not (config.out / "pipeline").exists()
    main(config)


@pytest.fixture(scope="module", params=["no", "bf16"])
def trained(request, phantom_dataset, tmp_path_factory):
    """Both trainings, each interrupted and continued; the folder they are in."""
    AcceleratorState._reset_state(reset_partial_state=True)  # one process, two precisions
    root = tmp_path_factory.mktemp(request.param)
    vae = train_vae.VaeConfig(
        data=phantom_dataset,
        out=root / "vae",
        model=train_vae.ModelConfig(kind="vq", channels=(4, 8), blocks_per_level=1, codebook_size=16),
        patch_size=8,
        evaluate_crops=2,
        mixed_precision=request.param,
        **SHORT,
    )
    continued(train_vae.main, vae)
    encode_latents.main(encode_latents.EncodeConfig(phantom_dataset, str(root / "vae/model"), root / "latents"))
    texture = TextureConfig(dict.fromkeys(("gabor", "cooccurrence", "wavelet"), 0.1), gate=1.0, balance="norm")
    ldm = train_ldm.LdmConfig(
        data=root / "latents",
        vae=root / "vae/model",
        out=root / "ldm",
        model=train_ldm.UNetConfig(channels=(8, 16), blocks_per_level=1, map_channels=4),
        texture=texture,
        evaluate_crops=2,
        evaluate_steps=2,
        mixed_precision=request.param,
        **SHORT,
    )
    continued(train_ldm.main, ldm)
    yield root
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pipeline_trained_on_the_device_paints_there_and_leaves_the_outside_alone(trained, phantom_dataset, dtype):
    pipeline = LesionInpaintPipeline.from_pretrained(trained / "ldm/pipeline", dtype=dtype).to("cuda")
    nodule = read_nodule(load_nodules(phantom_dataset, "train"), 0)
    ct_hu, mask = (torch.from_numpy(nodule[name])[None, None] for name in ("ct_hu", "lesion_mask"))
    results = [
        pipeline(ct_hu, mask, num_inference_steps=4, generator=torch.Generator().manual_seed(0)).ct for _ in range(2)
    ]
    assert torch.equal(*results)
    assert torch.equal(results[0][mask == 0], ct_hu[mask == 0])
    assert not torch.equal(results[0][mask == 1], ct_hu[mask == 1])


def test_the_device_paints_what_the_cpu_paints(trained, phantom_dataset):
    nodule = read_nodule(load_nodules(phantom_dataset, "train"), 0)
    ct_hu, mask = (torch.from_numpy(nodule[name])[None, None] for name in ("ct_hu", "lesion_mask"))
    painted = []
    for device in ("cpu", "cuda"):
        pipeline = LesionInpaintPipeline.from_pretrained(trained / "ldm/pipeline").to(device)
        given = torch.Generator().manual_seed(0)
        painted.append(pipeline(ct_hu.float(), mask, num_inference_steps=4, generator=given).ct)
    assert (painted[0] - painted[1]).abs().max() < 5.0  # HU; another order of adding, over four steps
