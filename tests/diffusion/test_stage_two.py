import pytest
import torch
from tiny_models import tiny_unet

from autoencoder import AutoencoderKL3D
from diffusion.conditioning import condition_of
from diffusion.losses.cooccurrence import cooccurrence_loss
from diffusion.losses.dog import dog_loss
from diffusion.losses.gabor import GaborBank, gabor_loss
from diffusion.losses.structure import diffusion_loss
from diffusion.losses.time_weights import TIME_POLICIES, ConstantWeights, FilmWeights, StepAwareMask, UncertaintyWeights
from diffusion.option_types import TextureConfig
from diffusion.process import alphas_of, predicted_x0, target_of, training_scheduler, x0_slope
from diffusion.stage_two import StageTwo, stage_two_of

SHAPE = (16, 24, 32)


def small_unet():
    return tiny_unet(latent_channels=4, condition_channels=14, map_factor=4)


@pytest.fixture
def vae():
    torch.manual_seed(0)
    vae = AutoencoderKL3D(channels=(4, 8), blocks_per_level=1, latents_mean=[0.1] * 4, latents_std=[0.9] * 4)
    for parameter in vae.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return vae.requires_grad_(False)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    lesion_mask = torch.zeros(3, 1, *SHAPE)
    lesion_mask[:, :, 4:11, 8:16, 12:19] = 1
    return {
        "blanked_latent": torch.randn(3, 4, 4, 6, 8),
        "lesion_mask": lesion_mask,
        "paint_mask": lesion_mask.roll(1, 2),
        "semantic_map": 3 * lesion_mask,
        "valid_mask": torch.ones_like(lesion_mask),
        "spacing_mm": torch.ones(3, 3),
        "ct_norm": torch.rand(3, 1, *SHAPE) * 2 - 1,
    }


def texture_losses(bank):
    def gabor(x, y, mask, spacing):
        return gabor_loss(x, y, mask, bank, spacing_mm=spacing, reduction="none")

    def dog(x, y, mask, spacing):
        return dog_loss(x, y, mask, spacing_mm=spacing, reduction="none")

    def cooccurrence(x, y, mask, spacing):
        return cooccurrence_loss(x, y, mask, reduction="none")

    return {"gabor": gabor, "dog": dog, "cooccurrence": cooccurrence}


def stage_two(policy=ConstantWeights, gate=0.3, balance="none", **options):
    torch.manual_seed(2)
    bank = GaborBank(frequencies=(0.1, 0.3), orientations=3)
    losses = texture_losses(bank)
    weights = {"gabor": 30.0, "dog": 3.0, "cooccurrence": 0.1}
    return StageTwo(small_unet(), policy(tuple(losses), gate=gate, **options), losses, weights, [bank], balance)


def step(model, vae, batch, timesteps=(10, 250, 900), **options):
    torch.manual_seed(3)
    x0, noise = torch.randn(2, 3, 4, 4, 6, 8)
    return model(vae, training_scheduler("v"), batch, x0, noise, torch.tensor(timesteps), **options)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.unet.parameters() if p.grad is not None])


def close(a, b):
    return (a - b).norm() < 1e-4 * b.norm()


def test_without_texture_losses_it_is_the_weighted_squared_error(vae, batch):
    unet, scheduler, t = small_unet(), training_scheduler("v"), torch.tensor([10, 250, 900])
    loss, losses, _ = step(StageTwo(unet, ConstantWeights(()), {}, {}), vae, batch)
    torch.manual_seed(3)
    x0, noise = torch.randn(2, 3, 4, 4, 6, 8)
    masks = [batch[name] for name in ("lesion_mask", "paint_mask", "valid_mask")]
    sample = torch.cat([scheduler.add_noise(x0, noise, t), condition_of(batch["blanked_latent"], *masks, 4)], dim=1)
    output = unet(sample, t, batch["lesion_mask"]).sample
    weight = ConstantWeights().plan(t, scheduler.alphas_cumprod, batch["lesion_mask"], batch["valid_mask"], 4).cells
    expected = diffusion_loss(output, target_of(scheduler, x0, noise, t), weight)
    assert torch.allclose(losses["structure"], expected)
    assert torch.allclose(loss, expected.mean())


def test_the_error_along_density_is_part_of_the_structure_loss(vae, batch):
    density = torch.tensor([0.5, 0.0, -1.0, 2.0])
    plain = StageTwo(small_unet(), ConstantWeights(()), {}, {})
    more = StageTwo(plain.unet, ConstantWeights(()), {}, {}, directions=density[None])
    outputs = []
    plain.unet.register_forward_hook(lambda *call: outputs.append(call[-1].sample))
    total, losses, _ = step(more, vae, batch)
    _, without, _ = step(plain, vae, batch)
    torch.manual_seed(3)
    x0, noise = torch.randn(2, 3, 4, 4, 6, 8)
    t, scheduler = torch.tensor([10, 250, 900]), training_scheduler("v")
    cells = ConstantWeights().plan(t, scheduler.alphas_cumprod, batch["lesion_mask"], batch["valid_mask"], 4).cells
    error = torch.einsum("bcdhw,c->bdhw", outputs[0] - target_of(scheduler, x0, noise, t), density)[:, None]
    expected = without["structure"] + (error.square() * cells).flatten(1).sum(1) / cells.flatten(1).sum(1)
    assert torch.allclose(losses["structure"], expected, rtol=1e-5)
    assert torch.allclose(total, expected.mean(), rtol=1e-5)
    assert "directions" not in more.state_dict()  # checkpoints of trainings with and without it are alike


def test_where_all_is_painted_all_of_the_scan_counts(vae, batch):
    batch["paint_mask"] = torch.ones_like(batch["paint_mask"])
    batch["valid_mask"][:, :, 12:] = 0
    model = StageTwo(small_unet(), ConstantWeights((), background_weight=0.0), {}, {})
    _, losses, _ = step(model, vae, batch)
    torch.manual_seed(3)
    x0, noise = torch.randn(2, 3, 4, 4, 6, 8)
    t, scheduler = torch.tensor([10, 250, 900]), training_scheduler("v")
    masks = [batch[name] for name in ("lesion_mask", "paint_mask", "valid_mask")]
    sample = torch.cat([scheduler.add_noise(x0, noise, t), condition_of(batch["blanked_latent"], *masks, 4)], dim=1)
    error = (model.unet(sample, t, batch["lesion_mask"]).sample - target_of(scheduler, x0, noise, t)).square()
    assert torch.allclose(losses["structure"], error[:, :, :3].flatten(1).mean(1))


@pytest.mark.parametrize("target", ["flow", "epsilon"])
def test_a_network_of_eight_labels_sees_the_semantic_map(vae, batch, target):
    unet = tiny_unet(latent_channels=4, condition_channels=14, map_factor=4, num_labels=8)
    torch.manual_seed(3)
    x0, noise = torch.randn(2, 3, 4, 4, 6, 8)
    t, scheduler = torch.tensor([10, 250, 900]), training_scheduler(target)
    losses = StageTwo(unet, ConstantWeights(()), {}, {})(vae, scheduler, batch, x0, noise, t)[1]
    masks = [batch[name] for name in ("lesion_mask", "paint_mask", "valid_mask")]
    if target == "flow":
        sigma = (t + 1).view(-1, 1, 1, 1, 1) / 1000
        noisy, times = (1 - sigma) * x0 + sigma * noise, t + 1.0
    else:
        noisy, times = scheduler.add_noise(x0, noise, t), t
    sample = torch.cat([noisy, condition_of(batch["blanked_latent"], *masks, 4)], dim=1)
    output = unet(sample, times, batch["semantic_map"]).sample
    weight = ConstantWeights().plan(t, alphas_of(scheduler), batch["lesion_mask"], batch["valid_mask"], 4).cells
    expected = diffusion_loss(output, noise - x0 if target == "flow" else noise, weight)
    assert torch.allclose(losses["structure"], expected, rtol=1e-5)


def test_texture_losses_count_below_the_gate_only(vae, batch):
    _, losses, _ = step(stage_two(gate=0.3), vae, batch)
    for name in ("gabor", "dog", "cooccurrence"):
        assert (losses[name][:2] > 0).all() and losses[name][2] == 0
    _, losses, _ = step(stage_two(gate=0.3), vae, batch, timesteps=(300, 500, 900))
    assert not losses["gabor"].any()


def test_texture_losses_are_those_of_the_full_decode(vae, batch):
    model = stage_two(gate=1.0)
    _, losses, _ = step(model, vae, batch)
    margin = type(vae).decoder_margin
    try:
        type(vae).decoder_margin = property(lambda self: 100)  # the window is the volume
        _, of_whole, _ = step(model, vae, batch)
    finally:
        type(vae).decoder_margin = margin
    for name, loss in losses.items():
        assert torch.allclose(loss, of_whole[name], rtol=1e-4), name


def test_gradient_of_the_unet_and_of_the_learned_filters_is_the_slope_of_the_loss(vae, batch):
    """Central differences along the gradient, through the frozen decoder and every texture loss."""
    model = stage_two(gate=1.0)
    step(model, vae, batch)[0].backward()
    for part in (model.unet.conv_out, model.learned[0]):
        parameters = list(part.parameters())
        pulls = [parameter.grad.clone() for parameter in parameters]
        norm = torch.cat([pull.flatten() for pull in pulls]).norm()
        values = []
        for sign in (1, -1, 0):  # 0 puts the parameters back
            with torch.no_grad():
                for parameter, pull in zip(parameters, pulls, strict=True):
                    parameter.add_({1: 1, -1: -2, 0: 1}[sign] * 1e-2 * pull / norm)
                values.append(step(model, vae, batch)[0].item())
        assert (values[0] - values[1]) / 2e-2 == pytest.approx(norm.item(), rel=0.02)
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_measuring_gradients_does_not_change_the_step(vae, batch):
    model = stage_two(gate=1.0)
    plain = gradients(model, step(model, vae, batch)[0])
    filters = model.learned[0].logits.grad.clone()
    loss, _, statistics = step(model, vae, batch, statistics=True)
    assert close(gradients(model, loss), plain)
    assert close(model.learned[0].logits.grad, filters)
    assert statistics["grad_norm/gabor"] > 0 and -1 <= statistics["grad_cosine/structure/dog"] <= 1


def test_balanced_losses_pull_equally_whatever_their_scale(vae, batch):
    model = stage_two(gate=1.0, balance="norm")
    reference = gradients(model, step(model, vae, batch)[0])
    scaled = stage_two(gate=1.0, balance="norm")
    scaled.texture = {n: lambda *args, f=f: 1000 * f(*args) for n, f in scaled.texture.items()}
    assert close(gradients(scaled, step(scaled, vae, batch)[0]), reference)


@pytest.mark.parametrize("policy", [FilmWeights, UncertaintyWeights])
@pytest.mark.parametrize("timesteps", [(10, 250, 900), (700, 800, 900)])
def test_learned_policies_get_gradients_even_where_no_sample_is_late(vae, batch, policy, timesteps):
    model = stage_two(policy)
    step(model, vae, batch, timesteps=timesteps)[0].backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    moved = [parameter.grad.abs().sum() > 0 for parameter in model.policy.parameters()]
    assert any(moved) == (
        policy is UncertaintyWeights or timesteps[0] < 300
    )  # FiLM has nothing to weigh above the gate


@pytest.mark.parametrize("name", TIME_POLICIES)
def test_the_step_is_the_weighted_sum_that_the_policy_plans(vae, batch, name):
    model = stage_two(TIME_POLICIES[name], gate=0.3)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.copy_(torch.linspace(-0.5, 0.8, parameter.numel()).view_as(parameter))
    alphas, t = training_scheduler("v").alphas_cumprod, torch.tensor([10, 250, 900])
    total, losses, _ = step(model, vae, batch)
    weights = model.policy(t, alphas)
    sizes = {"structure": 1.0, **model.texture_weights}
    expected = sum((sizes[k] * weights[k] * losses[k]).mean() for k in losses)
    expected = expected + model.policy.penalty(torch.tensor([True, True, False]))
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("balance", ["none", "norm", "project", "norm_project"])
def test_the_loss_that_is_logged_is_the_weighted_sum_also_where_gradients_are_measured(vae, batch, balance):
    plain, *_ = step(stage_two(), vae, batch)
    measured, *_ = step(stage_two(balance=balance), vae, batch, statistics=True)
    torch.testing.assert_close(measured, plain)


def test_film_does_not_switch_structure_off_where_texture_is_not_computed(vae, batch):
    model = stage_two(lambda names, **options: FilmWeights(names, hidden=8, **options), gate=0.3)
    optimizer = torch.optim.Adam(model.policy.parameters(), lr=0.1)
    for _ in range(20):  # of texture losses that are far smaller than the structure loss, too
        optimizer.zero_grad()
        model.texture_weights = dict.fromkeys(model.texture_weights, 1e-6)
        step(model, vae, batch, timesteps=(500, 700, 900))[0].backward()
        optimizer.step()
    alphas = training_scheduler("v").alphas_cumprod
    weights = model.policy(torch.tensor([0, 299, 300, 900]), alphas)
    assert weights["structure"].tolist() == [0.5, 0.5, 1.0, 1.0]
    assert weights["gabor"].tolist() == [0.5, 0.5, 0.0, 0.0]


def test_constant_differs_from_a_gate(vae, batch):
    gated, everywhere = (step(stage_two(gate=gate), vae, batch)[1] for gate in (0.3, 1.0))
    assert gated["gabor"][2] == 0 < everywhere["gabor"][2]
    assert torch.equal(gated["gabor"][:2], everywhere["gabor"][:2])


def test_step_aware_hides_the_rim_of_the_lesion_in_the_noisier_half(vae, batch):
    batch["lesion_mask"].zero_()
    batch["lesion_mask"][:, :, 3:13, 3:13, 3:13] = 1  # reaches one voxel into the outer cells
    model = StageTwo(small_unet(), StepAwareMask((), background_weight=0.0), {}, {})
    scheduler, t = training_scheduler("v"), torch.tensor([900, 900, 100])
    torch.manual_seed(3)
    x0, noise = torch.randn(2, 3, 4, 4, 6, 8)
    outputs = []
    model.unet.conv_out.register_forward_hook(lambda module, given, output: outputs.append(output))
    loss = model(vae, scheduler, batch, x0, noise, t)[0]
    (pull,) = torch.autograd.grad(loss, outputs)
    rim = torch.zeros(3, 4, 4, 6, 8, dtype=torch.bool)
    rim[:, :, :, :4, :4] = True
    rim[:, :, 1:3, 1:3, 1:3] = False
    assert not pull[:2][rim[:2]].any()
    assert pull[:2, :, 1:3, 1:3, 1:3].all() and pull[2:][rim[2:]].all()


@pytest.mark.parametrize("target", ["epsilon", "v", "x0"])
def test_slope_is_the_derivative_of_the_predicted_x0(target):
    scheduler, t = training_scheduler(target), torch.tensor([5, 400, 990])
    output = torch.randn(3, 2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    x0_hat = predicted_x0(scheduler, output, torch.randn(3, 2, 2, 3, 4, dtype=torch.float64), t)
    (slope,) = torch.autograd.grad(x0_hat.sum(), output)
    assert torch.allclose(slope, x0_slope(scheduler, t).double().view(-1, 1, 1, 1, 1).expand_as(slope), rtol=1e-5)


@pytest.mark.parametrize("name", TIME_POLICIES)
def test_policies_follow_the_target_the_gate_and_the_background_of_the_config(name):
    texture = TextureConfig({"gabor": 1.0}, gate=0.5, time_policy=name)
    policy = stage_two_of(small_unet(), texture, "v", background_weight=0.4).policy
    assert type(policy) is TIME_POLICIES[name]
    assert (policy.gate, policy.background_weight) == (0.5, 0.4)
    if name == "min_snr":
        assert policy.prediction_type == "v_prediction"


def test_the_table_gives_the_named_losses_with_their_weights_and_what_is_trained_in_them():
    model = stage_two_of(small_unet(), TextureConfig({"border": 0.3, "gabor": 0.1}))
    assert model.texture_weights == {"gabor": 0.1, "border": 0.3} and len(model.learned) == 1
    with pytest.raises(ValueError, match=r"texture.losses: 'colour' is unknown; choose from gabor, cooccurrence"):
        stage_two_of(small_unet(), TextureConfig({"colour": 1.0}))
    with pytest.raises(ValueError, match=r"texture.losses.gabor 0.0: expected a weight above 0"):
        TextureConfig({"gabor": 0.0})
