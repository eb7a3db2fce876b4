"""The SPADE U-Net and its blocks, against MONAI, PyTorch and what must hold for any weights."""

from pathlib import Path

import pytest
import torch
from monai.networks.blocks import spade_norm
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock
from tiny_models import randomised, tiny_unet
from torch import Tensor, nn
from torch.testing import assert_close

from autoencoder.networks.blocks import Conv3d
from diffusion.blocks import SPADE, Attention3D, ResBlock3D, group_count
from diffusion.unet import SPADEUNet3D

CELLS = (4, 6, 8)  # of the latent; the map is twice as fine


def example(batch: int = 2) -> tuple[Tensor, Tensor]:
    """Noisy latent with conditions (B, 14, 4, 6, 8), label map (B, 1, 8, 12, 16)."""
    generator = torch.Generator().manual_seed(1)
    semantic_map = torch.zeros(batch, 1, 8, 12, 16, dtype=torch.uint8)
    for index in range(batch):
        semantic_map[index, 0, 2:5, 3 : 7 + index, 5:11] = 1
    return torch.randn(batch, 14, *CELLS, generator=generator), semantic_map


def test_spade_norm_is_monais_with_the_same_weights():
    """MONAI also normalises γ and β themselves, which Park et al. do not; its bare convolutions are compared."""
    torch.manual_seed(0)
    theirs = spade_norm.SPADE(
        label_nc=3, norm_nc=8, spatial_dims=3, hidden_channels=5, norm="GROUP",
        norm_params={"num_groups": group_count(8), "affine": False},
    )  # fmt: skip
    gamma, beta = theirs.mlp_gamma.conv, theirs.mlp_beta.conv
    theirs.mlp_gamma, theirs.mlp_beta = gamma, beta
    ours = SPADE(channels=8, map_channels=5)
    ours.conv.load_state_dict(
        {name: torch.cat([getattr(gamma, name), getattr(beta, name)]) for name in ("weight", "bias")}
    )
    h, one_hot = torch.randn(2, 8, *CELLS), torch.randn(2, 3, *CELLS).softmax(1)
    assert_close(ours(h, ours.modulation(theirs.mlp_shared(one_hot))), theirs(h, one_hot))


def test_residual_block_without_a_map_is_monais_with_the_same_weights():
    torch.manual_seed(0)
    theirs = randomised(
        DiffusionUNetResnetBlock(3, 4, 6, out_channels=8, norm_num_groups=group_count(4), norm_eps=1e-5)
    )
    theirs.norm2 = nn.GroupNorm(group_count(8), 8)
    ours = ResBlock3D(4, 8, time_channels=6)
    names = {"time": "time_emb_proj", "conv1": "conv1.conv", "conv2": "conv2.conv", "skip": "skip_connection.conv"}
    state = theirs.state_dict()
    ours.load_state_dict(
        {
            key: state[f"{names.get(key.split('.')[0], key.split('.')[0])}.{key.split('.')[1]}"]
            for key in ours.state_dict()
        }
    )
    h, time = torch.randn(2, 4, *CELLS), torch.randn(2, 6)
    assert_close(ours(h, time), theirs(h, time))


def test_attention_is_pytorchs_with_the_same_weights():
    torch.manual_seed(0)
    ours = randomised(Attention3D(channels=64))
    theirs = nn.MultiheadAttention(64, num_heads=2, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.qkv.weight.data.flatten(1), ours.qkv.bias.data
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = ours.out.weight.data.flatten(1), ours.out.bias.data
    h = torch.randn(2, 64, 2, 3, 4)
    tokens = ours.norm(h).flatten(2).transpose(1, 2)
    attended, _ = theirs(tokens, tokens, tokens)
    assert_close(ours(h), h + attended.transpose(1, 2).reshape(h.shape))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1)])
def test_convolution_is_pytorchs_in_value_and_gradient(batch: int, kernel: int, stride: int):
    torch.manual_seed(0)
    ours = Conv3d(3, 5, kernel, stride=stride, padding=kernel // 2)
    theirs = nn.Conv3d(3, 5, kernel, stride=stride, padding=kernel // 2)
    theirs.load_state_dict(ours.state_dict())
    for cells in (CELLS, (2, 3, 4)):
        gradients = []
        for convolution in (ours, theirs):
            h = torch.linspace(-1, 1, batch * 3 * cells[0] * cells[1] * cells[2]).sin().reshape(batch, 3, *cells)
            h.requires_grad_()
            out = convolution(h)
            gradients.append((out, *torch.autograd.grad(out.square().sum(), (h, *convolution.parameters()))))
        assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_modulation_computed_once_gives_what_each_call_computes():
    unet = tiny_unet()
    sample, semantic_map = example()
    modulation = unet.modulate(semantic_map)
    for t in (0, 500, 999):
        assert torch.equal(unet(sample, t, modulation=modulation).sample, unet(sample, t, semantic_map).sample)


def test_output_has_the_latents_channels_and_the_samples_size():
    unet = tiny_unet()
    sample, semantic_map = example()
    assert unet(sample, 3, semantic_map).sample.shape == (2, 2, *CELLS)
    (as_tuple,) = unet(sample, 3, semantic_map, return_dict=False)
    assert torch.equal(as_tuple, unet(sample, 3, semantic_map).sample)


def test_batch_gives_what_its_volumes_give_alone():
    unet = tiny_unet()
    sample, semantic_map = example()
    t = torch.tensor([10, 900])
    alone = [unet(sample[i : i + 1], t[i], semantic_map[i : i + 1]).sample for i in range(2)]
    assert_close(unet(sample, t, semantic_map).sample, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_one_timestep_stands_for_the_whole_batch():
    unet = tiny_unet(channels=(6, 24))  # a norm of one channel would undo the time
    sample, semantic_map = example()
    vector = unet(sample, torch.tensor([400, 400]), semantic_map).sample
    for t in (400, torch.tensor(400), torch.tensor([400])):
        assert torch.equal(unet(sample, t, semantic_map).sample, vector)
    assert (unet(sample, 500, semantic_map).sample - vector).abs().max() > 1e-2  # rounding is 1e-6


@pytest.mark.parametrize("channels", [(4, 8), (8, 16), (16, 32)])
def test_timestep_matters_in_narrow_networks_too(channels):
    unet = tiny_unet(channels=channels)
    sample, semantic_map = example()
    early, late = (unet(sample, t, semantic_map).sample for t in (900, 100))
    assert (early - late).norm() > 0.01 * early.norm()  # rounding alone makes 1e-6


def test_noise_is_scaled_by_its_level_before_the_first_convolution():
    plain, scaled = tiny_unet(channels=(8, 16)), tiny_unet(channels=(8, 16), scaled_input=True)
    scaled.load_state_dict(plain.state_dict(), strict=False)
    sample, semantic_map = example()
    at_ones = scaled(sample, 500, semantic_map).sample
    assert torch.equal(at_ones, plain(sample, 500, semantic_map).sample)
    scaled.input_scale.copy_(torch.linspace(1, 0, 1000))
    weakened = torch.cat([sample[:, :2] * scaled.input_scale[500:502].mean(), sample[:, 2:]], dim=1)
    between = torch.tensor([500.5, 500.5])
    assert_close(scaled(sample, between, semantic_map).sample, plain(weakened, between, semantic_map).sample)
    other_noise = torch.cat([torch.randn_like(sample[:, :2]), sample[:, 2:]], dim=1)
    assert torch.equal(scaled(sample, 999, semantic_map).sample, scaled(other_noise, 999, semantic_map).sample)


def test_lesion_of_one_voxel_reaches_every_level():
    unet = tiny_unet(map_factor=4)
    empty = torch.zeros(1, 1, 16, 24, 32, dtype=torch.uint8)
    one_voxel = empty.clone()
    one_voxel[0, 0, 5, 6, 7] = 1
    without, lesion = unet.modulate(empty), unet.modulate(one_voxel)
    assert len(lesion) == 2 * 6  # two norms in each of two encoder, two middle and two decoder blocks
    assert [tuple(gamma.shape[2:]) for gamma, _ in lesion[::2]] == [CELLS] + [(2, 3, 4)] * 4 + [CELLS]
    assert not any(torch.allclose(a[0], b[0]) for a, b in zip(without, lesion, strict=True))


def test_gradient_reaches_every_parameter():
    unet = tiny_unet().train()
    sample, semantic_map = example()
    unet(sample, torch.tensor([3, 700]), semantic_map).sample.square().sum().backward()
    without = [name for name, p in unet.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_fresh_network_predicts_a_constant():
    unet = SPADEUNet3D(latent_channels=2, condition_channels=12, map_factor=2, channels=(4, 8))
    sample, semantic_map = example()
    out = unet(sample, 9, semantic_map).sample
    assert_close(out, unet.conv_out.bias.view(1, -1, 1, 1, 1).expand_as(out))


def test_saved_network_is_loaded_back_from_safetensors(tmp_path: Path):
    unet = tiny_unet(num_labels=3, attention=False)
    unet.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    loaded = SPADEUNet3D.from_pretrained(tmp_path, use_safetensors=True)
    sample, semantic_map = example()
    assert torch.equal(loaded(sample, 7, semantic_map).sample, unet(sample, 7, semantic_map).sample)
    assert loaded.config["num_labels"] == 3 and tuple(loaded.config["channels"]) == (4, 8)


@pytest.mark.parametrize(("low", "high"), [(0, 2), (-1, 1)])
def test_unknown_label_is_named(low: int, high: int):
    semantic_map = torch.zeros(1, 1, 8, 12, 16, dtype=torch.int16)
    semantic_map[0, 0, 1, 2, 3], semantic_map[0, 0, 3, 2, 1] = low, high
    with pytest.raises(ValueError, match=rf"semantic_map has labels {low} \.\.\. {high}, the model knows 0 \.\.\. 1"):
        tiny_unet().modulate(semantic_map)


@pytest.mark.parametrize("shape", [(1, 1, 8, 12, 18), (8, 12, 16)])
def test_map_of_a_wrong_size_is_named(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"expected \(B, 1, D, H, W\) with D, H, W multiples of 4; choose another"):
        tiny_unet().modulate(torch.zeros(shape, dtype=torch.uint8))


def test_network_without_a_map_says_what_to_give():
    with pytest.raises(ValueError, match=r"give semantic_map, or modulation = unet\.modulate"):
        tiny_unet()(example()[0], 0)


@pytest.mark.parametrize("settings", [{"num_labels": 1}, {"channels": ()}])
def test_impossible_network_is_refused(settings: dict):
    with pytest.raises(ValueError, match=r"num_labels \d \(at least 2\), channels .* \(at least one level\)"):
        SPADEUNet3D(**settings)
