import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from scipy import ndimage

from diffusion.losses.time_weights import (
    TIME_POLICIES,
    ConstantWeights,
    FilmWeights,
    MinSnrWeights,
    SnrWeights,
    StepAwareMask,
    UncertaintyWeights,
    signal_to_noise,
    weights_over_time,
)
from diffusion.process import TARGETS, alphas_of, training_scheduler, x0_slope

SCHEDULER = DDPMScheduler(num_train_timesteps=200, beta_schedule="squaredcos_cap_v2")
ALPHAS = SCHEDULER.alphas_cumprod
T = torch.arange(200)
every_policy = pytest.mark.parametrize("name", TIME_POLICIES)


@every_policy
def test_policy_gives_one_finite_non_negative_weight_per_loss_and_sample(name):
    policy = TIME_POLICIES[name](("gabor", "cooccurrence"))
    weights = policy(torch.tensor([0, 57, 199]), ALPHAS)
    assert list(weights) == ["structure", "gabor", "cooccurrence"]
    for weight in weights.values():
        assert weight.shape == (3,)
        assert weight.dtype == torch.float32
        assert torch.isfinite(weight).all()
        assert (weight >= 0).all()


@every_policy
def test_policy_survives_a_schedule_that_ends_in_pure_noise_and_starts_clean(name):
    weights = TIME_POLICIES[name]()(torch.tensor([0, 1, 2]), torch.tensor([1.0, 0.5, 0.0]))
    assert all(torch.isfinite(weight).all() for weight in weights.values())


@every_policy
def test_float_times_are_refused(name):
    with pytest.raises(ValueError, match="expected integers"):
        TIME_POLICIES[name]()(torch.tensor([0.1, 0.5]), ALPHAS)


@every_policy
def test_learned_parameters_survive_a_checkpoint_and_get_gradients(name):
    policy = TIME_POLICIES[name]()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3)
    restored = TIME_POLICIES[name]()
    restored.load_state_dict(policy.state_dict())
    before, after = (p(T, ALPHAS) for p in (policy, restored))
    assert all(torch.equal(before[k], after[k]) for k in before)
    if list(policy.parameters()):
        (sum((k + 1) * w.mean() for k, w in enumerate(before.values())) + policy.penalty()).backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in policy.parameters())
    assert bool(list(policy.parameters())) == (name in ("film", "uncertainty"))


def test_signal_to_noise_equals_diffusers():
    torch.testing.assert_close(signal_to_noise(T, ALPHAS), compute_snr(SCHEDULER, T))


def test_snr_weight_is_equations_1_and_2_and_falls_from_clean_to_noisy():
    weights = SnrWeights()(T, ALPHAS)
    torch.testing.assert_close(weights["texture"], ALPHAS, atol=1e-6, rtol=1e-5)  # SNR / (SNR + 1) = ᾱ
    assert (weights["texture"].diff() < 0).all()
    assert weights["texture"][0] > 0.99
    assert (weights["structure"] == 1).all()
    SNR = ALPHAS / (1 - ALPHAS + 0.5)
    torch.testing.assert_close(SnrWeights(eps=0.5)(T, ALPHAS)["texture"], SNR / (SNR + 1))


def test_constant_counts_texture_fully_at_every_t_unless_gated():
    assert (ConstantWeights()(T, ALPHAS)["texture"] == 1).all()
    gated = ConstantWeights(gate=0.25)(T, ALPHAS)
    assert gated["texture"].tolist() == [1.0] * 50 + [0.0] * 150
    assert (gated["structure"] == 1).all()


@every_policy
def test_above_its_gate_a_policy_weighs_as_if_there_were_no_texture_loss(name):
    gated = TIME_POLICIES[name](("gabor",), gate=0.25)
    alone, ungated = TIME_POLICIES[name](()), TIME_POLICIES[name](("gabor",))
    with torch.no_grad():
        for policy in (gated, ungated):
            for parameter in policy.parameters():
                parameter.copy_(torch.linspace(-0.4, 0.9, parameter.numel()).view_as(parameter))
        if name == "uncertainty":
            alone.log_variance.copy_(gated.log_variance[:1])
    weights = gated(T, ALPHAS)
    assert torch.equal(weights["structure"][50:], alone(T, ALPHAS)["structure"][50:])
    assert not weights["gabor"][50:].any()
    for loss, weight in ungated(T, ALPHAS).items():
        assert torch.equal(weights[loss][:50], weight[:50])


@pytest.mark.parametrize(("prediction_type", "divisor"), [("epsilon", 0.0), ("v_prediction", 1.0), ("sample", None)])
def test_min_snr_weight_is_that_of_the_diffusers_training_scripts(prediction_type, divisor):
    weights = MinSnrWeights(gamma=5.0, prediction_type=prediction_type)(T, ALPHAS)
    snr = compute_snr(SCHEDULER, T)
    expected = torch.stack([snr, torch.full_like(snr, 5.0)], dim=1).min(dim=1)[0]
    if divisor is not None:
        expected = expected / (snr + divisor)
    torch.testing.assert_close(weights["structure"], expected)
    assert weights["texture"].max() == 1
    assert weights["texture"][-1] < 1e-3


def test_min_snr_weighs_the_same_error_of_x0_whatever_is_predicted():
    """Moving x̂0 by δ moves the output by δ / slope: the weighted squared error is min(SNR, γ) δ² for every target."""
    for target, kind in TARGETS.items():
        scheduler = training_scheduler(target)
        rows = torch.tensor([3, 200, 700, 990])
        alphas = alphas_of(scheduler)
        weight = MinSnrWeights(gamma=5.0, prediction_type=kind)(rows, alphas)["structure"]
        expected = signal_to_noise(rows, alphas).clamp(max=5.0)
        torch.testing.assert_close(weight / x0_slope(scheduler, rows) ** 2, expected, rtol=1e-2, atol=0)


def test_film_weights_are_equations_3_and_4():
    film = FilmWeights(hidden=8)
    start = film(T, ALPHAS)
    assert (start["texture"] == 0.5).all()
    with torch.no_grad():
        film.g[2].bias.copy_(torch.tensor([-6.0, 2.0]))  # γ(t) = -6, β(t) = 2
    weights = film(T, ALPHAS)
    torch.testing.assert_close(weights["texture"], torch.sigmoid(-6 * T / 200 + 2))
    torch.testing.assert_close(weights["structure"], 1 - weights["texture"])


def test_film_can_learn_a_late_gate_from_the_losses():
    """Structure is the smaller loss early and texture the smaller one late, so descent gives each its half."""
    torch.manual_seed(0)
    film = FilmWeights()
    optimizer = torch.optim.Adam(film.parameters(), lr=0.02)
    losses = {"structure": torch.where(T < 100, 1.0, 0.1), "texture": torch.where(T < 100, 0.1, 1.0)}
    for _ in range(150):
        optimizer.zero_grad()
        weights = film(T, ALPHAS)
        sum((weights[k] * losses[k]).mean() for k in losses).backward()
        optimizer.step()
    texture = film(T, ALPHAS)["texture"]
    assert texture[:60].min() > 0.8
    assert texture[140:].max() < 0.2


def test_uncertainty_weights_are_equation_5_and_settle_where_sigma_squared_is_the_loss():
    policy = UncertaintyWeights(("gabor", "dog"))
    losses = {"structure": 4.0, "gabor": 0.01, "dog": 1.0}
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        weights = policy(torch.tensor([3, 150]), ALPHAS)
        total = sum((weights[k] * losses[k]).mean() for k in losses) + policy.penalty()
        total.backward()
        optimizer.step()
    sigma_squared = policy.log_variance.exp()
    torch.testing.assert_close(sigma_squared, torch.tensor(list(losses.values())), rtol=1e-2, atol=0)
    expected = sum(v / (2 * s) + 0.5 * s.log() for v, s in zip(losses.values(), sigma_squared, strict=True))
    torch.testing.assert_close(total, expected, rtol=1e-3, atol=1e-3)


def test_uncertainty_penalty_counts_only_samples_for_which_a_loss_was_computed():
    policy = UncertaintyWeights(("gabor",))
    with torch.no_grad():
        policy.log_variance.copy_(torch.tensor([1.0, 2.0]))
    assert policy.penalty().item() == pytest.approx(1.5)
    assert policy.penalty(torch.tensor([True, False, False, False])).item() == pytest.approx(0.75)


def test_step_aware_mask_is_eroded_in_the_noisier_half_only():
    rng = np.random.default_rng(0)
    solid = ndimage.binary_dilation(rng.random((9, 12, 10)) < 0.01, iterations=3)
    mask = torch.from_numpy(solid)[None, None].expand(3, -1, -1, -1, -1).float()
    eroded = StepAwareMask(erosion=1).supervised_mask(mask, torch.tensor([99, 100, 199]), ALPHAS)
    expected = ndimage.binary_erosion(solid, np.ones((3, 3, 3)), border_value=1)
    assert 0 < expected.sum() < solid.sum()
    assert torch.equal(eroded[0], mask[0])
    for late_t in (1, 2):
        np.testing.assert_array_equal(eroded[late_t, 0].numpy(), expected)


def test_step_aware_mask_keeps_a_nodule_that_erosion_would_empty_and_the_masks_type():
    mask = torch.zeros(2, 1, 6, 7, 8, dtype=torch.uint8)
    mask[0, 0, 2:4, 2:4, 2:4] = 1
    mask[1, 0, 1:5, 1:6, 1:6] = 1
    eroded = StepAwareMask().supervised_mask(mask, torch.tensor([199, 199]), ALPHAS)
    assert eroded.dtype == torch.uint8
    assert torch.equal(eroded[0], mask[0])
    assert eroded[1].sum() == 2 * 3 * 3


def test_step_aware_region_drops_exactly_the_rim_where_a_cell_is_a_voxel():
    mask = torch.zeros(1, 1, 12, 11, 13)
    mask[..., 3:9, 3:8, 4:10] = 1
    inner = torch.zeros_like(mask)
    inner[..., 4:8, 4:7, 5:9] = 1
    early = StepAwareMask(background_weight=0.2).region(mask, torch.tensor([199]), ALPHAS, 1)
    assert (early[inner > 0] == 1).all()
    assert not early[(mask > 0) & (inner == 0)].any()
    assert (early[mask == 0] > 0).all()
    assert (early[..., 0, 0, 0] == 0.2).all()


def test_step_aware_cell_counts_by_the_share_of_its_lesion_voxels_that_is_left():
    mask = torch.zeros(1, 1, 16, 16, 16)
    mask[..., 3:13, 3:13, 3:13] = 1  # reaches one voxel into the outer cells
    early, late = (StepAwareMask().region(mask, torch.tensor([t]), ALPHAS, 4)[0, 0] for t in (199, 0))
    assert (late == 1).all()
    assert not early[0].any() and not early[:, 0].any() and not early[:, :, -1].any()
    assert (early[1:3, 1:3, 1:3] == 1).all()


@every_policy
def test_plan_gives_every_policy_one_region_without_padding(name):
    lesion_mask = torch.zeros(1, 1, 24, 28, 32)
    lesion_mask[..., 9:15, 12:18, 12:20] = 1
    valid_mask = torch.ones_like(lesion_mask)
    valid_mask[:, :, :5] = 0  # a quarter of the second layer of cells is cut, too
    plan = TIME_POLICIES[name](("gabor",), gate=0.5, background_weight=0.3).plan(
        torch.tensor([40]), ALPHAS, lesion_mask, valid_mask, 4
    )
    assert plan.late.tolist() == [True]
    assert plan.cells.shape == (1, 1, 6, 7, 8)
    assert not plan.cells[:, :, :1].any()
    full = TIME_POLICIES[name](("gabor",), gate=0.5, background_weight=0.3).plan(
        torch.tensor([40]), ALPHAS, lesion_mask, torch.ones_like(valid_mask), 4
    )
    assert torch.allclose(plan.cells[:, :, 1], 0.75 * full.cells[:, :, 1])
    assert set(plan.cells[:, :, 2:].unique().tolist()) == {torch.tensor(0.3).item(), 1.0}


def test_weights_over_time_covers_both_ends():
    curve = weights_over_time(ConstantWeights(gate=0.3), ALPHAS, points=5)
    assert curve["texture"].tolist() == [1, 1, 0, 0, 0]
    assert weights_over_time(SnrWeights(), ALPHAS)["texture"].shape == (200,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConstantWeights(gate=0.0), "gate"),
        (lambda: FilmWeights(gate=1.5), "gate"),
        (lambda: SnrWeights(background_weight=-0.1), "background_weight"),
        (lambda: MinSnrWeights(gamma=0.0), "gamma"),
        (lambda: MinSnrWeights(prediction_type="x0"), "prediction_type"),
        (lambda: StepAwareMask(erosion=0), "erosion"),
    ],
)
def test_options_out_of_range_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
